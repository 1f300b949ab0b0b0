"""The keywords of JSON Schema that are enforced, those that say nothing, and no others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorakit.chat.constraints.scalars import OF_NUMBERS, OF_STRINGS
from lorakit.chat.constraints.tally import Tally
from lorakit.values import did_you_mean, shown

_OF_OBJECTS = ("properties", "required", "additionalProperties")
_OF_ARRAYS = ("items", "prefixItems", "minItems", "maxItems")
COMBINING = ("anyOf", "oneOf", "allOf", "$ref", "enum", "const")
KINDS: Mapping[str, tuple[str, ...]] = {
    "object": _OF_OBJECTS,
    "array": _OF_ARRAYS,
    "string": OF_STRINGS,
    "number": OF_NUMBERS,
    "integer": (),
    "boolean": (),
    "null": (),
}
KEYWORDS = (
    *("type", "nullable", *COMBINING, "$defs", "definitions"),
    *(keyword for keywords in KINDS.values() for keyword in keywords),
)
ANNOTATIONS = frozenset({
    "title", "description", "default", "example", "examples", "deprecated", "readOnly",
    "writeOnly", "$comment", "$schema", "$id", "$anchor", "id",
})  # fmt: skip
_MEANT_NOTHING: Mapping[str, Any] = {  # values with which a keyword says nothing
    "uniqueItems": False, "minProperties": 0, "patternProperties": {}, "dependentRequired": {},
}  # fmt: skip

UNENFORCED = "cannot be enforced"
_KNOWN_ELSEWHERE = frozenset({  # keywords of JSON Schema and OpenAPI, so no other is meant
    "not", "if", "then", "else", "uniqueItems", "contains", "minContains", "maxContains",
    "patternProperties", "propertyNames", "minProperties", "maxProperties", "dependentRequired",
    "dependentSchemas", "dependencies", "unevaluatedItems", "unevaluatedProperties",
    "additionalItems", "contentEncoding", "contentMediaType", "discriminator",
})  # fmt: skip


def check_keywords(schema: Mapping[str, Any], where: str, tally: Tally) -> None:
    """Tell every keyword that is not known."""
    for keyword, value in schema.items():
        if not isinstance(keyword, str):
            tally.fault(where, f"expected keywords, found {shown(keyword)}")
            continue
        tally.count(0, len(keyword))
        known = keyword in KEYWORDS or keyword in ANNOTATIONS or keyword.startswith("x-")
        if known or (keyword in _MEANT_NOTHING and value == _MEANT_NOTHING[keyword]):
            continue
        if keyword == "discriminator" and schema.keys() & {"oneOf", "anyOf"}:
            continue  # OpenAPI's: how to tell the options apart, which say it themselves
        meant = "" if keyword in _KNOWN_ELSEWHERE else did_you_mean(keyword, KEYWORDS)
        tally.fault(where, f"{shown(keyword)} {UNENFORCED}{meant}")
    if not isinstance(schema.get("required", []), list):  # of any type: draft 3 said it of a member
        found = shown(schema["required"])
        tally.fault(f"{where}.required", f"expected a list of the object's names, found {found}")
    if not isinstance(schema.get("nullable", False), bool):
        found = shown(schema["nullable"])
        tally.fault(f"{where}.nullable", f"expected true or false, found {found}")


def is_kind(name: object) -> bool:
    """Whether it is the name of a type, in either case."""
    return isinstance(name, str) and name.lower() in KINDS
