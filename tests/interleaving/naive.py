"""The naive reference: a request's answer from its history alone, with no cache at all.

docs/engines.md ("What a request's answer depends on") in code. `History` says which set acts on
which token; `Naive` computes every token's logits from the beginning, in a sequence of its own.
It shares the sampler, the stop strings and the tokenizer with the runtime, and nothing else.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np

from lorakit.adapter import Adapter
from lorakit.engines.protocol import AdapterSet, Engine, Logits, Row
from lorakit.runtime.params import SamplingParams
from lorakit.runtime.sampling import Choice, Sampler
from lorakit.runtime.stopping import StopText
from lorakit.text.tokenizer import TextStream

Chosen = tuple[tuple[str, float], ...]  # (digest of an adapter, scale), in order of application
MEMORY = 20_000  # logits that are remembered, by their whole history


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What was asked for. chosen: the set in force then. stops: tokens that end the answer."""

    prompt: tuple[int, ...]
    params: SamplingParams
    chosen: Chosen = ()
    stops: frozenset[int] = frozenset()
    context: int = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Another set came into force `after` so many tokens (or pieces) of the answer were there."""

    chosen: Chosen
    policy: Literal["keep", "recompute"]
    after: int


class History:
    """A request's tokens, and for each of them the set under which it is fed to the model."""

    def __init__(self, prompt: Sequence[int], chosen: Chosen) -> None:
        self.prompt = tuple(prompt)
        self.tokens = list(prompt)
        self.sets = [chosen] * len(self.tokens)
        self._current = chosen

    @property
    def sampled(self) -> int:
        return len(self.tokens) - len(self.prompt)

    def change(self, chosen: Chosen, policy: str) -> None:
        """The definition. Fed are all tokens but the last, once there is an answer."""
        fed = len(self.tokens) - 1 if self.sampled and policy == "keep" else 0
        self.sets[fed:] = [chosen] * (len(self.tokens) - fed)
        self._current = chosen

    def append(self, token: int) -> History:
        self.tokens.append(token)
        self.sets.append(self._current)
        return self

    def copy(self) -> History:
        return copy.deepcopy(self)


@dataclass(frozen=True, slots=True)
class Step:
    """One token of an answer. pieces: what a stream gives. reason: why it is the last, if it is."""

    choice: Choice
    logits: Logits
    pieces: tuple[str, ...]
    reason: str | None


class Text:
    """What a reader sees of an answer."""

    def __init__(self, decoder: TextStream, stops: Sequence[str]) -> None:
        self._decoder, self._stop = decoder, StopText(stops)
        self.count = 0  # of the pieces until now

    @property
    def stopped(self) -> bool:
        return self._stop.stopped

    def add(self, token: int) -> tuple[str, ...]:
        return self._shown(self._stop.push(self._decoder.step(token)))

    def end(self) -> tuple[str, ...]:
        return self._shown(self._stop.push(self._decoder.flush()) + self._stop.flush())

    def _shown(self, text: str) -> tuple[str, ...]:
        self.count += bool(text)
        return (text,) if text else ()


