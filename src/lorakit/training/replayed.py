"""The rows that a run replays and the examples that measure what was kept, made once.

They are kept in the run's checkpoint: a resumed run must not ask the base again, whose answers may
differ in a last bit and so in a word.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lorakit.adapter import Array
from lorakit.training.checkpoint import Checkpoint
from lorakit.training.data import Example
from lorakit.training.render import Rendered
from lorakit.training.replay import Answered

MEASURED, MOST_MEASURED = 1 / 7, 60  # of the requests, held back to measure what was kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """By companion, "" for the base alone: rows to learn from, and examples to measure by."""

    rows: Mapping[str, Sequence[Rendered]]
    kept: Mapping[str, Sequence[Example]]

    @property
    def count(self) -> int:
        """How many rows there are."""
        return sum(map(len, self.rows.values()))

    @classmethod
    def of(cls, answers: Mapping[str, Sequence[Answered]], seed: int) -> Replayed:
        """From the base's answers, beside each companion."""
        parts = {name: _divided(found, seed) for name, found in answers.items()}
        return cls(
            rows={name: rows for name, (rows, _) in parts.items()},
            kept={name: kept for name, (_, kept) in parts.items()},
        )

    def tensors(self) -> dict[str, Array]:
        """The rows, for a checkpoint."""
        found: dict[str, Array] = {}
        for number, rows in enumerate(self.rows.values()):
            ids = [token for row in rows for token in row.ids]
            sizes = [(len(row.ids), len(row.ids) - row.learnt) for row in rows]
            found[f"replayed/{number}/ids"] = np.array(ids, np.int32)
            found[f"replayed/{number}/sizes"] = np.array(sizes, np.int32).reshape(-1, 2)
        return found

    def state(self) -> dict[str, Any]:
        """The rest, for a checkpoint."""
        kept = {name: [asdict(example) for example in each] for name, each in self.kept.items()}
        return {"kept": kept, "companions": list(self.rows)}

    @classmethod
    def stored(cls, checkpoint: Checkpoint) -> Replayed:
        """From a checkpoint that holds both."""
        state, tensors = checkpoint.state, checkpoint.part("replayed")
        rows = {
            name: list(_rows(tensors[f"{number}/ids"], tensors[f"{number}/sizes"]))
            for number, name in enumerate(state["companions"])
        }
        kept = {name: [_example(one) for one in each] for name, each in state["kept"].items()}
        return cls(rows=rows, kept=kept)


def _divided(answers: Sequence[Answered], seed: int) -> tuple[list[Rendered], list[Example]]:
    """Rows to learn from, and examples that are held back; those that cannot be compared stay."""
    order = random.Random(f"{seed} kept").sample(range(len(answers)), len(answers))
    wanted = min(int(len(answers) * MEASURED), MOST_MEASURED)
    held: dict[int, Example] = {}
    for index in order:
        if len(held) < wanted and (example := answers[index].example()) is not None:
            held[index] = example
    rows = [each.rendered() for i, each in enumerate(answers) if i not in held and each.tokens]
    return rows, list(held.values())


def _rows(ids: Array, sizes: Array) -> Iterator[Rendered]:
    begin = 0
    for length, prompt in sizes.tolist():
        row = tuple(ids[begin : begin + length].tolist())
        yield Rendered(ids=row, answers=(*[False] * prompt, *[True] * (length - prompt)))
        begin += length


def _example(stored: Mapping[str, Any]) -> Example:
    return Example(
        **{**stored, "messages": tuple(stored["messages"]), "tools": tuple(stored["tools"])}
    )
