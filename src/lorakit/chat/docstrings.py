"""What a docstring says of a function and of each of its parameters.

Three styles are read: Google's ("Args:" with indented entries), NumPy's ("Parameters" underlined)
and reST's (":param name: text"). It knows no types: those come from annotations.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_PARAMETERS = {
    "args", "arguments", "parameters", "params", "attributes", "other parameters", "keyword args",
    "keyword arguments",
}  # fmt: skip
_SECTIONS = _PARAMETERS | {
    "returns", "return", "yields", "yield", "receives", "raises", "raise", "warns", "warnings",
    "note", "notes", "example", "examples", "references", "see also", "methods",
}  # fmt: skip
_GOOGLE = re.compile(r"(?P<name>[A-Za-z ]+):\s*$")
_ENTRY = re.compile(
    r"\*{0,2}(?P<name>\w+)\s*(?:\([^()]*(?:\([^()]*\)[^()]*)*\))?\s*:\s*(?P<text>.*)"
)
_NUMPY = re.compile(r"\*{0,2}(?P<names>\w+(?:\s*,\s*\*{0,2}\w+)*)\s*(?::.*)?$")
_REST = re.compile(r":(?P<kind>\w+)(?P<about>(?:\s+[^:]*)?):\s*(?P<text>.*)$")
_REST_PARAMETERS = {"param", "parameter", "arg", "argument", "key", "keyword"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A docstring taken apart. text: what the function does, up to its first section, a blank
    line between paragraphs; parameters: what each is, on one line."""

    text: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)


def described(docstring: str | None) -> Described:
    """Take a docstring apart, in time linear in its length. Never raises."""
    lines = inspect.cleandoc(docstring or "").splitlines()
    body = _Body()
    index = 0
    while index < len(lines):
        index = body.section(lines, index) or body.line(lines, index)
    text = "\n".join(body.text).strip()
    parameters = {name: said for name, parts in body.found.items() if (said := _joined(parts))}
    return Described(text=text, parameters=parameters)


class _Body:
    """What was read so far."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.found: dict[str, list[str]] = {}
        self.ended = False  # whether a section began: what follows is no description

    def line(self, lines: list[str], index: int) -> int:
        """A line outside every section, a reST field with its further lines. The next index."""
        field_line = _REST.match(lines[index])
        if field_line is None:
            if not self.ended:
                self.text.append(lines[index].rstrip())
            return index + 1
        self.ended = True
        end = _indented(lines, index + 1)
        if field_line["kind"] in _REST_PARAMETERS and field_line["about"].split():
            name = field_line["about"].split()[-1].lstrip("*")
            self.found[name] = [field_line["text"], *lines[index + 1 : end]]
        return end

    def section(self, lines: list[str], index: int) -> int:
        """A Google or NumPy section that begins here, and where it ends; 0 where none begins."""
        title = lines[index].strip().lower()
        if title in _SECTIONS and _is_rule(lines, index + 1):
            end = _numpy_end(lines, index + 2)
            read = _numpy_entries
            begin = index + 2
        elif (google := _GOOGLE.match(lines[index])) and google["name"].lower() in _SECTIONS:
            title = google["name"].lower()
            begin, end = index + 1, _indented(lines, index + 1)
            read = _google_entries
        else:
            return 0
        self.ended = True
        if title in _PARAMETERS:
            for names, parts in read(lines[begin:end]):
                self.found.update(dict.fromkeys(names, parts))
        return end


def _google_entries(lines: list[str]) -> Iterable[tuple[list[str], list[str]]]:
    """ "name (type): text", each further line of an entry indented more."""
    margin = min((_margin(line) for line in lines if line.strip()), default=0)
    names: list[str] = []
    parts: list[str] = []
    for line in lines:
        entry = _ENTRY.match(line.strip()) if _margin(line) == margin else None
        if entry is not None:
            if names:
                yield names, parts
            names, parts = [entry["name"]], [entry["text"]]
        else:
            parts.append(line)
    if names:
        yield names, parts


def _numpy_entries(lines: list[str]) -> Iterable[tuple[list[str], list[str]]]:
    """ "name : type", its text indented below."""
    names: list[str] = []
    parts: list[str] = []
    for line in lines:
        entry = _NUMPY.match(line.rstrip()) if line[:1].strip() else None
        if entry is not None:
            if names:
                yield names, parts
            names = [name.strip().lstrip("*") for name in entry["names"].split(",")]
            parts = []
        else:
            parts.append(line)
    if names:
        yield names, parts


def _numpy_end(lines: list[str], index: int) -> int:
    """Where the next underlined title stands, or the end."""
    while index < len(lines) and not (lines[index].strip() and _is_rule(lines, index + 1)):
        index += 1
    return index


def _indented(lines: list[str], index: int) -> int:
    """Where the lines from here on are no longer indented; blank ones between count."""
    end = index
    while index < len(lines) and (not lines[index].strip() or _margin(lines[index])):
        index += 1
        if lines[index - 1].strip():
            end = index
    return end


def _is_rule(lines: list[str], index: int) -> bool:
    return index < len(lines) and len(lines[index].strip()) > 2 and not lines[index].strip("- ")


def _margin(line: str) -> int:
    return len(line) - len(line.lstrip())


def _joined(parts: list[str]) -> str:
    """One line of all words."""
    return " ".join(" ".join(parts).split())
