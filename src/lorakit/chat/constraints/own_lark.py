"""Grammars that users write in llguidance's Lark dialect: looked through before it reads them.

llguidance follows rules that lead to each other, and `$ref` in schemas, by recursion: some thousand
of them overflow its stack, which would end the process. So the longest way through the rules is
bounded here, and schemas within a grammar are walked as all others are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from lorakit.chat.constraints.gbnf_limits import MAX_LEFT, components
from lorakit.chat.constraints.lark import json_text
from lorakit.chat.constraints.lark_scan import Rule, Token, graph_of, rules_of, sizes_of, token_at
from lorakit.chat.constraints.walking import walk
from lorakit.errors import ParameterError

MAX_TEXT = 1 << 18  # characters
MAX_SIZE = 20_000  # characters and classes of one terminal, repetitions expanded
MAX_SIZES = 200_000  # of all
_DECODER = json.JSONDecoder()
_GUIDANCE = ("item_separator", "key_separator", "whitespace_flexible", "whitespace_pattern")


def checked_lark(text: str) -> str:
    """The grammar with its schemas rewritten. Raises ParameterError for what is beyond a limit."""
    if len(text) > MAX_TEXT:
        raise _refused(f"{len(text)} characters; the limit is {MAX_TEXT}")
    written: list[str] = []
    tokens: list[Token] = []
    at = 0
    while at < len(text):
        try:
            token = token_at(text, at)
        except ValueError as error:
            raise _refused(str(error)) from error
        at += len(token.text)
        if token.text == "%json":
            schema, at = _schema(text, at)
            written.append(schema)
        else:
            written.append(token.text)
            tokens.append(token)
    rules = rules_of(tokens)
    _require_kept(rules)
    _require_shallow(rules)
    _require_small(rules)
    return "".join(written)


def _require_kept(rules: Sequence[Rule]) -> None:
    """Raise ParameterError for attributes whose rules llguidance cannot take back."""
    for rule in rules:
        if "max_tokens" in rule.attributes:
            raise _refused(f"max_tokens of the rule {rule.name} cannot be enforced")


def _require_small(rules: Sequence[Rule]) -> None:
    """Raise ParameterError where terminals are too large once repetitions are expanded."""
    sizes = sizes_of(rules)
    for name, size in sizes.items():
        if size > MAX_SIZE and name[:1].isupper():
            raise _refused(f"{name} is more than {MAX_SIZE} characters with repetitions expanded")
    if sum(sizes.values()) > MAX_SIZES:
        raise _refused(f"terminals of more than {MAX_SIZES} characters, repetitions expanded")


def _schema(text: str, at: int) -> tuple[str, int]:
    """A schema that stands at a position, walked and written again, and where it ends."""
    while at < len(text) and text[at].isspace():
        at += 1
    try:
        schema, end = _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError) as error:
        raise _refused(f"what follows %json is no JSON: {error}") from error
    how: dict[str, Any] = {}
    if isinstance(schema, dict):
        said = schema.pop("x-guidance", {})
        if not isinstance(said, dict) or not said.keys() <= {*_GUIDANCE}:
            raise _refused(f"x-guidance within %json takes {', '.join(_GUIDANCE)}")
        how = said
    return json_text(walk(schema, "%json"), **how), end


def _require_shallow(rules: Sequence[Rule]) -> None:
    """Raise ParameterError where rules lead too deep into each other."""
    graph, _ = graph_of(rules)
    depth: dict[int, int] = {}
    for group in components(graph):
        below = (depth.get(inner, 0) for rule in group for inner in graph[rule])
        deep = len(group) + max(below, default=0)
        if deep > MAX_LEFT:
            raise _refused(f"more than {MAX_LEFT} rules lead to each other")
        depth |= dict.fromkeys(group, deep)


def _refused(why: str) -> ParameterError:
    return ParameterError(
        "the grammar cannot be enforced",
        items=[why],
        hint='a rule named start, such as: start: "yes" | "no"',
    )
