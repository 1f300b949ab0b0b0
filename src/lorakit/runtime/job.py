"""A request in the scheduler: its sequence, how much of its tokens is computed, its next row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lorakit.engines.protocol import Capabilities, Logits, Row
from lorakit.errors import CancelledError, DeadlineError, LorakitError
from lorakit.runtime.answer import Answer, TextDecoder
from lorakit.runtime.constraint import Constraint
from lorakit.runtime.generation import Completion, FinishReason, Generation
from lorakit.runtime.prefix import Prefix, Tokens
from lorakit.runtime.stages import Key, KvPolicy, Plan, agreement
from lorakit.text.image_ids import inside, named, row_end


class Job:
    """One admitted or waiting request. Used by the engine's thread only.

    The first `computed` tokens of its answer, prompt included, are in the KV cache of `sequence`,
    each computed under the adapters that `plan` names for it. The plan is the request's history,
    and does not depend on whether the KV was kept, dropped, or reused from another request. The
    first `fed` tokens have been through the model, whatever became of their KV.
    """

    def __init__(
        self,
        generation: Generation,
        decoder: TextDecoder,
        stops: frozenset[int],
        constraint: Constraint | None = None,
    ) -> None:
        self.generation = generation
        self.answer = Answer(generation, decoder, stops, constraint)
        self.sequence: int | None = None
        self.computed = 0
        self.fed = 0
        self.surplus = 0  # tokens that the sequence holds beyond the computed ones
        self.cached = 0
        self.plan: Plan | None = None  # None until it is first admitted
        self.queued = False  # whether it was added to the scheduler
        self.proposes = True  # False once the engine could not forget tokens that were wrong

    @property
    def tokens(self) -> list[int]:
        """Prompt plus answer."""
        return self.answer.tokens

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

    @property
    def begun(self) -> bool:
        """Whether its whole prompt was fed: a change of adapters then acts from there on."""
        return self.fed >= len(self.generation.prompt)

    @property
    def decoding(self) -> bool:
        """Whether its next row yields tokens and costs about one step: all that is pending is one
        token, or was added by the last step."""
        return self.pending == 1 or (self.begun and self.computed >= self.fed)

    def begin(self, sequence: int, cached: int) -> None:
        self.sequence, self.computed = sequence, cached
        if not self.begun:
            self.cached = min(cached, len(self.generation.prompt))

    def park(self) -> None:
        """Give up the sequence; a later `begin` finds its KV in the cache or computes it again."""
        self.sequence, self.computed, self.surplus = None, 0, 0

    def will_share(self, key: Key, tokens: Tokens) -> int:
        """Length of the prefix shared with another job that this one is still computing, else 0."""
        if self.decoding or not self.generation.wants_more:
            return 0
        mine = np.asarray(self.tokens, np.int64)
        common = Prefix(sequence=0, key=self.key, tokens=mine).common(key, tokens[:-1])
        return common if common > self.computed else 0

    def follow(self, new: Plan, policy: KvPolicy) -> int:
        """Switch adapters; returns how many computed tokens agree with the new history.

        The rules are in docs/engines.md. Until the whole prompt was fed they are the same for both
        policies; from then on what was fed keeps its adapters.
        """
        before = self.plan
        if before is None or not self.begun or policy == "recompute":
            self.plan = new
        else:
            self.plan = before.then(new, self.fed)
        if before is None:
            return 0
        alike = agreement(before.key, self.plan.key)
        valid = self.computed if alike is None else min(alike, self.computed)
        return valid - inside(self.tokens, valid)

    # Its next row.

    def row(self, chunk: int, limits: Capabilities) -> Row:
        """About a chunk of the pending tokens; images are never split. Where it decodes, a draft of
        what may come next as well."""
        assert self.sequence is not None
        assert self.plan is not None
        adapters, border = self.plan.at(self.computed)
        if self.answer.plain and self.pending == 1 and self.tokens[-1] >= 0:  # the usual case
            last = np.array(self.tokens[-1:], np.int64)
            return Row(sequence=self.sequence, tokens=last, adapters=adapters)
        end = min(self.computed + chunk, len(self.tokens))
        end = end if border is None else min(end, border)
        end = row_end(self.tokens, self.computed, end)
        tokens = self.tokens[self.computed : end]
        images = self.generation.images
        row = Row(
            sequence=self.sequence,
            tokens=np.asarray(tokens, np.int64),
            adapters=adapters,
            logits="last" if end == len(self.tokens) else "none",
            images={digest: images[digest] for digest in named(tokens)} if images else images,
        )
        return row if row.logits == "none" else self._choosing(row, chunk, border, limits)

    def _choosing(self, row: Row, chunk: int, border: int | None, limits: Capabilities) -> Row:
        """The row with a draft after it, or with the columns that the next token is one of."""
        draft: Sequence[int] = ()
        if self.decoding and border is None:
            room = min(chunk - self.pending, limits.context - len(self.tokens))
            draft = self.answer.draft(room, lookup=limits.lookup and self._may_propose)
        among = None if draft else self.answer.among(limits.few, limits.vocabulary)
        if among is not None:
            return replace(row, among=among)
        self.answer.prepare(draft)
        if not draft:
            return row
        tokens = np.concatenate([row.tokens, np.asarray(draft, np.int64)])
        return replace(row, tokens=tokens, logits=tuple(range(len(row.tokens) - 1, len(tokens))))

    @property
    def _may_propose(self) -> bool:
        """A reader who may change the active set between two pieces gets one token at a time."""
        return self.proposes and not (self.live and self.generation.paced)

    def interrupted(self, now: float) -> LorakitError | None:
        """The error with which it must end before its next token, or None."""
        if self.generation.cancelled:
            return CancelledError("the generation was cancelled")
        if self.generation.deadline is not None and now >= self.generation.deadline:
            return DeadlineError(
                f"the deadline passed after {len(self.answer.choices)} of at most "
                f"{self.generation.params.max_tokens} tokens",
                hint="allow more time, ask for fewer tokens, or lower the load",
            )
        return None

    # What comes of it.

    def force(self, limits: Capabilities) -> FinishReason | None:
        """Before its prompt runs: add what an answer must begin with."""
        if not self.answer.choices and not self.begun:
            self.answer.force(limits.context)
        return self.answer.reason

    def absorb(self, row: Row, logits: Logits, limits: Capabilities) -> FinishReason | None:
        """Process a finished step: choose tokens, emit text; returns the finish reason, if any.

        Of a draft the tokens stand that are what was chosen: each is chosen from its own logits,
        as if it had been alone.
        """
        if row.logits == "last" and row.among is None:  # the usual case: all of it stands
            self.computed += len(row.tokens)
            self.fed = max(self.fed, self.computed)
            self.answer.choose(logits[-1], limits.context)
            self.answer.drafted(0, 0)
            return self.answer.reason
        start, fed = self.computed, row.tokens.tolist()
        pending = min(self.pending, len(fed))
        if row.among is not None:
            logits = _spread(logits, row.among, limits.vocabulary)
        matched = pending
        for at, values in zip(row.positions, logits, strict=True):
            if self.answer.reason is not None or at >= matched:
                break
            if start + at + 1 < len(self.tokens):
                continue  # forced by the token before it
            self.answer.choose(values, limits.context)
            matched = pending + _alike(fed[pending:], self.tokens[start + pending :])
        self.computed = start + matched
        self.surplus = len(fed) - matched
        self.fed = max(self.fed, self.computed)
        if row.logits != "none":
            self.answer.drafted(len(fed) - pending, matched - pending)
        return self.answer.reason

    def completion(
        self, reason: FinishReason, adapters: tuple[tuple[str, float], ...]
    ) -> Completion:
        return self.answer.completion(reason, self.cached, adapters)


def _alike(some: list[int], others: list[int]) -> int:
    """How many tokens two lists have in common, from the first on."""
    differ = (at for at, (a, b) in enumerate(zip(some, others, strict=False)) if a != b)
    return next(differ, min(len(some), len(others)))


def _spread(logits: Logits, ids: Tokens, vocabulary: int) -> Logits:
    """Logits [1, ids] as [1, vocabulary], minus infinity for all others."""
    whole = np.full((1, vocabulary), -np.inf, np.float32)
    whole[0, ids] = logits[0]
    return whole
