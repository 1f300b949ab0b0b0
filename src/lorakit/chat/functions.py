"""Python functions as tools: what is declared of one, and how it is called with JSON arguments.

Which parameters the model is told of: all that can be given by name, and positional-only ones.
`*args` and `**kwargs` stay empty, and so does what a functools.partial has bound.
"""

from __future__ import annotations

import copy
import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lorakit.chat.annotations import (
    Form,
    form_of,
    hints_of,
    object_schema,
    with_default,
    with_description,
)
from lorakit.chat.calls import ToolCall
from lorakit.chat.docstrings import described
from lorakit.chat.messages import prepare_tools
from lorakit.chat.tools import validate_call
from lorakit.errors import ParameterError
from lorakit.values import shown

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_LEFT_OUT = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
NAMED = "lorakit.Tool(function, name=...) gives it another"
A_FUNCTION = (
    "a tool is a function with annotated parameters, or lorakit.Tool(function, parameters={...}) "
    "with a JSON schema of them"
)


@dataclass(frozen=True, slots=True)
class Tool:
    """A function for the model to call, where its own name, docstring or annotations do not say
    what is to be declared.

    parameters: a JSON schema of an object; the function is then given JSON values, by name.
    """

    function: Callable[..., Any]
    name: str = field(default="", kw_only=True)
    description: str = field(default="", kw_only=True)
    parameters: Mapping[str, Any] | None = field(default=None, kw_only=True)

    @property
    def declaration(self) -> dict[str, Any]:
        """What the model is told of it: an OpenAI function object, as `tools=` of `chat` takes.

        Raises ParameterError as `run_tools` does.
        """
        return copy.deepcopy(dict(callee_of(self, "function").declaration))


@dataclass(frozen=True, slots=True, kw_only=True)
class Callee:
    """A tool that is ready. declaration: as an OpenAI function object. forms: of its parameters,
    {} where JSON values are given as they are. forgiving: parameters whose default is None and
    whose type is declared without it: an argument of null counts as none."""

    name: str
    function: Callable[..., Any]
    declaration: Mapping[str, Any]
    signature: inspect.Signature | None = None
    forms: Mapping[str, Form] = field(default_factory=dict)
    forgiving: frozenset[str] = frozenset()

    @property
    def awaits(self) -> bool:
        """Whether it is a coroutine function."""
        inner = _inner(self.function)
        return inspect.iscoroutinefunction(
            inner if hasattr(inner, "__name__") else type(inner).__call__
        )

    def faults(self, call: ToolCall) -> list[str]:
        """Every way in which a call does not fit the declaration."""
        arguments = self._given(call)
        return validate_call(ToolCall(name=call.name, arguments=arguments), [self.declaration])

    def converted(self, call: ToolCall) -> dict[str, Any]:
        """The arguments of a call without faults as the annotations say.

        Raises ParameterError with each that is none after all, such as a date of 31 February.
        """
        found: dict[str, Any] = {}
        faults: list[str] = []
        given = copy.deepcopy(self._given(call))  # what a function does to them stays with it
        for name, value in given.items():
            form = self.forms.get(name)
            try:
                found[name] = value if form is None else form.convert(value)
            except (ValueError, OverflowError) as error:
                faults.append(f"{self.name}.{name}: {error}")
        if faults:
            raise ParameterError("the arguments do not fit", items=faults)
        return found

    def bound(self, arguments: Mapping[str, Any]) -> Callable[[], Any]:
        """What calls the function with these."""
        if self.signature is None:
            return functools.partial(self.function, **arguments)
        bound = inspect.BoundArguments(self.signature, _ordered(self.signature, arguments))
        return functools.partial(self.function, *bound.args, **bound.kwargs)

    def _given(self, call: ToolCall) -> dict[str, Any]:
        return {
            name: value
            for name, value in call.arguments.items()
            if value is not None or name not in self.forgiving
        }


def callees_of(tools: Iterable[Callable[..., Any] | Tool]) -> dict[str, Callee]:
    """Functions and Tools by name, ready to be declared and called.

    Raises ParameterError with every fault: a parameter without an annotation or with one that no
    JSON schema says, a name that no call can carry, two with one name.
    """
    if isinstance(tools, str | bytes | Mapping) or not isinstance(tools, Iterable):
        raise ParameterError(f"tools are a list of functions, not {shown(tools)}", hint=A_FUNCTION)
    found: dict[str, Callee] = {}
    faults: list[str] = []
    hints: list[str] = []
    for i, tool in enumerate(tools):
        try:
            callee = callee_of(tool, f"tools[{i}]")
        except ParameterError as error:
            faults += error.items or [error.message]
            hints.append(error.hint)
            continue
        if callee.name in found:
            faults.append(f"tools[{i}]: a second one with the name {callee.name}")
            hints.append(NAMED)
        found.setdefault(callee.name, callee)
    if faults:
        hint = next(filter(None, hints), A_FUNCTION)
        raise ParameterError("the functions cannot be tools", items=faults, hint=hint)
    if not found:
        raise ParameterError("there are no tools", hint="chat(messages) answers without any")
    return found


