"""Rules of calls whose arguments are JSON: how a constraint writes what these formats read.

Each function has a rule of its own, with its name as fixed text, so that a model chooses between
functions by the first tokens that differ, and the rest of the name is forced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lorakit.chat.constraints.lark import json_rule, literal
from lorakit.chat.constraints.nodes import Function
from lorakit.chat.formats.jsoncall import to_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """`call`: the expression of one call; `text`: the rules that it uses."""

    call: str
    text: str


def json_calls(functions: Sequence[Function], key: str = "arguments") -> Rules:
    """Calls as {"name": "f", <key>: {...}}, with the white space of json.dumps."""
    return called(
        functions,
        lambda name: literal(f'{{"name": {to_json(name)}, "{key}": '),
        literal("}"),
    )


def called(functions: Sequence[Function], before: Callable[[str], str], after: str) -> Rules:
    """Calls as `before(name)`, the arguments as JSON, `after`. Both are expressions."""
    lines = [
        f"call_{i}: {before(function.name)} {json_rule(function.arguments)} {after}".rstrip()
        for i, function in enumerate(functions)
    ]
    choice = " | ".join(f"call_{i}" for i in range(len(functions)))
    return Rules(call="call_one", text="\n".join([f"call_one: {choice}", *lines]))
