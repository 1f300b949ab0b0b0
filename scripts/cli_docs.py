"""Print docs/cli.md: the help of every command, as a terminal of 88 columns shows it.

python scripts/cli_docs.py > docs/cli.md
"""

from __future__ import annotations

import os
import subprocess
import sys

from lorakit.cli.table import functions


def places(words: str) -> list[str]:
    """A command, after the word before it, if it has one."""
    return [words.partition(" ")[0], words] if " " in words else [words]


COMMANDS = ("", *dict.fromkeys(part for words, _ in functions() for part in places(words)))


def main() -> None:
    print("# Command line\n")
    print("Exit codes: 0 done, 1 an error (or a check that failed), 2 wrong usage, 130 Ctrl-C.")
    print(
        "Errors are one line, `error [code]: ...`; `--json` prints them as JSON too, wrong usage as"
    )
    print("`parameter_invalid`, and")
    print(
        "`lorakit --debug COMMAND` shows the trace. Codes: [errors.md](errors.md). Nothing that is"
    )
    print("there is overwritten without `--overwrite`.")
    for command in COMMANDS:
        print(f"\n## lorakit {command}".rstrip() + f"\n\n```\n{help_of(command)}\n```")


def help_of(command: str) -> str:
    plain = {"COLUMNS": "88", "TERMINAL_WIDTH": "88", "NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run(
        [sys.executable, "-m", "lorakit", *command.split(), "--help"],
        capture_output=True,
        encoding="utf-8",
        check=True,
        env={**os.environ, **plain, "PYTHONIOENCODING": "utf-8"},
    )
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


if __name__ == "__main__":
    main()
