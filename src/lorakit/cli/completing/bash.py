"""A completion script for bash 3.2 and later."""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote

from lorakit.cli.completing.table import Entry

_SCRIPT = """\
# bash completion of lorakit; `source <(lorakit completion bash)`, or save it where bash-completion
# looks: ~/.local/share/bash-completion/completions/lorakit
_lorakit() {{
    local cur="${{COMP_WORDS[COMP_CWORD]}}" prev="${{COMP_WORDS[COMP_CWORD-1]}}"
    local at="" word i options="" words="" known
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        word="${{COMP_WORDS[i]}}"
        case "$at/$word" in
{steps}
        esac
    done
    case "$at/$prev" in
{values}
    esac
    if [[ -n "${{known+x}}" ]]; then
        COMPREPLY=($(compgen -W "$known" -- "$cur"))
        [[ -n "$known" ]] || compopt +o default 2>/dev/null
        return
    fi
    case "$at" in
{commands}
    esac
    [[ "$cur" == -* ]] && words="$options"
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
}}
complete -o default -F _lorakit lorakit
"""


def script(entries: Sequence[Entry]) -> str:
    """The script: which command it is, what may follow an option, and else its words or files."""
    steps, values, commands = [], [], []
    for each in entries:
        at = each.words
        steps += [
            f"        {quote(f'{at}/{word}')}) at={quote(f'{at} {word}'.strip())} ;;"
            for word in each.inner
        ]
        for option in each.options:
            if option.flag or option.files:
                continue
            names = "|".join(quote(f"{at}/{name}") for name in option.names)
            values.append(f"    {names}) known={quote(' '.join(option.values))} ;;")
        asked = " ".join(name for option in each.options for name in option.names)
        words = " ".join([*each.inner, *each.values])
        commands.append(f"    {quote(at)}) options={quote(asked)} words={quote(words)} ;;")
    return _SCRIPT.format(
        steps="\n".join(f"    {line}" for line in steps),
        values="\n".join(values),
        commands="\n".join(commands),
    )