@dataclass(slots=True)
class Naive:
    """Answers computed on an engine of one's own. adapters: all that there are, by digest."""

    engine: Engine
    adapters: Mapping[str, Adapter]
    decoder: Callable[[], TextStream]  # a fresh one for each answer
    _handles: dict[str, int] = field(default_factory=dict)
    _memory: dict[object, Logits] = field(default_factory=dict)

    def answer(
        self,
        question: Question,
        changes: Sequence[Change] = (),
        by: Literal["tokens", "pieces"] = "tokens",
        believed: Sequence[int] = (),
    ) -> Iterator[Step]:
        """Token after token, as far as the caller looks. by: what `Change.after` counts.

        believed: what the answer may be; where it is, its tokens cost one forward, not one each.
        """
        history = History(question.prompt, question.chosen)
        sampler = Sampler(question.params, question.prompt)
        text, due, reason = Text(self.decoder(), question.params.stop), list(changes), None
        while reason is None:
            while due and due[0].after <= (text.count if by == "pieces" else history.sampled):
                change = due.pop(0)
                history.change(change.chosen, change.policy)
            stretch = believed[history.sampled : due[0].after if due else None]
            logits = self.logits_after(history, stretch[:-1])
            choice = sampler.choose(logits)
            if choice.token in question.stops:
                pieces, reason = text.end(), "stop"
            else:
                history.append(choice.token)
                pieces = text.add(choice.token)
                full = len(history.tokens) > question.context
                if text.stopped:
                    reason = "stop"
                elif full or history.sampled >= question.params.max_tokens:
                    pieces += text.end()
                    reason = "stop" if text.stopped else "length"
            yield Step(choice, logits, pieces, reason)

    def logits_after(self, history: History, coming: Sequence[int] = ()) -> Logits:
        """Logits [vocabulary] of what follows, every token computed anew.

        coming: tokens that are likely to follow, whose own logits are computed with them.
        """
        key = self._key(history)
        if key not in self._memory:
            if len(self._memory) >= MEMORY:
                self._memory.clear()
            ahead = history.copy()
            keys = [key, *(self._key(ahead.append(token)) for token in coming)]
            found = self._run(self._parts(ahead.prompt, ahead.tokens, ahead.sets))
            for known, logits in zip(keys, found[-len(keys) :], strict=True):
                self._memory[known] = logits.copy()
        return self._memory[key]

    def _key(self, history: History) -> object:
        parts = self._parts(history.prompt, history.tokens, history.sets)
        return tuple(history.tokens), tuple((len(ids), chosen) for ids, chosen in parts)

    def logits(self, tokens: Sequence[int], chosen: Chosen) -> Logits:
        """Logits of every position [tokens, vocabulary]."""
        return self._run(self._parts(tokens, tokens, [chosen] * len(tokens)))

    def hidden(self, tokens: Sequence[int], chosen: Chosen) -> np.ndarray:
        """Last hidden states [tokens, hidden size]."""
        parts = self._parts(tokens, tokens, [chosen] * len(tokens))
        return self.engine.hidden([(ids, self._held(held)) for ids, held in parts])

    def _parts(
        self, prompt: Sequence[int], tokens: Sequence[int], sets: Sequence[Chosen]
    ) -> list[tuple[np.ndarray, Chosen]]:
        """The tokens, cut where other adapters begin to act."""
        acting = [self._acting(chosen, prompt, at) for at, chosen in enumerate(sets)]
        edges = [at for at in range(1, len(tokens)) if acting[at] != acting[at - 1]]
        return [
            (np.asarray(tokens[start:end], np.int64), acting[start])
            for start, end in zip([0, *edges], [*edges, len(tokens)], strict=True)
        ]

    def _acting(self, chosen: Chosen, prompt: Sequence[int], position: int) -> Chosen:
        """Of a set, those that act at a position; see aLoRA."""
        return tuple(
            (digest, scale)
            for digest, scale in chosen
            if position >= _begin(self.adapters[digest].invocation_tokens, tuple(prompt))
        )

    def _held(self, chosen: Chosen) -> AdapterSet:
        for digest, _ in chosen:
            if digest not in self._handles:
                self._handles[digest] = self.engine.attach(
                    self.engine.prepare(self.adapters[digest])
                )
        return tuple((self._handles[digest], scale) for digest, scale in chosen)

    def _run(self, parts: Sequence[tuple[np.ndarray, Chosen]]) -> Logits:
        """Logits of every position, from a sequence that is opened for them."""
        sequence = self.engine.open_sequence()
        found = []
        try:
            for tokens, chosen in parts:
                held = self._held(chosen)
                row = Row(sequence=sequence, tokens=tokens, adapters=held, logits="all")
                found.append(self.engine.forward([row])[0].copy())
        finally:
            self.engine.close_sequence(sequence)
        return np.concatenate(found)


@lru_cache(4096)
def _begin(invocation: tuple[int, ...], prompt: tuple[int, ...]) -> float:
    """From which token on an adapter acts: 0, the last place of its invocation, or never."""
    if not invocation:
        return 0
    n = len(invocation)
    return max((at for at in range(len(prompt)) if prompt[at : at + n] == invocation), default=1e9)


def could_differ(
    question: Question, before: Sequence[Logits], logits: Logits, token: int | None, noise: float
) -> bool:
    """Whether logits that are off by `noise` at most give another token (this one, if known).

    before: the logits of the tokens until there.
    """

    def choose(changed: Logits) -> int:
        sampler = Sampler(question.params, question.prompt)
        for earlier in before:
            sampler.choose(earlier)
        return sampler.choose(changed.astype(np.float32)).token

    chosen, ids = choose(logits), np.arange(len(logits))
    random = np.random.default_rng(0)
    shifts = [noise * np.where(ids < edge, 1, -1) for edge in (chosen, chosen + 1)]
    shifts += [-shift for shift in shifts]
    shifts += [random.uniform(-noise, noise, len(logits)) for _ in range(24)]
    if token is not None:
        shifts.append(noise * ((ids == token).astype(int) - (ids == chosen)))
    else:
        second = int(np.argsort(logits)[-2])
        shifts.append(noise * ((ids == second).astype(int) - (ids == chosen)))
    found = {choose(logits + shift) for shift in shifts}
    return token in found if token is not None else found != {chosen}
