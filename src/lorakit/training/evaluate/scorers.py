"""Whether an answer in words is right: by its text, a pattern, or a function of the user's."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from lorakit.chat.calls import ParsedReply
from lorakit.errors import ParameterError
from lorakit.training.data import Example
from lorakit.training.evaluate.outcome import expected_text
from lorakit.values import real, shown

Scorer = Callable[[Example, ParsedReply], float]  # 1 and True are right, 0 and False wrong


def text_match(example: Example, reply: ParsedReply) -> float:
    """Whether the answer is the expected text, without the space around both."""
    return float(reply.text.strip() == expected_text(example).strip())


def matches(pattern: str) -> Scorer:
    """Whether a pattern is found in the answer's text. Raises ParameterError."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ParameterError(f"{shown(pattern)} is no regular expression: {error}") from error
    return lambda example, reply: float(compiled.search(reply.text) is not None)


def load_scorer(reference: str) -> Scorer:
    """A function of the user's: "FILE.py:FUNCTION" or "MODULE:FUNCTION".

    It is called with the Example and the ParsedReply, and returns whether the answer is right, or
    a score from 0 to 1. Importing it runs it. Raises ParameterError.
    """
    home, colon, name = reference.rpartition(":")
    if not (colon and home and name):
        raise ParameterError(
            f"{shown(reference)} names no function", hint="FILE.py:FUNCTION or MODULE:FUNCTION"
        )
    function = getattr(_imported(home), name, None)
    if not callable(function):
        raise ParameterError(f"{home} has no function {shown(name)}")
    return _checked(function, reference)


def _imported(home: str) -> ModuleType:
    try:
        if not home.endswith(".py"):
            return import_module(home)
        path = Path(home).expanduser()
        if not path.is_file():
            raise ParameterError(f"there is no file {home}")
        spec = spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
    except ParameterError:
        raise
    except Exception as error:  # whatever a file of the user's does when it is run
        raise ParameterError(
            f"the scorer {home} cannot be imported: {type(error).__name__}: {error}",
            hint="FILE.py:FUNCTION names a file, MODULE:FUNCTION a module that is installed",
        ) from error
    return module


def _checked(function: Callable[[Example, ParsedReply], object], name: str) -> Scorer:
    """The function, held to what it has to return."""

    def score(example: Example, reply: ParsedReply) -> float:
        try:
            found = function(example, reply)
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            raise ParameterError(f"the scorer {name} fails at {example.place}: {said}") from error
        if isinstance(found, bool):
            return float(found)
        if not (real(found) and 0 <= float(found) <= 1):  # type: ignore[arg-type]  # a number
            raise ParameterError(
                f"the scorer {name} gave {shown(found)} at {example.place}",
                hint="return True or False, or a number from 0 to 1",
            )
        return float(found)  # type: ignore[arg-type]  # a number

    return score
