"""Functions of a user's Python file that the model may call, each call after a question.

Loading the file runs it, as `python FILE` would: whose code it is is the user's own to know.
"""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from lorakit.chat.calls import ToolCall
from lorakit.chat.functions import Callee, Tool, callees_of
from lorakit.cli.output import read_line, say, say_folded
from lorakit.errors import FormatError, ParameterError
from lorakit.files.bounded import read_text
from lorakit.values import shown

SUFFIX = ".py"
QUESTION = "run {}? y(es), n(o), a(lways {}), or why not: "
YES, NO, ALWAYS = ("y", "yes"), ("", "n", "no"), ("a", "always")
NOBODY = "nobody is here to allow this call"
UNASKED = "--allow-tools runs them without asking"


@dataclass(slots=True, kw_only=True)
class Functions:
    """What may be called. declare: whether the prompt says what there is. all: whether each call
    runs unasked; allowed: the names of those that do. asked: whether somebody can be asked.
    several: whether the reply has more calls than one, so that a question says of which it is."""

    callees: dict[str, Callee]
    tools: Sequence[Callable[..., Any] | Tool]
    declare: bool = True
    all: bool = False
    asked: bool = field(default_factory=lambda: sys.stdin.isatty())
    allowed: set[str] = field(default_factory=set)
    told: bool = False
    several: bool = False

    @property
    def declarations(self) -> list[dict[str, Any]] | None:
        """As OpenAI function objects; None where the prompt is not to have them."""
        return [dict(each.declaration) for each in self.callees.values()] if self.declare else None

    def approve(self, call: ToolCall) -> bool | str:
        """Whether a call may run, or why not: what is typed that is neither yes nor no."""
        if self.all or call.name in self.allowed:
            return True
        if not self.asked:
            if not self.told:
                say_folded(f"  ({NOBODY}; {UNASKED})", "dim")
            self.told = True
            return NOBODY
        if self.several:
            say((str(call), "cyan"))
        try:
            answer = read_line(QUESTION.format(call.name, call.name)).strip()
        except EOFError:
            return False
        if answer.lower() in ALWAYS:
            self.allowed.add(call.name)
        known = {**dict.fromkeys((*YES, *ALWAYS), True), **dict.fromkeys(NO, False)}
        return known.get(answer.lower(), answer)


def read_functions(path: Path, *, declare: bool = True, all: bool = False) -> Functions:
    """Run a Python file, and take its functions: those that `__all__` names, else all of its own
    whose names do not begin with an underscore, and every lorakit.Tool.

    Raises SourceError, and FormatError with the line where the file is at fault.
    """
    module = _run(path)
    tools = _named(module, path) if "__all__" in vars(module) else _public(module)
    if not tools:
        raise FormatError(
            f"{path} defines no function that the model could call",
            hint="define one with annotated parameters, or name those it imports in __all__",
        )
    try:
        callees = callees_of(tools)
    except ParameterError as error:
        items = [_placed(item, tools) for item in error.items]
        raise FormatError(f"{path}: {error.message}", items=items, hint=error.hint) from error
    return Functions(callees=callees, tools=tools, declare=declare, all=all)


def _run(path: Path) -> ModuleType:
    source = read_text(path)
    module = ModuleType(f"lorakit_tools_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where dataclasses look for what annotations name
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)  # last, so that no file beside it hides a module
    try:
        exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
    except SyntaxError as error:
        place = f"{error.filename or path}, line {error.lineno or 1}"
        raise FormatError(f"{place}: {error.msg}", hint=_HINT) from error
    except (Exception, SystemExit) as error:  # of the user's own code
        lines = [
            at.lineno
            for at in traceback.extract_tb(error.__traceback__)
            if at.filename == str(path)
        ]
        place = f"{path}, line {lines[-1]}" if lines else str(path)
        raise FormatError(f"{place}: {type(error).__name__}: {error}", hint=_HINT) from error
    return module


_HINT = "the file is run as Python, and its functions are the tools"


def _named(module: ModuleType, path: Path) -> list[Callable[..., Any] | Tool]:
    names, known = vars(module)["__all__"], vars(module)
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise FormatError(
            f"{path}: __all__ is a list of names, not {shown(names)}",
            hint='__all__ = ["set_lights"] names a function',
        )
    if missing := [name for name in names if name not in known]:
        raise FormatError(f"{path}: __all__ names what is not there", items=missing)
    return [known[name] for name in names]


def _public(module: ModuleType) -> list[Callable[..., Any] | Tool]:
    return [
        value
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (
            isinstance(value, Tool)
            or (inspect.isfunction(value) and value.__module__ == module.__name__)
        )
    ]


def _placed(item: str, tools: Sequence[Callable[..., Any] | Tool]) -> str:
    """A fault with the line of the function that it names."""
    for tool in tools:
        function = inspect.unwrap(tool.function if isinstance(tool, Tool) else tool)
        name, code = getattr(function, "__name__", ""), getattr(function, "__code__", None)
        if code is not None and item.startswith(f"{name}:"):
            return f"line {code.co_firstlineno}: {item}"
    return item
