"""Every command with its options and what may stand behind each, as completion needs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorakit.cli.usage import Parser


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """names: short and long. values: all that may follow. files: whether a path may.

    flag: nothing follows.
    """

    names: tuple[str, ...]
    help: str
    values: tuple[str, ...] = ()
    files: bool = False
    flag: bool = False

    @property
    def short(self) -> tuple[str, ...]:
        return tuple(name for name in self.names if not name.startswith("--"))

    @property
    def long(self) -> tuple[str, ...]:
        return tuple(name for name in self.names if name.startswith("--"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A command, or a word before commands. words: its name, such as "cache list"; "" is lorakit.

    inner: the commands behind it, with a line about each. values: what its arguments may be, where
    that can be listed.
    """

    words: str
    options: tuple[Option, ...]
    inner: Mapping[str, str]
    values: tuple[str, ...] = ()


def entry(words: str, parser: Parser, inner: Mapping[str, str] | None = None) -> Entry:
    """What a parser takes."""
    actions = parser._actions
    listed = [a.choices for a in actions if not a.option_strings and a.choices]
    return Entry(
        words=words,
        options=tuple(_option(action) for action in actions if action.option_strings),
        inner=inner or {},
        values=tuple(str(value) for values in listed for value in values),
    )


def _option(action: Any) -> Option:
    kind = getattr(getattr(action.type, "__self__", None), "kind", None)
    return Option(
        names=tuple(action.option_strings),
        help=_line(action.help or ""),
        values=tuple(map(str, action.choices or ())),
        files=kind in (str, Path),
        flag=action.nargs == 0,
    )


def _line(help: str) -> str:
    """The first sentence, without what argparse would read in it."""
    text = " ".join(help.replace("%%", "%").split())
    return text.partition(". ")[0].partition(" [")[0].rstrip(".")
