"""A bounded sandbox for chat templates, which are untrusted programs.

Jinja's ImmutableSandboxedEnvironment keeps a template from reaching Python's internals and from
changing its inputs; it does not keep it from running for ever or filling the memory. Here every
loop turn, macro, call, filter and test draws from a budget, every emitted character is counted,
and operations whose result can be far larger than their operands are checked beforehand. A budget
belongs to one render; the limits are counts, not seconds, so that they do not depend on the
machine, with a limit on the thread's CPU time behind them.

It knows nothing of messages.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import wraps
from typing import Any

import jinja2
from jinja2 import nodes, pass_eval_context
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_WORK = 3_000_000  # units: a loop turn, a call, 64 characters handled
MAX_EMITTED = 64 << 20  # characters written, into variables and macros too
MAX_VALUE = 16 << 20  # characters or items of one value
MAX_INTEGER = 4096  # bits
MAX_WIDTH = 100_000  # a width, count or indent given to a method or filter
MAX_CPU = 5.0  # seconds of the rendering thread


class LimitError(Exception):
    """The template needs more work, output or memory than a chat template may."""


class RefusalError(jinja2.TemplateError):
    """The template itself refused the conversation, by raise_exception."""


class Budget:
    """What one render may still use."""

    __slots__ = ("deadline", "emitted", "work")

    def __init__(self) -> None:
        self.work = MAX_WORK
        self.emitted = MAX_EMITTED
        self.deadline = time.thread_time() + MAX_CPU

    def spend(self, units: int) -> None:
        before = self.work >> 6
        self.work -= units
        if self.work < 0:
            raise LimitError(f"more than {MAX_WORK} steps of work")
        if self.work >> 6 != before and time.thread_time() > self.deadline:
            raise LimitError(f"more than {MAX_CPU:.0f} seconds of work")

    def emit(self, characters: int) -> None:
        self.spend(1 + (characters >> 6))
        self.emitted -= characters
        if self.emitted < 0:
            raise LimitError(f"more than {MAX_EMITTED} characters of output")


_budget: ContextVar[Budget] = ContextVar("budget")


@contextmanager
def budgeted() -> Iterator[None]:
    """A fresh budget for what runs inside, compilation included."""
    token = _budget.set(Budget())
    try:
        yield
    finally:
        _budget.reset(token)


def _weigh(value: object) -> None:
    """Charge for all that a value holds, shared parts as often as they occur."""
    budget, stack = _budget.get(), [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            budget.spend(1 + (len(item) >> 6))
        elif isinstance(item, Mapping):
            budget.spend(1 + len(item))
            stack.extend(item)
            stack.extend(item.values())
        elif isinstance(item, list | tuple):
            budget.spend(1 + len(item))
            stack.extend(item)


def _check_size(size: int) -> None:
    if size > MAX_VALUE:
        raise LimitError(f"a value of {size} characters or items; {MAX_VALUE} is the limit")
    _budget.get().spend(1 + (size >> 6))


def _check_format(pattern: str) -> None:
    """Refuse widths that a format string could blow up with, given or taken from arguments."""
    wide = re.search(r"\d{5}|\{[^{}]*:[^{}]*\{|%[^a-zA-Z%]{0,20}\*", pattern)
    if wide:
        raise LimitError("a format string with a very large or a variable width")


def _check_binary(operator: str, left: Any, right: Any) -> None:
    """Refuse what would grow far beyond its operands."""
    if operator == "%" and isinstance(left, str):
        _check_format(left)
        _weigh(right)
    elif isinstance(left, int) and isinstance(right, int):
        bits, power = left.bit_length(), right.bit_length()
        if (operator == "**" and bits * max(right, 1) > MAX_INTEGER) or (
            operator == "*" and bits + power > MAX_INTEGER
        ):
            raise LimitError(f"an integer of more than {MAX_INTEGER} bits")
    elif operator == "*":
        sequence, count = (left, right) if hasattr(left, "__len__") else (right, left)
        if hasattr(sequence, "__len__") and isinstance(count, int):
            _check_size(len(sequence) * max(count, 0))
    elif operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__"):
        _check_size(len(left) + len(right))


def _check_call(method: str, owner: Any, arguments: tuple[Any, ...]) -> None:
    """Before a method of a plain value, or a filter (the owner is then its first argument)."""
    for argument in arguments:
        if isinstance(argument, int) and abs(argument) > MAX_WIDTH:
            raise LimitError(f"{method} with a width or count of {argument}")
    if isinstance(owner, str):
        _budget.get().spend(1 + (len(owner) >> 6))
        if method == "format":
            _check_format(owner)
        elif method == "replace" and len(arguments) >= 2:
            old, new = str(arguments[0]), str(arguments[1])
            _check_size(len(owner) + owner.count(old) * len(new))
        elif method == "join" and arguments:
            _check_join(list(arguments[0]), owner)
        elif method == "expandtabs":
            _check_size(len(owner) + owner.count("\t") * int((*arguments, 8)[0]))
        elif method in ("indent", "wordwrap"):
            widths = [len(a) if isinstance(a, str) else a for a in arguments if a]
            _check_size(len(owner) + (owner.count("\n") + 1) * max([4, *map(int, widths)]))
    elif method == "join" and not isinstance(owner, Mapping):
        _check_join(list(owner), str(arguments[0]) if arguments else "")
    elif isinstance(owner, list | tuple | dict | range):
        _budget.get().spend(1 + len(owner))


def _check_join(items: list[Any], separator: str) -> None:
    _weigh(items)
    sizes = sum(len(item) if isinstance(item, str) else 0 for item in items)
    _check_size(sizes + len(separator) * len(items))


_CONSTANT_TIME = frozenset({"count", "d", "default", "first", "last", "length"})
_SHALLOW = frozenset({"attr", "batch", "items", "list", "lower", "map", "random", "reject"})
_SHALLOW |= {"rejectattr", "reverse", "select", "selectattr", "slice", "trim", "upper"}


def _materialized(value: Any) -> Any:
    """An iterator as a list, so that it can be measured before it is used."""
    return list(value) if isinstance(value, Iterator) else value


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter or test that draws from the budget; jinja's marks on the function are kept."""
    implicit = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        _budget.get().spend(1)
        if name in _CONSTANT_TIME:
            return function(*args, **kwargs)
        if name not in _SHALLOW:  # these look into their input's items too
            args = tuple(map(_materialized, args))
            _weigh([*args[implicit:], *kwargs.values()])
        if len(args) > implicit:
            _check_call(name, args[implicit], (*args[implicit + 1 :], *kwargs.values()))
        result = function(*args, **kwargs)
        if isinstance(result, str | list):
            _check_size(len(result))
        return result

    return guarded


