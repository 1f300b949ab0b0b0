"""Grammars that users write in llguidance's Lark dialect: looked through before it reads them.

llguidance follows rules that lead to each other, and `$ref` in schemas, by recursion: some thousand
of them overflow its stack, which would end the process. So the longest way through the rules is
bounded here, and schemas within a grammar are walked as all others are.
"""

from __future__ import annotations

import json
import re
from typing import Any

from lorakit.chat.constraints.gbnf_limits import MAX_LEFT, components
from lorakit.chat.constraints.lark import json_text
from lorakit.chat.constraints.walking import walk
from lorakit.errors import ParameterError

MAX_TEXT = 1 << 18  # characters
_PART = re.compile(
    r"""(?P<quiet>"(?:\\.|[^"\\])*"i?|/(?!/)(?:\\.|[^/\\\n])+/[a-z]*|(?://|\#)[^\n]*)"""
    r"""|(?P<json>%json\b)|(?P<other>%(?:regex|llguidance|lark)\b)|(?P<name>[A-Za-z_][\w-]*)"""
    r"""|(?P<colon>:)|(?P<options>\[[^\]\n]*\])|(?P<rest>.)""",
    re.DOTALL,
)
_DECODER = json.JSONDecoder()
_GUIDANCE = ("item_separator", "key_separator", "whitespace_flexible", "whitespace_pattern")


def checked_lark(text: str) -> str:
    """The grammar with its schemas rewritten. Raises ParameterError for what is beyond a limit."""
    if len(text) > MAX_TEXT:
        raise _refused(f"{len(text)} characters; the limit is {MAX_TEXT}")
    written: list[str] = []
    names: list[str] = []  # since the last colon
    rules: dict[str, list[str]] = {}
    rule: str | None = None
    at = 0
    while at < len(text):
        found = _PART.match(text, at)
        assert found is not None  # `rest` is any character
        kind, at = found.lastgroup, found.end()
        if kind == "json":
            schema, at = _schema(text, at)
            written.append(schema)
            continue
        if kind == "name":
            names.append(found[0])
        if kind == "colon" and names:
            if rule is not None:
                rules.setdefault(rule, []).extend(names[:-1])
            rule, names = names[-1], []
        written.append(found[0])
    if rule is not None:
        rules.setdefault(rule, []).extend(names)
    _require_shallow(rules)
    return "".join(written)


def _schema(text: str, at: int) -> tuple[str, int]:
    """A schema that stands at a position, walked and written again, and where it ends."""
    while at < len(text) and text[at].isspace():
        at += 1
    try:
        schema, end = _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError) as error:
        raise _refused(f"what follows %json is no JSON: {error}") from error
    how: dict[str, Any] = {}
    if isinstance(schema, dict):
        said = schema.pop("x-guidance", {})
        if not isinstance(said, dict) or not said.keys() <= {*_GUIDANCE}:
            raise _refused(f"x-guidance within %json takes {', '.join(_GUIDANCE)}")
        how = said
    return json_text(walk(schema, "%json"), **how), end


def _require_shallow(rules: dict[str, list[str]]) -> None:
    """Raise ParameterError where rules lead too deep into each other."""
    numbers = {name: number for number, name in enumerate(rules)}
    graph = {
        numbers[name]: [numbers[inner] for inner in dict.fromkeys(body) if inner in numbers]
        for name, body in rules.items()
    }
    depth: dict[int, int] = {}
    for group in components(graph):
        below = (depth.get(inner, 0) for rule in group for inner in graph[rule])
        deep = len(group) + max(below, default=0)
        if deep > MAX_LEFT:
            raise _refused(f"more than {MAX_LEFT} rules lead to each other")
        depth |= dict.fromkeys(group, deep)


def _refused(why: str) -> ParameterError:
    return ParameterError(
        "the grammar cannot be enforced",
        items=[why],
        hint='a rule named start, such as: start: "yes" | "no"',
    )
