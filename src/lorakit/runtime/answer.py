"""One answer as it grows: its tokens, what constrains them, its text, and where it ends.

It knows no engine: it takes logits, one position at a time, and says which tokens follow. Tokens
that a constraint forces are added without logits, each exactly as if it had been chosen.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from lorakit.engines.protocol import Logits, Tokens
from lorakit.runtime.constraint import Constraint
from lorakit.runtime.generation import Completion, FinishReason, Generation
from lorakit.runtime.lookup import Lookup
from lorakit.runtime.sampling import Choice, Sampler
from lorakit.runtime.stopping import StopText


class TextDecoder(Protocol):
    """Turns tokens into text piece by piece; never splits a character."""

    def step(self, token: int) -> str: ...

    def flush(self) -> str: ...


class Answer:
    """tokens: prompt plus answer, without the token that stopped it. choices: every token of the
    answer. reason: why it has ended, once it has. plain: nothing constrains it, and nothing is
    looked up for it."""

    def __init__(
        self,
        generation: Generation,
        decoder: TextDecoder,
        stops: frozenset[int],
        constraint: Constraint | None,
    ) -> None:
        self.tokens = list(generation.prompt)
        self.choices: list[Choice] = []
        self.reason: FinishReason | None = None
        self.first_token = 0.0  # when it came, on the clock of time.monotonic
        self._generation = generation
        self._params = generation.params
        text = [token for token in generation.prompt if token >= 0]
        self._sampler = Sampler(generation.params, text, constraint, stops)
        self._decoder = decoder
        self._stops = stops
        self._stop_text = StopText(generation.params.stop)
        self._text: list[str] = []
        self._lookup: Lookup | None = None
        if self._params.lookup or (self._params.lookup is None and constraint is not None):
            self._lookup = Lookup(self.tokens, never=stops)
        # One token tells little of what follows in free text, and enough in a form to fill in.
        self._shortest_match = 2
        self._most = 0  # ids that `among` may name
        self._narrow = False  # whether the next choice is likely one of few
        self.plain = constraint is None and self._lookup is None

    # What comes next.

    def choose(self, logits: Logits, context: int) -> None:
        """Add the token that float32 logits [vocabulary] give, and what is forced after it.

        context: the most tokens of prompt and answer. Raises EngineError.
        """
        if self._most and not self._narrow:
            self._narrow = self._among(self._most) is not None
        self._add(self._sampler.choose(logits), context)
        if not self.plain:
            self.force(context)

    def force(self, context: int) -> None:
        """Add the tokens that must come next, and end where nothing may follow.

        With log probabilities asked for none is added: each then needs its logits; see `draft`.
        """
        while self.reason is None and (forced := self._forced()):
            self._shortest_match, self._narrow = 1, True
            for token in forced:
                self._add(self._sampler.take(token), context)
                if self.reason is not None:
                    return
        if self.reason is None and self._ended:
            self._end("stop")

    def _forced(self) -> Sequence[int]:
        return self._sampler.forced() if self._params.logprobs is None else ()

    def draft(self, most: int, *, lookup: bool) -> Sequence[int]:
        """Tokens that may well come next, at most `most`, for a step that gives logits for each.

        lookup: whether to propose what followed the same tokens before.
        """
        most = min(most, self._params.max_tokens - len(self.choices) - 1)
        if most < 1:
            return ()
        if self._params.logprobs is not None and (forced := self._sampler.forced()):
            self._shortest_match = 1
            return forced[:most]
        if not lookup or self._lookup is None:
            return ()
        found = self._lookup.propose(most, shortest=self._shortest_match)
        constraint = self._sampler.constraint
        return found[: constraint.fitting(found)] if found and constraint is not None else found

    def drafted(self, proposed: int, right: int) -> None:
        """A step has shown how many tokens of a draft were right."""
        if self._lookup is not None:
            self._lookup.settle(proposed, right)

    def among(self, most: int, vocabulary: int) -> Tokens | None:
        """The ids of which the next token is one, where there are at most `most` and nothing else
        needs the whole vocabulary; else None.

        The mask is made for it before the step. So it is asked for only where tokens were forced
        since the last choice, or that was one of few: a wide mask, which takes the longest, is
        made beside the step.
        """
        if self._sampler.constraint is None or self._params.logprobs is not None:
            return None
        self._most = most
        found = self._among(most) if most and self._narrow else None
        self._narrow = found is not None
        if found is None:
            return None
        found = found[found < vocabulary]
        return found if len(found) else None

    def _among(self, most: int) -> Tokens | None:
        constraint = self._sampler.constraint
        return None if constraint is None else constraint.allowed(most)

    def prepare(self, draft: Sequence[int]) -> None:
        """Let the constraint's masks be computed beside the step that is about to run."""
        if self._sampler.constraint is not None:
            self._sampler.constraint.prepare(draft)

    # Its text and its end.

    @property
    def _ended(self) -> bool:
        return self._sampler.constraint is not None and self._sampler.constraint.ended

    def _add(self, choice: Choice, context: int) -> None:
        """Take in a token: emit text, and end where a token, a text or a limit says so."""
        self.choices.append(choice)
        self.first_token = self.first_token or time.monotonic()
        if choice.token in self._stops:
            self._end("stop")
            return
        self.tokens.append(choice.token)
        piece = self._decoder.step(choice.token)
        early = len(self.choices) <= self._params.min_tokens
        self._emit(piece if early else self._stop_text.push(piece))
        if self._stop_text.stopped:
            self.reason = "stop"
        elif self._ended:
            self._end("stop")
        elif len(self.choices) >= self._params.max_tokens or len(self.tokens) > context:
            self._end("length")

    def _end(self, reason: FinishReason) -> None:
        self._emit(self._stop_text.push(self._decoder.flush()) + self._stop_text.flush())
        self.reason = "stop" if self._stop_text.stopped else reason

    def _emit(self, text: str) -> None:
        if text:
            self._text.append(text)
            self._generation.emit(text)

    def completion(
        self, reason: FinishReason, cached: int, adapters: tuple[tuple[str, float], ...]
    ) -> Completion:
        """What it came to. cached: how many prompt tokens were not computed."""
        now, submitted = time.monotonic(), self._generation.submitted
        return Completion(
            text="".join(self._text),
            tokens=tuple(self.choices),
            finish_reason=reason,
            prompt_tokens=len(self._generation.prompt),
            cached_tokens=cached,
            adapters=adapters,
            first_token_seconds=(self.first_token or now) - submitted,
            seconds=now - submitted,
        )