class GenerationTag(Extension):
    """Accepts transformers' {% generation %} block, which marks what the assistant wrote."""

    tags = {"generation"}  # noqa: RUF012 - as the base class has it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Meter(NodeTransformer):
    """Puts the budget into a parsed template: loop turns, macros, literals, `~`, comparisons."""

    def __init__(self, environment: BoundedEnvironment) -> None:
        self.environment = environment

    def _call(self, name: str, arguments: list[nodes.Expr], line: int) -> nodes.Call:
        target = nodes.EnvironmentAttribute(name, lineno=line)
        call = nodes.Call(target, arguments, [], None, None, lineno=line)
        return call.set_environment(self.environment)  # type: ignore[return-value]

    def _metered_body(self, node: Any) -> Any:
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(self._call("tick", [], node.lineno), lineno=node.lineno))
        return node

    visit_Macro = visit_CallBlock = _metered_body  # noqa: N815

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802
        self._metered_body(node)
        if node.test is not None:
            node.test = nodes.And(self._call("tick", [], node.lineno), node.test)
        return node

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Const:  # noqa: N802
        return nodes.Const(node.data, lineno=node.lineno)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Call:  # noqa: N802
        self.generic_visit(node)
        return self._call("concatenate", list(node.nodes), node.lineno)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:  # noqa: N802
        self.generic_visit(node)
        node.expr = self._call("weighed", [node.expr], node.lineno)
        for operand in node.ops:
            operand.expr = self._call("weighed", [operand.expr], node.lineno)
        return node


@pass_eval_context  # jinja would apply any other kind to literals once, when compiling
def _emit(_: nodes.EvalContext, value: object) -> str:
    """Every output passes here (jinja's finalize)."""
    if not isinstance(value, str):
        _weigh(value)
        value = str(value)
    _budget.get().emit(len(value))
    return value


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """The environment in which chat templates run: what transformers offers, bounded.

    Rendering and compiling must happen within `budgeted()`.
    """

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[GenerationTag, loopcontrols],
            optimized=False,
            finalize=_emit,
        )
        self.filters["tojson"] = _to_json
        tables: Any = (self.filters, self.tests)
        for table in tables:
            table.update({name: _guarded(name, f) for name, f in table.items()})
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now
        del self.globals["lipsum"]  # random text of any length

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template = super()._parse(source, name, filename)
        _Meter(self).visit(template)
        return template

    def tick(self) -> bool:
        """One turn of a loop or macro."""
        _budget.get().spend(1)
        return True

    def weighed(self, value: Any) -> Any:
        """A value that is about to be compared."""
        if isinstance(value, list | tuple | dict):
            _weigh(value)
        elif isinstance(value, str):
            _budget.get().spend(1 + (len(value) >> 6))
        return value

    def concatenate(self, *values: Any) -> str:
        """The operator `~`."""
        for value in values:
            _weigh(value)
        parts = [str(value) for value in values]
        _check_size(sum(map(len, parts)))
        return "".join(parts)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        _check_binary(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            _check_format(str(value.__self__))
        return wrapped

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        owner = getattr(__obj, "__self__", None)
        if owner is __self:
            return __obj(*args)  # the meter's own
        _budget.get().spend(1)
        if isinstance(owner, str | list | tuple | dict):
            args = tuple(map(_materialized, args))
            _check_call(getattr(__obj, "__name__", ""), owner, (*args, *kwargs.values()))
            if not isinstance(owner, dict):
                _weigh(args)
        result = super().call(__context, __obj, *args, **kwargs)
        if isinstance(result, str | list):
            _check_size(len(result))
        return result


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without HTML escaping, with the options that transformers gives it."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: object) -> None:
    raise RefusalError(str(message))


def _strftime_now(pattern: str) -> str:
    _check_format(pattern)
    return datetime.now().strftime(pattern)
