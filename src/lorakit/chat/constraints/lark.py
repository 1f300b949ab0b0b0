"""Pieces of grammars in llguidance's Lark dialect.

Source: llguidance's docs/syntax.md. Names of rules are lower case, those of terminals upper case.
"""

from __future__ import annotations

import json
from typing import Any

from lorakit.chat.constraints.jsons import to_json_schema
from lorakit.chat.constraints.nodes import Schema


def literal(text: str) -> str:
    """An expression that this text alone fits."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")  # DEL is none of its


def expression(pattern: str) -> str:
    """An expression of a regular expression in Rust's syntax, which has to fit as a whole."""
    if not pattern:
        return '""'
    written: list[str] = []
    escaped = False
    for char in pattern:
        if char == "/" and not escaped:
            written.append("\\/")
        elif char in "\n\r" and not escaped:
            written.append("\\n" if char == "\n" else "\\r")
        else:
            written.append(char)
        escaped = char == "\\" and not escaped
    return f"/{''.join(written)}/"


def json_rule(schema: Schema, item_separator: str = ", ", key_separator: str = ": ") -> str:
    """An expression of the JSON texts whose values fit, keys in the schema's order, with these
    separators (as regular expressions) and no other space."""
    return json_text(
        schema,
        item_separator=item_separator,
        key_separator=key_separator,
        whitespace_flexible=False,
    )


def json_text(schema: Schema, **how: Any) -> str:
    """`json_rule` with llguidance's own settings."""
    return f"%json {json.dumps({'x-guidance': how, **to_json_schema(schema)}, ensure_ascii=False)}"
