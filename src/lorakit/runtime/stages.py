"""Which adapters act on which tokens of a sequence, and the key that its KV cache has by them.

A plan is a request's history and its future: what acted on each token that was fed to the model,
and what acts on those to come. docs/engines.md defines how a change of adapters enters it.

Most adapters act on every token. An adapter with invocation tokens (aLoRA, Greenewald et al. 2025)
acts from the last place on where the prompt holds them; what comes before is the base's, and its KV
may be shared with the base.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from lorakit.engines.protocol import AdapterSet

KvPolicy = Literal["keep", "recompute"]
SetKey = tuple[tuple[str, float], ...]  # (adapter digest, scale), in order of application
S = TypeVar("S")
Key = tuple[tuple[int, SetKey], ...]  # from which token on which set acts; the first from 0


@dataclass(frozen=True, slots=True)
class Plan:
    """adapters: all that were asked for. stages: from which token on which of them act."""

    adapters: AdapterSet
    stages: tuple[tuple[int, AdapterSet], ...]
    key: Key

    def at(self, position: int) -> tuple[AdapterSet, int | None]:
        """The set that acts on a token, and at which token the next one takes over."""
        current: AdapterSet = ()
        for start, adapters in self.stages:
            if start > position:
                return current, start
            current = adapters
        return current, None

    @property
    def last(self) -> AdapterSet:
        """The set that acts on what is generated."""
        return self.stages[-1][1]

    def then(self, new: Plan, start: int) -> Plan:
        """This history for the tokens before `start`, another plan from there on."""
        stages = _joined(self.stages, new.stages, start)
        return Plan(new.adapters, stages, _joined(self.key, new.key, start))


NO_ADAPTERS = Plan((), ((0, ()),), ((0, ()),))


def plan(
    adapters: AdapterSet,
    prompt: Sequence[int],
    invocations: Mapping[int, Sequence[int]],
    digests: Mapping[int, str],
) -> Plan:
    """The plan of a sequence that begins with `prompt`.

    invocations: the invocation tokens of the adapters that have some, by handle.
    """
    starts = {
        handle: last_occurrence(prompt, invocations[handle]) if handle in invocations else 0
        for handle, _ in adapters
    }
    borders = sorted({0, *(start for start in starts.values() if start is not None)})
    stages = tuple(
        (border, tuple((h, s) for h, s in adapters if _begun(starts[h], border)))
        for border in borders
    )
    key = tuple((start, tuple((digests[h], s) for h, s in chosen)) for start, chosen in stages)
    return Plan(adapters, stages, key)


def _joined(old: tuple[tuple[int, S], ...], new: tuple[tuple[int, S], ...], start: int) -> Any:
    """Stages of `old` before a token and of `new` from it on, without borders between equals."""
    if start <= 0:
        return new
    current = next(chosen for begin, chosen in reversed(new) if begin <= start)
    rest = ((begin, chosen) for begin, chosen in new if begin > start)
    joined = [stage for stage in old if stage[0] < start]
    for stage in ((start, current), *rest):
        if joined[-1][1] != stage[1]:
            joined.append(stage)
    return tuple(joined)


def _begun(start: int | None, position: int) -> bool:
    return start is not None and start <= position


def last_occurrence(tokens: Sequence[int], wanted: Sequence[int]) -> int | None:
    """Where a sequence of tokens stands in another for the last time."""
    tokens, wanted = list(tokens), list(wanted)
    for start in range(len(tokens) - len(wanted), -1, -1):
        if tokens[start] == wanted[0] and tokens[start : start + len(wanted)] == wanted:
            return start
    return None


def agreement(one: Key, other: Key) -> int | None:
    """How many leading tokens two keys treat alike; None if all."""
    for position in sorted({start for start, _ in (*one, *other)}):
        if _at(one, position) != _at(other, position):
            return position
    return None


def _at(key: Key, position: int) -> SetKey:
    return next(chosen for start, chosen in reversed(key) if start <= position)
