"""A completion script for fish 3 and later."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lorakit.cli.completing.table import Entry, Option

_HEAD = """\
# fish completion of lorakit; save it as ~/.config/fish/completions/lorakit.fish
function __lorakit_at
    set -l words (commandline -opc)
    set -l at ""
    for word in $words[2..-1]
        set -l path (string trim -- "$at $word")
        contains -- "$path" $__lorakit_paths; and set at "$path"
    end
    test "$at" = "$argv[1]"
end
set -g __lorakit_paths {paths}
complete -c lorakit -n "__lorakit_at ''" -f
"""


def script(entries: Sequence[Entry]) -> str:
    """The script: where the cursor is, then a line for each word that may stand there."""
    paths = " ".join(_quoted(each.words) for each in entries if each.words)
    lines = [line for each in entries for line in _lines(each)]
    return _HEAD.format(paths=paths) + "\n".join(lines) + "\n"


def _lines(entry: Entry) -> Iterator[str]:
    front = f'complete -c lorakit -n "__lorakit_at {_quoted(entry.words)}"'
    for word, about in entry.inner.items():
        yield f"{front} -f -a {_quoted(word)} -d {_quoted(about)}"
    if entry.values:
        yield f"{front} -f -a {_quoted(' '.join(entry.values))}"
    for option in entry.options:
        yield f"{front} {_option(option)}"


def _option(option: Option) -> str:
    names = [f"-s {name[1:]}" for name in option.short] + [f"-l {name[2:]}" for name in option.long]
    if option.values:
        names.append(f"-x -a {_quoted(' '.join(option.values))}")
    elif not option.flag:
        names.append("-r" if option.files else "-x")
    return " ".join([*names, f"-d {_quoted(option.help)}"])


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
