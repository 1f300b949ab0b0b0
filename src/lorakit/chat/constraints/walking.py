"""From a JSON schema to nodes: keywords that are known, faults with their path, bounded sizes.

Libraries of constraints ignore keywords that they do not know, and name no place. So a schema is
walked here first, and what it becomes is all that is enforced. Types may be
in either case, and `nullable` (OpenAPI's) allows null. A schema without a type has the types that
its keywords are of: one with `properties` is an object.
Source: JSON Schema 2020-12, with draft 7's `definitions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lorakit.chat.constraints.combining import Combining, array, constant, either
from lorakit.chat.constraints.keywords import (
    COMBINING,
    KEYWORDS,
    KINDS,
    UNENFORCED,
    check_keywords,
    is_kind,
)
from lorakit.chat.constraints.nodes import (
    AnyValue,
    Array,
    Constant,
    Either,
    Node,
    Object,
    Reference,
    Schema,
)
from lorakit.chat.constraints.producing import endless
from lorakit.chat.constraints.scalars import number_of, size_of, text_of
from lorakit.chat.constraints.tally import (
    MAX_DEPTH,
    Tally,
    TooLargeError,
    is_text,
    pointed,
    require_depth,
    step,
)
from lorakit.errors import ParameterError, page
from lorakit.values import shown

MAX_CHOICES = 2000  # of one enum: more build, and then fail in mid-reply
MAX_PROPERTIES = 500  # of one object: each is a state that every other leads to
MAX_OPTIONS = 200  # of one anyOf

_UNSAID = AnyValue()  # what others may hold where a schema does not say so: known by identity
_ROOT = "#"


def walk(schema: object, where: str, *, closed: bool = False) -> Schema:
    """The nodes of a schema.

    closed: an object whose schema names properties has no others, unless additionalProperties
    says so. Raises ParameterError, which lists every fault with its path: `where`, then as in
    Python. What a Reference names is among the definitions.
    """
    walker = Walker(schema, where, closed)
    return _raised(walker.faults, walker.schema(), where)


def _raised(faults: list[str], schema: Schema | None, where: str) -> Schema:
    if faults or schema is None:
        faults = faults or [f"{where}: no value fits"]
        raise refused("the schema cannot be enforced", faults)
    return schema


def refused(message: str, faults: list[str]) -> ParameterError:
    """The error of schemas that cannot be enforced, with what helps."""
    unknown = any(UNENFORCED in fault for fault in faults)
    return ParameterError(message, items=faults, hint=_LEAVE_OUT if unknown else _WHAT)


_WHAT = f"what can be enforced: {page('constraints')}"
_LEAVE_OUT = (
    "leave out what cannot be, and check the answer for it; keywords that are enforced: "
    f"{', '.join(KEYWORDS)}"
)


class Walker:
    """One walk over one root schema, which references point into."""

    def __init__(self, root: object, where: str, closed: bool) -> None:
        self._root, self._where, self._closed = root, where, closed
        self._tally = Tally(where)
        self.faults = self._tally.faults
        self._count = self._tally.count
        self._names: dict[str, str] = {}  # pointers, and the names of their definitions
        self._definitions: dict[str, Node | None] = {}
        self._places: dict[str, str] = {}  # where a definition stands
        self._open: set[str] = set()  # definitions whose walk has not ended
        self._combining = Combining(lambda reference: self._definitions.get(reference.name))

    def schema(self) -> Schema | None:
        """The nodes; None where there are faults, or where nothing fits."""
        root: Node | None = None
        try:
            root = self._node(self._root, self._where, 0)
        except TooLargeError as error:
            self.faults.append(str(error))
        if self.faults or root is None:
            return None
        if self._closed:
            root = self._close(root, top=True)
        known = {name: node for name, node in self._definitions.items() if node is not None}
        closed = {name: self._close(node) if self._closed else node for name, node in known.items()}
        schema = Schema(root=root, definitions=closed)
        for name in endless(schema):
            place = self._places.get(name, self._where)
            self._fault(place, "refers to itself on every way: no value would ever end")
        return None if self.faults else schema

    def arguments(self) -> Schema | None:
        """The nodes of a function's arguments, which are an object."""
        schema = self.schema()
        if schema is None:
            if not self.faults:
                self._fault(self._where, "no arguments fit")
            return None
        root = schema.root
        for _ in range(MAX_DEPTH):
            if isinstance(root, Reference):
                root = schema.definitions[root.name]
        if isinstance(root, AnyValue):
            root = Object()
        if isinstance(root, Either):  # of an object and others: arguments are never the others
            objects = [option for option in root.options if isinstance(option, Object)]
            root = objects[0] if len(objects) == 1 else root
        if not isinstance(root, Object):
            self._fault(self._where, "the arguments of a function are one object")
            return None
        return replace(schema, root=root)

    def _node(self, schema: object, where: str, depth: int) -> Node | None:
        """The node of a schema; None where nothing fits, or where there is a fault."""
        self._count(1)
        require_depth(depth, where)
        if isinstance(schema, bool):
            return AnyValue() if schema else None
        if not isinstance(schema, Mapping):
            return self._fault(where, f"expected a schema, found {shown(schema)}")
        before = len(self.faults)
        check_keywords(schema, where, self._tally)
        parts = [("type", self._typed(schema, where, depth))]
        for keyword in schema:
            if keyword in COMBINING:
                read = getattr(self, _READERS[keyword])
                parts.append((keyword, read(schema[keyword], f"{where}.{keyword}", depth)))
        if len(self.faults) > before:
            return None
        return self._together(schema, parts, where)

    def _together(
        self, schema: Mapping[str, Any], parts: list[tuple[str, Node | None]], where: str
    ) -> Node | None:
        """What all parts of a schema allow."""
        node: Node | None = AnyValue()
        for keyword, part in parts:
            try:
                node = self._combining.both(node, part)
            except ValueError as why:
                return self._fault(where, f"{keyword} beside the rest cannot be enforced: {why}")
            if node is None:
                return self._fault(where, f"{keyword} beside the rest leaves no value")
        if schema.get("nullable") is True:
            node = either([node, Constant(values=(None,))])
        return node

    # By type.

    def _typed(self, schema: Mapping[str, Any], where: str, depth: int) -> Node | None:
        """What the type and the keywords of types say."""
        said = schema.get("type")
        names = said if isinstance(said, list) else [said]
        kinds = [name.lower() for name in names if isinstance(name, str)]
        if said is None:
            kinds = [kind for kind, keywords in KINDS.items() if schema.keys() & {*keywords}]
            if not kinds:
                return AnyValue()
        elif not names or not all(map(is_kind, names)):
            expected = f"expected one of {', '.join(KINDS)}, found {shown(said)}"
            meant = _OF_PYTHON.get(said) if isinstance(said, str) else None
            return self._fault(
                f"{where}.type", f"{expected}; did you mean {meant}?" if meant else expected
            )
        if "number" in kinds:
            kinds = [kind for kind in kinds if kind != "integer"]
        found = [self._of_kind(kind, schema, where, depth) for kind in dict.fromkeys(kinds)]
        if said is None and schema.keys() & {*COMBINING}:  # which say the type, perhaps another
            found += [self._of_kind(kind, {}, where, depth) for kind in KINDS if kind not in kinds]
        return either(found)

    def _of_kind(self, kind: str, schema: Mapping[str, Any], where: str, depth: int) -> Node | None:
        def fault(keyword: str, why: str) -> None:
            self._fault(f"{where}.{keyword}", why)

        if kind == "object":
            return self._object(schema, where, depth)
        if kind == "array":
            return self._array(schema, where, depth)
        if kind == "string":
            text = text_of(schema, fault)
            self._count(0, len(text.pattern or ""))
            return text
        if kind in ("number", "integer"):
            return number_of(schema, kind == "integer", fault)
        return Constant(values=(None,) if kind == "null" else (True, False))

    def _object(self, schema: Mapping[str, Any], where: str, depth: int) -> Node | None:
        before = len(self.faults)
        said = schema.get("properties", {})
        if not isinstance(said, Mapping) or not all(isinstance(name, str) for name in said):
            return self._fault(f"{where}.properties", f"expected schemas by name, found "
                               f"{shown(said)}")  # fmt: skip
        required = schema.get("required", [])
        if not isinstance(required, list):
            return None  # check_keywords has said so
        if not all(isinstance(name, str) for name in required):
            return self._fault(f"{where}.required", f"expected a list of names, found "
                               f"{shown(required)}")  # fmt: skip
        rest: Node | None = _UNSAID
        if "additionalProperties" in schema:
            place = f"{where}.additionalProperties"
            rest = self._node(schema["additionalProperties"], place, depth + 1)
        if len(said) + len(required) > MAX_PROPERTIES:
            return self._fault(f"{where}.properties", f"at most {MAX_PROPERTIES} are enforced")
        properties: dict[str, Node] = {}
        for name, inner in said.items():
            self._count(0, len(name))
            place = f"{where}.properties{step(name)}"
            if not is_text(name):
                self._fault(place, "the name holds half of a surrogate pair")
            known = len(self.faults)
            node = self._node(inner, place, depth + 1)
            if node is not None:
                properties[name] = node
            elif len(self.faults) == known and name in required:
                self._fault(place, "required, and nothing fits it")
            elif len(self.faults) == known and rest is not None:
                self._fault(place, "false is enforced only where additionalProperties is false")
        for name in required:
            self._count(1, len(name))
            if name not in said and schema.get("additionalProperties") is False:
                self._fault(f"{where}.required", f"{shown(name)} is required, but "
                            "additionalProperties forbids it")  # fmt: skip
            elif name not in said and rest is not None:
                properties[name] = AnyValue() if rest is _UNSAID else rest
        if len(self.faults) > before:
            return None
        return Object(properties=properties, required=frozenset(required), rest=rest)

    def _array(self, schema: Mapping[str, Any], where: str, depth: int) -> Node | None:
        before = len(self.faults)
        least, most = size_of(
            schema,
            "minItems",
            "maxItems",
            lambda key, why: self._tally.fault(f"{where}.{key}", why),
        )
        items = schema.get("prefixItems", [])
        if not isinstance(items, list):
            return self._fault(f"{where}.prefixItems", f"expected a list, found {shown(items)}")
        first = [
            self._node(inner, f"{where}.prefixItems[{at}]", depth + 1)
            for at, inner in enumerate(items)
        ]
        rest = self._node(schema.get("items", True), f"{where}.items", depth + 1)
        if len(self.faults) > before:
            return None
        if None in first:  # nothing can stand there, nor after it
            first, rest = first[: first.index(None)], None
        found = array(tuple(node for node in first if node is not None), rest, least, most)
        if found is None:
            return self._fault(f"{where}.minItems", f"no array has {least} items that fit")
        return found

    # By what combines schemas.

    def _any_of(self, value: object, where: str, depth: int) -> Node | None:
        options = self._schemas(value, where, depth)
        return None if options is None else either(options)

    def _one_of(self, value: object, where: str, depth: int) -> Node | None:
        options = self._schemas(value, where, depth)
        if options is None:
            return None
        for at, one in enumerate(options):
            for other in range(at):
                if self._combining.may_overlap(one, options[other]):
                    return self._fault(
                        where,
                        f"a value may fit both {other} and {at}: oneOf is enforced only where "
                        "that cannot be; anyOf allows it",
                    )
        return either(options)

    def _all_of(self, value: object, where: str, depth: int) -> Node | None:
        options = self._schemas(value, where, depth)
        node: Node | None = AnyValue()
        for option in options or ():
            try:
                node = self._combining.both(node, option)
            except ValueError as why:
                return self._fault(where, f"cannot be enforced together: {why}")
        if options and node is None and None not in options:
            return self._fault(where, "no value fits all of them")
        return node

    def _schemas(self, value: object, where: str, depth: int) -> list[Node | None] | None:
        if not isinstance(value, list) or not value:
            self._fault(where, f"expected a list of schemas, found {shown(value)}")
            return None
        if len(value) > MAX_OPTIONS:
            self._fault(where, f"{len(value)} schemas; at most {MAX_OPTIONS} are enforced")
            return None
        before = len(self.faults)
        nodes = [self._node(inner, f"{where}[{at}]", depth + 1) for at, inner in enumerate(value)]
        return nodes if len(self.faults) == before else None

    def _enum(self, value: object, where: str, depth: int) -> Node | None:
        if not isinstance(value, list) or not value:
            return self._fault(where, f"expected a list of values, found {shown(value)}")
        if len(value) > MAX_CHOICES:
            return self._fault(where, f"{len(value)} values; at most {MAX_CHOICES} are enforced")
        return constant([self._tally.constant(item, where, depth) for item in value])

    def _const(self, value: object, where: str, depth: int) -> Node | None:
        return constant([self._tally.constant(value, where, depth)])

    def _ref(self, value: object, where: str, depth: int) -> Node | None:
        if not isinstance(value, str) or not value.startswith(_ROOT):
            return self._fault(where, f"expected a place in this schema, such as #/$defs/name, "
                               f"found {shown(value)}")  # fmt: skip
        if value not in self._names:
            found, target = pointed(self._root, value)
            if not found:
                return self._fault(where, f"the schema has no {shown(value)}")
            name = self._names[value] = f"d{len(self._names)}"
            self._places[name] = f"{where} -> {value}"
            self._open.add(name)
            before = len(self.faults)
            node = self._node(target, f"{self._where}({value})", depth + 1)
            self._open.discard(name)
            self._definitions[name] = node
            if node is None and len(self.faults) == before:
                return None
        name = self._names[value]
        if name not in self._open and self._definitions.get(name) is None:
            return None
        return Reference(name=name)

    # Closing, faults.

    def _close(self, node: Node, *, top: bool = False) -> Node:
        """The node with objects closed that do not say what others they hold."""
        if isinstance(node, Object):
            properties = {name: self._close(inner) for name, inner in node.properties.items()}
            rest = node.rest
            if rest is _UNSAID:
                rest = None if properties or top else AnyValue()
            return replace(node, properties=properties, rest=rest and self._close(rest))
        if isinstance(node, Array):
            rest = node.rest and self._close(node.rest)
            return replace(node, first=tuple(map(self._close, node.first)), rest=rest)
        if isinstance(node, Either):
            return Either(options=tuple(self._close(option, top=top) for option in node.options))
        return node

    def _fault(self, where: str, why: str) -> Node | None:
        self._tally.fault(where, why)
        return None


_OF_PYTHON = {
    "str": "string", "int": "integer", "float": "number", "bool": "boolean", "list": "array",
    "dict": "object", "None": "null",
}  # fmt: skip
_READERS: Mapping[str, str] = {
    "anyOf": "_any_of", "oneOf": "_one_of", "allOf": "_all_of", "$ref": "_ref", "enum": "_enum",
    "const": "_const",
}  # fmt: skip
