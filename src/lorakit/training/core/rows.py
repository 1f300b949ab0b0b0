"""A batch as one row: where examples begin alike, the common tokens stand there once.

A row is groups; a group is a shared prefix and its tails, each of which sees the prefix and itself.
A prefix of no token is plain packing. Positions restart, so that every example is computed as if it
stood alone. Every pair of a hidden state and its label is listed: one state of a prefix may have
several labels. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Protocol

Tokens = Sequence[int]
PADDED = 128  # tails shorter than this may be padded to each other


class Example(Protocol):
    """Token ids, and of each whether it is to be learnt."""

    @property
    def ids(self) -> Sequence[int]: ...
    @property
    def answers(self) -> Sequence[bool]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Tails:
    """Tails of like length, which attention takes in one call: begin and length of each."""

    starts: tuple[int, ...]
    lengths: tuple[int, ...]

    @property
    def longest(self) -> int:
        return max(self.lengths)

    @property
    def even(self) -> bool:
        """Of one length, so that they are one block of the row."""
        return min(self.lengths) == self.longest


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A prefix that begins at `start`, and the tails that follow it in the row."""

    start: int
    prefix: int
    tails: tuple[Tails, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """One row. `states` and `labels` are the pairs to be learnt; `owner` is an example by token
    (of a shared token, one of those that share it)."""

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    groups: tuple[Group, ...]
    states: tuple[int, ...]
    labels: tuple[int, ...]
    owner: tuple[int, ...]


def pack(examples: Sequence[Example], keys: Sequence[Hashable] | None = None) -> Packed:
    """One row of a batch. Examples of different keys share no token."""
    keys = keys or [None] * len(examples)
    order = sorted(range(len(examples)), key=lambda i: (repr(keys[i]), tuple(examples[i].ids)))
    row = _Row(examples)
    for _, members in groupby(order, key=lambda i: keys[i]):
        for part in _split(list(members), examples):
            row.add(part)
    return row.packed()


def shared(a: Tokens, b: Tokens) -> int:
    """How many tokens two sequences begin with alike."""
    most = min(len(a), len(b))
    return next((i for i in range(most) if a[i] != b[i]), most)


def _split(members: list[int], examples: Sequence[Example]) -> Iterator[list[int]]:
    """Sorted examples in groups, cut where that leaves fewer tokens in all."""
    common = [shared(examples[a].ids, examples[b].ids) for a, b in pairwise(members)]
    if common:
        prefix = min(common)
        at = common.index(prefix) + 1
        saved = sum(
            (min(part, default=0) - prefix) * len(part)
            for part in (common[: at - 1], common[at:])
            if part
        )
        if prefix == 0 or saved > prefix:
            yield from _split(members[:at], examples)
            yield from _split(members[at:], examples)
            return
    yield members


class _Row:
    """A row that grows by groups; groups without a prefix are packed together at the end."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples
        self._ids: list[int] = []
        self._positions: list[int] = []
        self._owner: list[int] = []
        self._groups: list[Group] = []
        self._pairs: list[tuple[int, int]] = []
        self._alone: list[int] = []

    def add(self, members: list[int]) -> None:
        if len(members) == 1:
            self._alone += members
            return
        ids = [self._examples[i].ids for i in members]
        self._group(members, shared(ids[0], ids[-1]))  # sorted: the first and the last differ most

    def packed(self) -> Packed:
        if self._alone:
            self._group(self._alone, 0)
        return Packed(
            ids=tuple(self._ids),
            positions=tuple(self._positions),
            groups=tuple(self._groups),
            states=tuple(state for state, _ in self._pairs),
            labels=tuple(label for _, label in self._pairs),
            owner=tuple(self._owner),
        )

    def _group(self, members: list[int], prefix: int) -> None:
        start = len(self._ids)
        self._put(members[0], 0, prefix)
        by_length = sorted(members, key=lambda i: (-len(self._examples[i].ids), i))
        tails: list[Tails] = []
        begun: list[tuple[int, int]] = []
        for member in by_length:
            length = len(self._examples[member].ids) - prefix
            if begun and begun[0][1] > PADDED and length < 0.75 * begun[0][1]:
                tails.append(_tails(begun))
                begun = []
            if length:
                begun.append((len(self._ids), length))
            self._learn(member, start, prefix, len(self._ids))
            self._put(member, prefix, prefix + length)
        if begun:
            tails.append(_tails(begun))
        self._groups.append(Group(start=start, prefix=prefix, tails=tuple(tails)))

    def _put(self, member: int, begin: int, end: int) -> None:
        self._ids += self._examples[member].ids[begin:end]
        self._positions += range(begin, end)
        self._owner += [member] * (end - begin)

    def _learn(self, member: int, start: int, prefix: int, tail: int) -> None:
        example = self._examples[member]
        for at in range(1, len(example.ids)):
            if example.answers[at]:
                before = at - 1
                state = start + before if before < prefix else tail + before - prefix
                self._pairs.append((state, example.ids[at]))


def _tails(begun: list[tuple[int, int]]) -> Tails:
    return Tails(starts=tuple(at for at, _ in begun), lengths=tuple(n for _, n in begun))