def callee_of(tool: Callable[..., Any] | Tool, where: str = "the tool") -> Callee:
    """One function or Tool, ready. Raises ParameterError."""
    given = tool if isinstance(tool, Tool) else Tool(tool)
    function = given.function
    if isinstance(function, type) or not callable(function):
        raise ParameterError(f"{where}: {shown(function)} is no function", hint=A_FUNCTION)
    name = given.name or _name(function)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ParameterError(
            f"{where}: {shown(name)} is no name for a tool: letters, digits, _ . and -, at most 64",
            hint=NAMED,
        )
    if given.parameters is not None:
        text = given.description or described(_docstring(function)).text
        declaration = _declared(name, text, given.parameters)
        return Callee(name=name, function=function, declaration=declaration)
    return _from_signature(given, name)


def _from_signature(given: Tool, name: str) -> Callee:
    function = given.function
    said = described(_docstring(function))
    signature = _signature(function, name)
    hints = hints_of(_annotated(function), name)
    fixed = function.keywords if isinstance(function, functools.partial) else {}
    forms: dict[str, Form] = {}
    needed: list[str] = []
    forgiving: set[str] = set()
    faults: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.kind in _LEFT_OUT or parameter.name in fixed:
            continue
        try:
            form = _of_parameter(parameter, hints, f"{name}: parameter {parameter.name}")
        except ParameterError as error:
            faults.append(f"{error.message} ({error.hint})" if error.hint else error.message)
            continue
        if parameter.default is parameter.empty:
            needed.append(parameter.name)
        elif parameter.default is None and not _takes_null(form):
            forgiving.add(parameter.name)
        forms[parameter.name] = with_description(form, said.parameters.get(parameter.name, ""))
    if faults:
        raise ParameterError(f"{name} cannot be a tool", items=faults, hint=A_FUNCTION)
    schema = object_schema(forms, needed)
    return Callee(
        name=name,
        function=function,
        declaration=_declared(name, given.description or said.text, schema),
        signature=signature,
        forms=forms,
        forgiving=frozenset(forgiving),
    )


def _of_parameter(parameter: inspect.Parameter, hints: Mapping[str, Any], where: str) -> Form:
    if parameter.name not in hints:
        raise ParameterError(f"{where} has no annotation", hint="Any takes any JSON value")
    form = form_of(hints[parameter.name], where)
    if parameter.default is None:
        return _without_null(form)
    return form if parameter.default is parameter.empty else with_default(form, parameter.default)


def _without_null(form: Form) -> Form:
    """`Optional[X] = None` is declared as an X that may be left out: the simplest for a model."""
    schema = dict(form.schema)
    if schema.pop("nullable", False):
        if "enum" in schema:
            schema["enum"] = [choice for choice in schema["enum"] if choice is not None]
    elif "anyOf" in schema:
        schema["anyOf"] = [option for option in schema["anyOf"] if option != {"type": "null"}]
    return Form(schema=schema, convert=form.convert)


def _takes_null(form: Form) -> bool:
    return (
        not form.schema or form.schema.get("type") == "null" or None in form.schema.get("enum", ())
    )


def _declared(name: str, description: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    function: dict[str, Any] = {"name": name, "description": description}
    prepared = prepare_tools([{**function, "parameters": parameters}])
    assert prepared is not None
    return prepared[0]


def _signature(function: Callable[..., Any], name: str) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except (ValueError, TypeError) as error:  # of C, without one
        raise ParameterError(
            f"{name}: its parameters are not known: {error}", hint=A_FUNCTION
        ) from error


def _ordered(signature: inspect.Signature, given: Mapping[str, Any]) -> Any:
    """The arguments in the order of the parameters, with the defaults of those left out: what is
    given by position leaves no gap."""
    found: dict[str, Any] = {}
    for parameter in signature.parameters.values():
        if parameter.kind not in _LEFT_OUT:
            default = parameter.default
            if parameter.name in given or default is not parameter.empty:
                found[parameter.name] = given.get(parameter.name, default)
    return found


def _inner(function: Callable[..., Any]) -> Callable[..., Any]:
    """What a partial calls."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _annotated(function: Callable[..., Any]) -> Callable[..., Any]:
    """What carries the annotations: the function, or an object's __call__."""
    inner = inspect.unwrap(_inner(function))
    return inner if hasattr(inner, "__name__") else type(inner).__call__


def _name(function: Callable[..., Any]) -> str:
    inner = _inner(function)
    return getattr(inner, "__name__", type(inner).__name__)


def _docstring(function: Callable[..., Any]) -> str | None:
    inner = _inner(function)
    if hasattr(inner, "__name__"):
        return inner.__doc__
    return type(inner).__call__.__doc__ or type(inner).__doc__
