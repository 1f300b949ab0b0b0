"""A completion script for zsh 5 and later."""

from __future__ import annotations

from collections.abc import Sequence

from lorakit.cli.completing.table import Entry, Option

_SCRIPT = """\
#compdef lorakit
# zsh completion of lorakit; `source <(lorakit completion zsh)` after compinit, or save it as
# _lorakit in a folder of $fpath
_lorakit() {{
    local at="" word last=1 i
    for ((i = 2; i < CURRENT; i++)); do
        word="$words[i]"
        case "$at/$word" in
{steps}
        esac
    done
    words=("lorakit" "${{(@)words[last+1,-1]}}")
    (( CURRENT -= last - 1 ))
    case "$at" in
{commands}
    esac
}}
if [[ "$funcstack[1]" = _lorakit ]]; then _lorakit "$@"; else compdef _lorakit lorakit; fi
"""


def script(entries: Sequence[Entry]) -> str:
    """The script: which command it is, then its own arguments as the only ones."""
    steps = [
        f"            {_quoted(f'{each.words}/{word}')}) "
        f"at={_quoted(f'{each.words} {word}'.strip())} last=$i ;;"
        for each in entries
        for word in each.inner
    ]
    return _SCRIPT.format(steps="\n".join(steps), commands="\n".join(map(_arguments, entries)))


def _arguments(entry: Entry) -> str:
    """One call of _arguments: the options, then commands, values or files."""
    specs = [spec for option in entry.options for spec in _option(option)]
    if entry.inner:
        pairs = " ".join(f"{word}\\:{_quoted(_plain(line))}" for word, line in entry.inner.items())
        specs.append(_quoted(f"1:command:(({pairs}))"))
    elif entry.values:
        specs.append(_quoted(f"*:value:({' '.join(entry.values)})"))
    else:
        specs.append(_quoted("*:file:_files"))
    lines = " \\\n            ".join(specs)
    return f"    {_quoted(entry.words)}) _arguments -s \\\n            {lines} ;;"


def _option(option: Option) -> list[str]:
    after = ""
    if not option.flag:
        what = f"({' '.join(option.values)})" if option.values else "_files" * option.files
        after = f":value:{what or ' '}"
    return [_quoted(f"*{name}[{_plain(option.help)}]{after}") for name in option.names]


def _plain(text: str) -> str:
    """Without what _arguments reads in a description."""
    for mark in "\\[]:":
        text = text.replace(mark, f"\\{mark}")
    return text.replace('"', "")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
