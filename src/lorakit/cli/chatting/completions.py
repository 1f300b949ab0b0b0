"""What Tab offers in a chat: commands, loaded adapters, files, settings and their values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from lorakit.cli.chatting.commands import COMMANDS
from lorakit.cli.chatting.conversation import Chat
from lorakit.cli.chatting.settings import NAMES, values_of
from lorakit.cli.chatting.words import last_word, quoted

MOST = 200  # entries of a folder


def completions(chat: Chat, typed: str) -> Iterator[tuple[int, str]]:
    """What may stand at the end of what is typed: (characters that it replaces, the words)."""
    if not typed.startswith("/") or "\n" in typed:
        return
    name, space, rest = typed[1:].partition(" ")
    if not space:
        yield from ((len(name), f"{each} ") for each in _beginning(name, COMMANDS))
        return
    takes = COMMANDS[name].takes if name in COMMANDS else ""
    word, meant = last_word(rest)
    first = not rest[: len(rest) - len(word)].strip()
    offered: list[str] = []
    if first and "adapter" in takes:
        names = [info.name for info in chat.model.adapters]
        offered += [f"{quoted(each)} " for each in _beginning(meant, names)]
    if first and "path" in takes:
        offered += _paths(meant)
    if first and takes == "command":
        offered += _beginning(meant, COMMANDS)
    if takes == "setting":
        values = NAMES if first else values_of(rest.split()[0])
        offered += [f"{each} " if first else each for each in _beginning(meant, values)]
    yield from ((len(word), each) for each in offered)


def _beginning(word: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(word)]


def _paths(word: str) -> list[str]:
    """Entries of a folder, those with a dot only where one is typed."""
    folder, slash, begun = word.rpartition("/")
    try:
        entries = [
            entry
            for entry in Path(f"{folder}{slash}" or ".").expanduser().iterdir()
            if entry.name.startswith(begun) and (begun or not entry.name.startswith("."))
        ]
        return [
            quoted(f"{folder}{slash}{entry.name}{'/' if entry.is_dir() else ''}")
            for entry in sorted(entries)[:MOST]
        ]
    except (OSError, ValueError, RuntimeError):  # no such folder, no path at all, no home
        return []
