"""A request in the scheduler: its tokens, its sequence, and its text so far."""

from __future__ import annotations

import time
from typing import Protocol

import numpy as np

from lorakit.engines.protocol import Logits, Row
from lorakit.errors import CancelledError, DeadlineError, LorakitError
from lorakit.runtime.generation import Completion, FinishReason, Generation
from lorakit.runtime.prefix import Prefix, Tokens
from lorakit.runtime.sampling import Choice, Constraint, Sampler
from lorakit.runtime.stages import Key, KvPolicy, Plan, agreement
from lorakit.runtime.stopping import StopText
from lorakit.text.image_ids import inside, named, row_end


class TextDecoder(Protocol):
    """Turns tokens into text piece by piece; never splits a character."""

    def step(self, token: int) -> str: ...

    def flush(self) -> str: ...


class Job:
    """One admitted or waiting request. Used by the engine's thread only.

    `tokens` is prompt plus output; the first `computed` of them are in the KV cache of `sequence`,
    each computed under the adapters that `plan` names for it. The plan is the request's history,
    and does not depend on whether the KV was kept, dropped, or reused from another request.
    """

    def __init__(
        self,
        generation: Generation,
        decoder: TextDecoder,
        stops: frozenset[int],
        constraint: Constraint | None = None,
    ) -> None:
        self.generation = generation
        self.tokens = list(generation.prompt)
        self.sequence: int | None = None
        self.computed = 0
        self.cached = 0
        self.plan: Plan | None = None  # None until it is first admitted
        self.queued = False  # whether it was added to the scheduler
        self.output: list[Choice] = []
        text = [token for token in generation.prompt if token >= 0]
        self._sampler = Sampler(generation.params, text, constraint, stops)
        self._decoder = decoder
        self._stop_tokens = stops
        self._stop_text = StopText(generation.params.stop)
        self._text: list[str] = []
        self._first_token = 0.0

    @property
    def live(self) -> bool:
        """Whether it follows the model's active set."""
        return self.generation.adapters is None

    @property
    def key(self) -> Key:
        """Which adapters acted, and will act, on which of its tokens."""
        assert self.plan is not None
        return self.plan.key

    @property
    def prefix(self) -> Prefix:
        """Its computed tokens, for reuse by others."""
        assert self.sequence is not None
        tokens = np.asarray(self.tokens[: self.computed], np.int64)
        return Prefix(sequence=self.sequence, key=self.key, tokens=tokens)

    @property
    def pending(self) -> int:
        """Tokens that are not in the KV cache yet; the last of them yields the next token."""
        return len(self.tokens) - self.computed

    def begin(self, sequence: int, cached: int) -> None:
        self.sequence, self.computed = sequence, cached
        if not self.output:
            self.cached = cached

    def park(self) -> None:
        """Give up the sequence; a later `begin` finds its KV in the cache or computes it again."""
        self.sequence, self.computed = None, 0

    def will_share(self, key: Key, tokens: Tokens) -> int:
        """Length of the prefix shared with another job that this one is still computing, else 0."""
        if not (self.pending > 1 and self.generation.wants_more):
            return 0
        mine = np.asarray(self.tokens, np.int64)
        common = Prefix(sequence=0, key=self.key, tokens=mine).common(key, tokens[:-1])
        return common if common > self.computed else 0

    def follow(self, new: Plan, policy: KvPolicy) -> int:
        """Switch adapters; returns how many computed tokens agree with the new history.

        The rules are in docs/engines.md. Before the first token they are the same for both
        policies; from then on all tokens but the last were fed to the model.
        """
        before = self.plan
        if before is None or not self.output or policy == "recompute":
            self.plan = new
        else:
            self.plan = before.then(new, len(self.tokens) - 1)
        if before is None:
            return 0
        alike = agreement(before.key, self.plan.key)
        valid = self.computed if alike is None else min(alike, self.computed)
        return valid - inside(self.tokens, valid)

    def row(self, chunk: int) -> Row:
        """About a chunk of the pending tokens; images are never split."""
        assert self.sequence is not None
        assert self.plan is not None
        adapters, border = self.plan.at(self.computed)
        if self.pending == 1 and self.tokens[-1] >= 0:  # the usual case
            return Row(
                sequence=self.sequence,
                tokens=np.array(self.tokens[-1:], np.int64),
                adapters=adapters,
            )
        end = min(self.computed + chunk, len(self.tokens))
        end = end if border is None else min(end, border)
        end = row_end(self.tokens, self.computed, end)
        tokens = self.tokens[self.computed : end]
        images = self.generation.images
        return Row(
            sequence=self.sequence,
            tokens=np.asarray(tokens, np.int64),
            adapters=adapters,
            logits="last" if end == len(self.tokens) else "none",
            images={digest: images[digest] for digest in named(tokens)} if images else images,
        )

    def interrupted(self, now: float) -> LorakitError | None:
        """The error with which it must end before its next token, or None."""
        if self.generation.cancelled:
            return CancelledError("the generation was cancelled")
        if self.generation.deadline is not None and now >= self.generation.deadline:
            return DeadlineError(
                f"the deadline passed after {len(self.output)} of at most "
                f"{self.generation.params.max_tokens} tokens",
                hint="allow more time, ask for fewer tokens, or lower the load",
            )
        return None

    def absorb(self, row: Row, logits: Logits, context: int) -> FinishReason | None:
        """Process a finished step: sample, emit text; returns the finish reason, if any."""
        self.computed += len(row.tokens)
        if row.logits == "none":
            return None
        choice = self._sampler.choose(logits[-1])
        self.output.append(choice)
        self._first_token = self._first_token or time.monotonic()
        if choice.token in self._stop_tokens:
            self._emit(self._stop_text.push(self._decoder.flush()) + self._stop_text.flush())
            return "stop"
        self.tokens.append(choice.token)
        piece = self._decoder.step(choice.token)
        early = len(self.output) <= self.generation.params.min_tokens
        self._emit(piece if early else self._stop_text.push(piece))
        if self._stop_text.stopped:
            return "stop"
        if len(self.output) >= self.generation.params.max_tokens or len(self.tokens) > context:
            self._emit(self._stop_text.push(self._decoder.flush()) + self._stop_text.flush())
            return "stop" if self._stop_text.stopped else "length"
        return None

    def completion(
        self, reason: FinishReason, adapters: tuple[tuple[str, float], ...]
    ) -> Completion:
        now = time.monotonic()
        submitted = self.generation.submitted
        return Completion(
            text="".join(self._text),
            tokens=tuple(self.output),
            finish_reason=reason,
            prompt_tokens=len(self.generation.prompt),
            cached_tokens=self.cached,
            adapters=adapters,
            first_token_seconds=(self._first_token or now) - submitted,
            seconds=now - submitted,
        )

    def _emit(self, text: str) -> None:
        if text:
            self._text.append(text)
            self.generation.emit(text)
