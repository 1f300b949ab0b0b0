"""An extension of griffe: our docstrings, which are prose, as Markdown that reads well.

A docstring names parameters and fields as it goes ("prompt: text, or token ids. timeout: in
seconds."). On the site each begins a line of a list, and so does what is raised. What a field's
comment says is its description. Square brackets are text and no links.
"""

import re
from collections.abc import Iterator
from functools import partial

import griffe

CODE = re.compile(r"(`[^`]*`)")
COMMENT = re.compile(r"\s{2}# (?!type:|noqa)(.+)$")


class Prose(griffe.Extension):
    """Rewrites the docstrings of a package once all of it is loaded."""

    def on_package(self, *, pkg: griffe.Module, **_: object) -> None:
        if pkg.name != "lorakit":
            return
        errors = {name for name in pkg["errors"].members if name.endswith("Error")}
        for object_ in _all(pkg):
            if object_.is_attribute and object_.docstring is None:
                _describe(object_)
            if object_.docstring is not None:
                object_.docstring.value = _markdown(
                    object_.docstring.value, _names(object_), errors
                )


def _all(parent: griffe.Object) -> Iterator[griffe.Object]:
    yield parent
    for member in parent.members.values():
        if not member.is_alias:
            yield from _all(member)


def _describe(attribute: griffe.Object) -> None:
    """Take the comment behind a field as its description."""
    found = COMMENT.search(attribute.source.splitlines()[0]) if attribute.source else None
    if found:
        attribute.docstring = griffe.Docstring(found[1][0].upper() + found[1][1:], parent=attribute)


def _names(object_: griffe.Object) -> set[str]:
    """What a docstring may describe: parameters, or fields and those of the constructor."""
    if object_.is_function:
        return {parameter.name.lstrip("*") for parameter in object_.parameters}
    if object_.is_class:
        init = object_.members.get("__init__")
        return {*object_.members, *(_names(init) if init and init.is_function else ())}
    return set()


def _markdown(text: str, names: set[str], errors: set[str]) -> str:
    paragraphs = re.split(r"\n\s*\n", text)
    said = "\n\n".join(p if p.startswith("    ") else _paragraph(p, names) for p in paragraphs)
    return re.sub(r"(?<=Raises )[^.]+", partial(_linked, errors), said)


def _linked(errors: set[str], raised: re.Match[str]) -> str:
    """The names of errors as links to them."""
    return re.sub(
        r"\b\w+Error\b",
        lambda found: (
            f"[{found[0]}][lorakit.errors.{found[0]}]" if found[0] in errors else found[0]
        ),
        raised[0],
    )


def _paragraph(text: str, names: set[str]) -> str:
    """A paragraph, with a list of what it describes, and what is raised on a line of its own."""
    known = "|".join(map(re.escape, names)) or r"(?!)"
    words = rf"(?:{known})(?:(?:, | and )(?:{known}))*:"
    line = " ".join(text.split())
    parts = re.split(rf"(?:^|(?<=[.;)]) )(?={words} )|(?<=[.)]) (?=Raises [A-Z])", line)
    lines = [_text(re.sub(";$", ".", part.strip())) for part in parts if part.strip()]
    items = [re.sub(rf"^({words}) ", r"- **\1** ", line) for line in lines]
    return "\n\n".join(items)


def _text(text: str) -> str:
    """Square brackets outside of code, as they are."""
    return "".join(
        part if part.startswith("`") else part.replace("[", r"\[") for part in CODE.split(text)
    )
