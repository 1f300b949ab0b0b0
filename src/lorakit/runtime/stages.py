"""Which adapters act on which tokens of a sequence, and the resulting key of its KV cache.

A plan covers a request's past and future: which adapters acted on each token already fed to the
model, and which act on those to come. docs/engines.md defines how a change of adapters alters it.

Most adapters act on every token. An adapter with invocation tokens (aLoRA, Greenewald et al. 2025)
acts from their last occurrence in the prompt on; the tokens before it are computed by the base
alone, and share their KV with requests without the adapter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from lorakit.engines.protocol import AdapterSet

KvPolicy = Literal["keep", "recompute"]
SetKey = tuple[tuple[str, float], ...]  # (adapter digest, scale), in order of application
S = TypeVar("S")
Key = tuple[tuple[int, SetKey], ...]  # (first token, set that acts from there on); starts at 0


@dataclass(frozen=True, slots=True)
class Plan:
    """adapters: all requested. stages: (first token, the set that acts from there on)."""

    adapters: AdapterSet
    stages: tuple[tuple[int, AdapterSet], ...]
    key: Key

    def at(self, position: int) -> tuple[AdapterSet, int | None]:
        """The set that acts on a token, and the token at which the next set starts."""
        current: AdapterSet = ()
        for start, adapters in self.stages:
            if start > position:
                return current, start
            current = adapters
        return current, None

    @property
    def last(self) -> AdapterSet:
        """The set that acts on generated tokens."""
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
    """Stages of `old` before `start` and of `new` from there on; equal neighbours are merged."""
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
    """Where `wanted` last occurs in `tokens`; None if it does not."""
    tokens, wanted = list(tokens), list(wanted)
    for start in range(len(tokens) - len(wanted), -1, -1):
        if tokens[start] == wanted[0] and tokens[start : start + len(wanted)] == wanted:
            return start
    return None


def agreement(one: Key, other: Key) -> int | None:
    """The number of leading tokens on which two keys agree; None if on all."""
    if one == other:  # as most are, and many are compared for each request
        return None
    for position in sorted({start for start, _ in (*one, *other)}):
        if _at(one, position) != _at(other, position):
            return position
    return None


def _at(key: Key, position: int) -> SetKey:
    return next(chosen for start, chosen in reversed(key) if start <= position)
