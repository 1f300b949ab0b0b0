"""From a Python annotation to a JSON schema, and from JSON back to what the annotation says.

One Form holds both, so that the two cannot disagree. Adding a kind of annotation is one function
and one row of a table. What JSON cannot tell apart or cannot say is refused by name.
"""

from __future__ import annotations

import collections.abc as abc
import dataclasses
import datetime
import types
import typing
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from lorakit.chat.annotated import Schema, noted
from lorakit.chat.docstrings import described
from lorakit.chat.results import plain
from lorakit.chat.schema import problems
from lorakit.errors import ParameterError
from lorakit.values import shown

MAX_DEPTH = 32
SUPPORTED = (
    "known are str, int, float, bool, None, Any, list, tuple, set, dict with keys of str, Literal, "
    "Enum, dataclass, TypedDict, Optional and Union, date, time, datetime, UUID, Path, and "
    'Annotated[..., "description"]'
)
PYDANTIC = (
    "lorakit.Tool(function, parameters=Model.model_json_schema()) declares a pydantic model, where "
    "function(**values) validates: Model.model_validate(values)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What an annotation allows. schema: as JSON schema; convert: the Python value of a JSON value
    that fits the schema, where it raises ValueError for one that still is none, such as a date
    of 31 February."""

    schema: Schema
    convert: Callable[[Any], Any]


def form_of(hint: Any, where: str) -> Form:
    """The form of an annotation, with `Annotated` resolved (see hints_of).

    where: what is annotated, for errors. Raises ParameterError for what cannot be said.
    """
    return _form(hint, where, ())


def hints_of(annotated: Any, where: str) -> dict[str, Any]:
    """The annotations of a function or class, forward references resolved.

    Raises ParameterError where one refers to a name that is not there.
    """
    try:
        return get_type_hints(annotated, include_extras=True)
    except Exception as error:  # evaluates what stands there
        raise ParameterError(
            f"{where}: its annotations cannot be read: {error}",
            hint="a name in them must be one of its module's, not imported for checkers alone",
        ) from error


def _form(hint: Any, where: str, inside: tuple[Any, ...]) -> Form:
    if len(inside) > MAX_DEPTH:
        raise ParameterError(f"{where}: nested deeper than {MAX_DEPTH} levels")
    if any(hint is outer for outer in inside if isinstance(outer, type)):
        raise ParameterError(
            f"{where}: {_name(hint)} holds itself, which no call can say",
            hint="name the thing by an id, or allow Any there",
        )
    inner = (*inside, hint)
    if isinstance(hint, typing.NewType):
        return _form(hint.__supertype__, where, inner)
    if type(hint).__name__ == "TypeAliasType":  # of `type X = ...`, from Python 3.12 on
        return _form(hint.__value__, where, inner)
    origin = get_origin(hint)
    if origin is Annotated:
        return _annotated(hint, where, inner)
    kind = (origin or hint) if isinstance(hint, abc.Hashable) else None
    if kind in _GENERIC:
        return _GENERIC[kind](get_args(hint), where, inner)
    if hint is None or (kind is not None and kind in _PLAIN):
        return _PLAIN[kind]
    if isinstance(hint, type):
        for fits, of_class in _CLASSES:
            if fits(hint):
                return of_class(hint, where, inner)
    known = SUPPORTED if not hasattr(hint, "model_json_schema") else PYDANTIC
    raise ParameterError(f"{where}: no JSON schema says {_name(hint)}", hint=known)


def _is(kind: str, convert: Callable[[Any], Any], **more: Any) -> Form:
    return Form(schema={"type": kind, **more}, convert=convert)


def _as_is(value: Any) -> Any:
    return value


_ANY = Form(schema={}, convert=_as_is)
_PLAIN: dict[Any, Form] = {
    Any: _ANY,
    object: _ANY,
    str: _is("string", _as_is),
    int: _is("integer", int),
    float: _is("number", float),
    bool: _is("boolean", _as_is),
    None: _is("null", _as_is),
    type(None): _is("null", _as_is),
    datetime.date: _is("string", datetime.date.fromisoformat, format="date"),
    datetime.datetime: _is("string", datetime.datetime.fromisoformat, format="date-time"),
    datetime.time: _is("string", datetime.time.fromisoformat, format="time"),
    uuid.UUID: _is("string", uuid.UUID, format="uuid"),
    Path: _is("string", Path),
}


# Annotated.


def _annotated(hint: Any, where: str, inside: tuple[Any, ...]) -> Form:
    base, *notes = get_args(hint)
    form = _form(base, where, inside)
    return Form(schema=noted(form.schema, notes, where), convert=form.convert)


# Containers.


def _array(args: tuple[Any, ...], where: str, inside: tuple[Any, ...], make: Any) -> Form:
    item = _form(args[0], f"{where}[]", inside) if args else _ANY
    schema: Schema = {"type": "array", "items": item.schema}
    return Form(schema=schema, convert=lambda value: make(map(item.convert, value)))


def _list(args: tuple[Any, ...], where: str, inside: tuple[Any, ...]) -> Form:
    return _array(args, where, inside, list)


def _set(args: tuple[Any, ...], where: str, inside: tuple[Any, ...]) -> Form:
    return _array(args, where, inside, _hashed(set))


def _frozen(args: tuple[Any, ...], where: str, inside: tuple[Any, ...]) -> Form:
    return _array(args, where, inside, _hashed(frozenset))


def _hashed(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def convert(items: Any) -> Any:
        try:
            return make(items)
        except TypeError as error:
            raise ValueError(str(error)) from error

    return convert


def _tuple_form(args: tuple[Any, ...], where: str, inside: tuple[Any, ...]) -> Form:
    if not args or (len(args) == 2 and args[1] is Ellipsis):
        return _array(args[:1], where, inside, tuple)
    forms = [_form(arg, f"{where}[{i}]", inside) for i, arg in enumerate(args) if arg != ()]
    schema: Schema = {
        "type": "array",
        "prefixItems": [form.schema for form in forms],
        "items": False,
        "minItems": len(forms),
        "maxItems": len(forms),
    }
    return Form(
        schema=schema,
        convert=lambda value: tuple(
            form.convert(item) for form, item in zip(forms, value, strict=True)
        ),
    )


def _dict(args: tuple[Any, ...], where: str, inside: tuple[Any, ...]) -> Form:
    if args and args[0] not in (str, Any):
        raise ParameterError(
            f"{where}: the keys of a JSON object are texts, not {_name(args[0])}",
            hint="dict[str, ...], or a list of dataclasses",
        )
    item = _form(args[1], f"{where}[...]", inside) if args else _ANY
    rest: Any = item.schema or True
    return Form(
        schema={"type": "object", "additionalProperties": rest},
        convert=lambda value: {key: item.convert(one) for key, one in value.items()},
    )


# Choices.


def _literal(args: tuple[Any, ...], where: str, inside: tuple[Any, ...]) -> Form:
    return _choice([(plain(arg, where), arg) for arg in args], where)


def _enum(hint: type, where: str, inside: tuple[Any, ...]) -> Form:
    """By value where all are texts, or all whole numbers; else by name."""
    members = list(typing.cast(type[Enum], hint))
    if not members:
        raise ParameterError(f"{where}: {hint.__name__} has no member")
    values = [member.value for member in members]
    by_value = any(all(type(value) is kind for value in values) for kind in (str, int))
    return _choice([(m.value if by_value else m.name, m) for m in members], where)


def _choice(pairs: list[tuple[Any, Any]], where: str) -> Form:
    """One of some values, each with what stands for it in JSON."""
    allowed = [json for json, _ in pairs]
    if any(isinstance(json, dict | list) for json in allowed):
        raise ParameterError(f"{where}: a choice is a text, a number, true, false or null")
    kinds = {_KIND_OF[type(json)] for json in allowed}
    schema: Schema = {"type": kinds.pop()} if len(kinds) == 1 else {}
    table = {(type(json) is bool, json): value for json, value in pairs}
    if len(table) < len(pairs):
        raise ParameterError(f"{where}: two choices have one value in JSON: {allowed!r:.200}")
    return Form(
        schema={**schema, "enum": allowed},
        convert=lambda value: table[type(value) is bool, value],
    )


_KIND_OF = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def _union(args: tuple[Any, ...], where: str, inside: tuple[Any, ...]) -> Form:
    """The first that a value fits, in the order in which they stand."""
    forms = [_form(arg, where, inside) for arg in args]
    others = [form for arg, form in zip(args, forms, strict=True) if arg is not type(None)]
    if len(others) == 1 < len(forms) and "type" in others[0].schema:
        return _nullable(others[0])

    def convert(value: Any) -> Any:
        fault: ValueError | None = None
        for form in forms:
            if not problems(value, form.schema, ""):
                try:
                    return form.convert(value)
                except ValueError as error:
                    fault = error
        raise fault or ValueError("fits none of the alternatives")

    return Form(schema={"anyOf": [form.schema for form in forms]}, convert=convert)


def _nullable(form: Form) -> Form:
    """OpenAPI's word beside a plain type, which templates read better than alternatives."""
    schema = {**form.schema, "nullable": True}
    if "enum" in schema:
        schema["enum"] = [*schema["enum"], None]
    return Form(schema=schema, convert=lambda value: None if value is None else form.convert(value))


# Classes with fields.


def _dataclass(hint: type, where: str, inside: tuple[Any, ...]) -> Form:
    hints = hints_of(hint, where)
    said = described(hint.__doc__).parameters
    forms: dict[str, Form] = {}
    needed = []
    for item in dataclasses.fields(hint):
        if not item.init:
            continue
        form = _form(hints[item.name], f"{where}.{item.name}", inside)
        if item.default is not dataclasses.MISSING:
            form = with_default(form, item.default)
        elif item.default_factory is dataclasses.MISSING:
            needed.append(item.name)
        forms[item.name] = with_description(form, said.get(item.name, ""))
    return _object(forms, needed, lambda values: _made(hint, values))


def _typed_dict(hint: type, where: str, inside: tuple[Any, ...]) -> Form:
    hints = hints_of(hint, where)
    required: frozenset[str] = getattr(hint, "__required_keys__", frozenset())
    said = described(hint.__doc__).parameters
    forms: dict[str, Form] = {}
    needed = []
    for name, inner in hints.items():
        inner, must = _requirement(inner, name in required)
        form = _form(inner, f"{where}.{name}", inside)
        forms[name] = with_description(form, said.get(name, ""))
        if must:
            needed.append(name)
    return _object(forms, needed, dict)


def _requirement(hint: Any, required: bool) -> tuple[Any, bool]:
    """A key's type without Required, NotRequired and ReadOnly, which say nothing of its value."""
    while (name := str(get_origin(hint)).rpartition(".")[2]) in _QUALIFIERS:
        required = _QUALIFIERS[name] if _QUALIFIERS[name] is not None else required
        (hint,) = get_args(hint)
    return hint, required


_QUALIFIERS: dict[str, Any] = {"Required": True, "NotRequired": False, "ReadOnly": None}


def _object(forms: Mapping[str, Form], needed: list[str], make: Callable[[Any], Any]) -> Form:
    return Form(
        schema=object_schema(forms, needed),
        convert=lambda value: make(
            {name: forms[name].convert(item) for name, item in value.items()}
        ),
    )


def object_schema(forms: Mapping[str, Form], needed: list[str]) -> Schema:
    """The schema of an object with these properties and no others."""
    schema: Schema = {
        "type": "object",
        "properties": {name: form.schema for name, form in forms.items()},
    }
    if needed:
        schema["required"] = needed
    return {**schema, "additionalProperties": False}


def _made(cls: type, values: dict[str, Any]) -> Any:
    try:
        return cls(**values)
    except Exception as error:  # of its __post_init__, which may do anything
        raise ValueError(f"{cls.__name__}: {error}") from error


def with_description(form: Form, text: str) -> Form:
    """The form with a description, unless it has one."""
    if not text or "description" in form.schema:
        return form
    return Form(schema={**form.schema, "description": text}, convert=form.convert)


def with_default(form: Form, default: Any) -> Form:
    """The form with what is taken where nothing is said; None and what JSON lacks go without."""
    try:
        value = plain(default, "")
    except ParameterError:
        return form
    if value is None or problems(value, form.schema, ""):
        return form
    return Form(schema={**form.schema, "default": value}, convert=form.convert)


def _name(hint: Any) -> str:
    return hint.__qualname__ if isinstance(hint, type) else shown(hint)


_Make = Callable[[tuple[Any, ...], str, tuple[Any, ...]], Form]
_GENERIC: dict[Any, _Make] = {
    list: _list,
    abc.Sequence: _list,
    abc.MutableSequence: _list,
    abc.Iterable: _list,
    abc.Collection: _list,
    tuple: _tuple_form,
    set: _set,
    abc.Set: _set,
    abc.MutableSet: _set,
    frozenset: _frozen,
    dict: _dict,
    abc.Mapping: _dict,
    abc.MutableMapping: _dict,
    Literal: _literal,
    Union: _union,
    types.UnionType: _union,
}
_CLASSES: tuple[
    tuple[Callable[[type], bool], Callable[[type, str, tuple[Any, ...]], Form]], ...
] = (
    (lambda hint: issubclass(hint, Enum), _enum),
    (typing.is_typeddict, _typed_dict),
    (dataclasses.is_dataclass, _dataclass),
)
