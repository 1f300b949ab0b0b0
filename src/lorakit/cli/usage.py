"""Parsers that say what was meant: close options and choices, and wrong usage as JSON for programs.

Wrong usage ends a process with 2. argparse finds it; here is how it is told.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from lorakit.cli.hints import did_you_mean
from lorakit.cli.output import plain, print_error_json
from lorakit.errors import ParameterError

_UNKNOWN = re.compile(r"unrecognized arguments: (?P<words>.*)", re.DOTALL)
ELSEWHERE = {  # options of Ollama, llm and llama.cpp, where they are not spelled as here
    "--attachment": "--image",
    "--ctx-size": "--context",
    "--format": "--json-schema",
    "--lora": "--adapter",
    "--n-gpu-layers": "--gpu-layers",
    "--n-predict": "--max-tokens",
    "--num-ctx": "--context",
    "--num-predict": "--max-tokens",
    "--repeat-penalty": "--repetition-penalty",
    "--schema": "--json-schema",
    "-c": "--context",
    "-m": "--model",
    "-n": "--max-tokens",
    "-ngl": "--gpu-layers",
    "-s": "--system",
}


def require_used(given: Mapping[str, tuple[object, bool]], where: str) -> None:
    """Refuse options that would be ignored. given: by flag, the value and whether it acts.

    A value that says nothing is None or False. Raises ParameterError.
    """
    said = [
        flag
        for flag, (value, acts) in given.items()
        if value is not None and value is not False and not acts
    ]
    if said:
        raise ParameterError(
            f"{' and '.join(said)} would be ignored: {where} does nothing with it",
            hint="leave it out",
        )


class Parser(argparse.ArgumentParser):
    """A parser of one command. asked: the words that it reads, once it does."""

    asked: Sequence[str] = ()

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.instead: dict[str, Mapping[str, str]] = {}  # by parameter: a value, and what has it

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """The same sentence under every Python, with what is close."""
        if action.choices is None or value in action.choices:
            return
        said = f"invalid choice: {value!r} (choose from {', '.join(action.choices)})"
        instead = self.instead.get(action.dest, {}).get(value)
        close = did_you_mean(str(value), action.choices)
        raise argparse.ArgumentError(action, f"{said}; {instead}" if instead else said + close)

    def error(self, message: str) -> NoReturn:
        """Wrong usage. With --json it is on standard output, too, as any error is."""
        found = _UNKNOWN.fullmatch(message)
        message = plain(message + (self._close(found["words"].split()) if found else ""))
        if "--json" in self.asked:
            usage = " ".join(self.format_usage().split())
            print_error_json(ParameterError(f"{self.prog}: {message}", hint=usage))
        super().error(message)

    def _close(self, words: Sequence[str]) -> str:
        """What options may be meant; of the first unknown one."""
        word = next((word for word in words if word.startswith("-")), "").partition("=")[0]
        known = [name for action in self._actions for name in action.option_strings]
        if ELSEWHERE.get(word) in known:
            return f"; did you mean {ELSEWHERE[word]}?"
        return did_you_mean(word, [name for name in known if name.startswith("--")])
