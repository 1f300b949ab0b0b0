"""What stands behind a type in Annotated: a description, and bounds as annotated_types and pydantic
call them, for a JSON schema."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lorakit.errors import ParameterError

Schema = dict[str, Any]
_BOUNDS = {
    "ge": "minimum",
    "le": "maximum",
    "gt": "exclusiveMinimum",
    "lt": "exclusiveMaximum",
}
_SIZES = {
    "min_length": {"string": "minLength", "array": "minItems", "object": "minProperties"},
    "max_length": {"string": "maxLength", "array": "maxItems", "object": "maxProperties"},
}


def noted(schema: Schema, notes: Iterable[Any], where: str) -> Schema:
    """A schema with what the notes say of it. Raises ParameterError for a bound of another type."""
    schema = dict(schema)
    for note in notes:
        said = note if isinstance(note, str) else getattr(note, "description", None)
        if isinstance(said, str):
            schema["description"] = said
        for each in (note, *_tuple(getattr(note, "metadata", ()))):
            schema.update(_bounds(each, schema, where))
    return schema


def _bounds(note: Any, schema: Schema, where: str) -> Schema:
    found: Schema = {}
    for name, word in _BOUNDS.items():
        if (bound := _bound(note, name)) is not None:
            _require_kind(schema, ("integer", "number"), name, where)
            found[word] = bound
    for name, words in _SIZES.items():
        if (bound := _bound(note, name)) is not None:
            _require_kind(schema, tuple(words), name, where)
            found[words[schema["type"]]] = bound
    return found


def _bound(note: Any, name: str) -> int | float | None:
    """A bound that a note in Annotated sets; methods and other people's attributes are none."""
    value = None if isinstance(note, str | type) else getattr(note, name, None)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _require_kind(schema: Schema, kinds: tuple[str, ...], name: str, where: str) -> None:
    if schema.get("type") not in kinds:
        raise ParameterError(f"{where}: {name} bounds {' or '.join(kinds)}, not {schema!r:.80}")


def _tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else ()
