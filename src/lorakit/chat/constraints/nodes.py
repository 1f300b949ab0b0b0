"""A schema as a tree of nodes: what lorakit.chat.constraints.walking makes of a JSON schema.

Every node says which JSON values it allows, and nothing else. A format whose calls are JSON writes
it back as a JSON schema; one with a notation of its own writes rules for each kind of node.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Json = None | bool | int | float | str | list[Any] | dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnyValue:
    """Any JSON value, of so many arrays and objects inside each other: readers have a limit."""

    levels: int = 16

    @property
    def inner(self) -> AnyValue | None:
        """What the arrays and objects of such a value hold; None where there are none."""
        return AnyValue(levels=self.levels - 1) if self.levels else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """One of some JSON values, at least one: enum, const, booleans, null."""

    values: tuple[Json, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A string. least and most: its length in characters; pattern: a regular expression that it
    matches somewhere (as in JSON Schema); format: a name such as "date"."""

    least: int = 0
    most: int | None = None
    pattern: str | None = None
    format: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A number, whole or not. above and below exclude their own value."""

    whole: bool = False
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None
    multiple_of: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Array:
    """An array: `first` by position, then `rest` (None: nothing more)."""

    first: tuple[Node, ...] = ()
    rest: Node | None = AnyValue()
    least: int = 0
    most: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Object:
    """An object: its properties in their order, and what others may hold (None: no others)."""

    properties: Mapping[str, Node] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    rest: Node | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Either:
    """What one of some nodes allows."""

    options: tuple[Node, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The definition of this name, so that a schema may contain itself."""

    name: str


Node = AnyValue | Constant | Text | Number | Array | Object | Either | Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """A node with the definitions that it refers to."""

    root: Node
    definitions: Mapping[str, Node] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A tool as a constraint sees it: its name, and what its arguments may be. The root of
    `arguments` is an Object."""

    name: str
    arguments: Schema


@dataclass(frozen=True, slots=True, kw_only=True)
class CallGrammar:
    """How a format writes calls, in llguidance's Lark dialect. Each part but `opening` is an
    expression that may stand in a rule.

    opening: the text with which calls begin in the midst of a reply, or at its start where
    `alone`; first: the first call, from `opening` on (which it spells itself); more: each further
    one, with what stands before it; "" where there can be no other; last: what ends the calls;
    rules: rules and terminals that these use, each with a name that begins with `call_` or
    `CALL_`. alone: a reply with calls is calls from its start (after reasoning) to its end.
    """

    opening: str
    first: str
    more: str = ""
    last: str = ""
    rules: str = ""
    alone: bool = False
