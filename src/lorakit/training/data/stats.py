"""What a data set holds, counted: tools, phrasings, values, lengths; and what it is short of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lorakit.chat.calls import function_of
from lorakit.training.data.example import Example
from lorakit.training.data.phrasing import content_text, request_at
from lorakit.training.data.split import kind_of
from lorakit.training.data.swap import arguments_of

FEW_PHRASINGS = 4
FEW_VALUES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """The examples that one function (or combination of them, or no call) answers."""

    name: str
    examples: int
    phrasings: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Counts of a data set. values: of each argument, how many different ones.

    words: of a request, the least, the middle and the most. tokens: the same of whole examples,
    where they were measured.
    """

    examples: int
    tasks: dict[str, int]
    kinds: tuple[Kind, ...]
    values: dict[str, int]
    words: tuple[int, int, int]
    tokens: tuple[int, int, int] | None
    advice: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def stats_of(examples: Sequence[Example], measure: Callable[[Example], int] | None = None) -> Stats:
    """Counts of examples. measure: counts the tokens of one."""
    kinds: dict[str, list[Example]] = {}
    values: dict[str, set[Any]] = {}
    for example in examples:
        kinds.setdefault(kind_of(example), []).append(example)
        for argument, value in arguments_of(example):
            values.setdefault(".".join(argument), set()).add(value)
    counted = tuple(
        Kind(
            name=name,
            examples=len(rows),
            phrasings=len({row.phrasing or row.place for row in rows}),
        )
        for name, rows in sorted(kinds.items())
    )
    different = {name: len(found) for name, found in sorted(values.items())}
    return Stats(
        examples=len(examples),
        tasks=dict(Counter(example.task for example in examples)),
        kinds=counted,
        values=different,
        words=_spread([len(_request(example).split()) for example in examples]),
        tokens=None if measure is None else _spread([measure(example) for example in examples]),
        advice=tuple(_advice(examples, counted, different)),
    )


def _spread(numbers: Sequence[int]) -> tuple[int, int, int]:
    ordered = sorted(numbers) or [0]
    return ordered[0], ordered[len(ordered) // 2], ordered[-1]


def _request(example: Example) -> str:
    at = request_at(example.messages)
    return example.prompt or example.text if at is None else content_text(example.messages[at])


def _advice(
    examples: Sequence[Example], kinds: Sequence[Kind], values: dict[str, int]
) -> Iterator[str]:
    called = [kind for kind in kinds if kind.name not in ("no call", "chat", "completion", "text")]
    names = {name for kind in called for name in kind.name.split(" + ")}
    declared = {function_of(tool)["name"] for e in examples for tool in e.tools}
    for name in sorted(declared - names):
        yield f"no example calls {name}"
    for kind in called:
        if kind.phrasings < FEW_PHRASINGS:
            yield (
                f"{kind.name} is asked for in {kind.phrasings} wording"
                f"{'s' * (kind.phrasings != 1)}: write {FEW_PHRASINGS} or more"
            )
    if called and not any(kind.name == "no call" for kind in kinds):
        yield "every request calls a tool: add some that none fits, with the reply in words"
    free = _free_arguments(examples)
    for name, count in values.items():
        if count < FEW_VALUES and name in free:
            plural = "s" * (count != 1)
            yield f"{name} has {count} value{plural}: {FEW_VALUES} or more teach to copy"


def _free_arguments(examples: Sequence[Example]) -> set[str]:
    """Arguments that may be any string or number."""
    tools = {id(tool): tool for example in examples for tool in example.tools}
    found = set()
    for tool in tools.values():
        function = function_of(tool)
        properties = (function.get("parameters") or {}).get("properties") or {}
        for key, schema in properties.items():
            if isinstance(schema, dict) and not schema.keys() & {"enum", "const"}:
                found.add(f"{function['name']}.{key}")
    return found
