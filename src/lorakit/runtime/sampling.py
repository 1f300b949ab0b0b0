"""From logits to a token: one sampler, shared by all engines.

Order of operations: biases, penalties, temperature, top-k, top-p, min-p, typical-p, draw (the order
of Hugging Face generation); or biases, penalties, temperature, mirostat, draw. What a constraint
forbids is masked before the temperature, so that the draw is from the distribution that it leaves;
where it leaves one token nothing is drawn. The same logits, parameters and seed give the same token
on every engine.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lorakit.engines.protocol import Logits
from lorakit.errors import EngineError
from lorakit.runtime.constraint import Constraint
from lorakit.runtime.filters import (
    Ids,
    Weights,
    at_most_kth_largest,
    index,
    largest,
    nucleus,
    typical,
)
from lorakit.runtime.params import SamplingParams

RULED_OUT = -100.0  # a bias that means never, whatever the logits and the temperature
NEGLIGIBLE = 30.0  # nats below the best token: e^-30 of its probability, beneath float32
FARTHEST = 1e38  # below the best logit, whatever the temperature: what is ruled out is farther


@dataclass(frozen=True, slots=True)
class Choice:
    """A token of an answer; with logprobs asked for, its log probability and the best alternatives.

    logprob, top: of the model's own distribution. constrained_logprob: of what a constraint leaves
    of it; None where there is no constraint.
    """

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    constrained_logprob: float | None = None


class Sampler:
    """The sampling state of one request: its random stream and the tokens that penalties see.

    ends: the tokens that end the answer, which wait for min_tokens.
    """

    def __init__(
        self,
        params: SamplingParams,
        prompt: Sequence[int],
        constraint: Constraint | None = None,
        ends: Collection[int] = (),
    ) -> None:
        self.constraint = constraint
        self._params = params
        self._surprise = 2.0 * (params.mirostat_tau or 0.0)  # the most bits that a token may have
        self._random = np.random.Generator(np.random.PCG64(params.seed))
        self._prompt = np.unique(np.asarray(prompt, np.int64))
        self._counts: dict[int, int] = {}
        self._chosen = 0
        self._ends = np.fromiter(ends, np.int64, len(ends)) if params.min_tokens else None
        self._biased = np.fromiter(params.logit_bias, np.int64, len(params.logit_bias))
        biases = np.fromiter(params.logit_bias.values(), np.float32, len(params.logit_bias))
        self._biases = np.where(biases <= RULED_OUT, np.float32(-np.inf), biases)
        self._draws = np.float32(params.temperature) > 0
        self._excludes = self._ends is not None or bool(np.isneginf(self._biases).any())
        self._adjusts = bool(params.logit_bias) or (
            params.repetition_penalty, params.presence_penalty, params.frequency_penalty
        ) != (1.0, 0.0, 0.0)  # fmt: skip

    def choose(self, logits: Logits) -> Choice:
        """Choose a token from float32 logits [vocabulary], which are left as they are.

        Raises EngineError for logits that hold NaN or only infinities.
        """
        forced = self.forced()
        token = forced[0] if forced else self._chosen_of(logits)
        choice = Choice(token)
        if self._params.logprobs is not None:
            choice = _with_logprobs(logits, token, self._params.logprobs)
            if self.constraint is not None:
                among = 0.0 if forced else _share(self.constraint.mask(logits), token)
                choice = replace(choice, constrained_logprob=among)
        self._accept(token)
        return choice

    def forced(self) -> Sequence[int]:
        """The tokens that must come next; empty where there is a choice."""
        return self.constraint.forced() if self.constraint is not None else ()

    def take(self, token: int) -> Choice:
        """Add a forced token; no logits are needed, and nothing is drawn."""
        self._accept(token)
        return Choice(token)

    def _accept(self, token: int) -> None:
        if self.constraint is not None:
            self.constraint.accept(token)
        self._chosen += 1
        self._counts[token] = self._counts.get(token, 0) + 1

    def _chosen_of(self, logits: Logits) -> int:
        adjusted = self._adjusted(logits) if self._adjusts else logits
        open_ended = self._without_ends(adjusted)
        if self.constraint is None:
            return self._pick(open_ended)
        return self._constrained(self.constraint, open_ended, adjusted)

    def _pick(self, logits: Logits) -> int:
        token = int(logits.argmax())  # the first NaN, if there is one
        if not math.isfinite(logits[token]):
            why = "; logit_bias and min_tokens may leave no token" if self._excludes else ""
            raise EngineError(f"the logits are not finite{why}")
        return self._draw(logits, logits[token]) if self._draws else token

    def _without_ends(self, logits: Logits) -> Logits:
        """The logits as they are, or a copy in which no token ends the answer."""
        if self._ends is None or self._chosen >= self._params.min_tokens:
            return logits
        logits = logits.copy()
        logits[self._ends[self._ends < len(logits)]] = -np.inf  # a tokenizer may know more
        return logits

    def _constrained(self, constraint: Constraint, logits: Logits, ending: Logits) -> int:
        """A token that is allowed. Greedy: all tokens are checked only where the best is not.

        ending: the logits with those of end tokens, for where a grammar allows nothing else.
        """
        best = int(logits.argmax())
        if np.isnan(logits[best]):
            raise EngineError("the logits are not finite")
        if not self._draws and math.isfinite(logits[best]) and constraint.allows(best):
            return best
        allowed = constraint.mask(logits)
        if not np.isfinite(allowed.max()):
            allowed = constraint.mask(ending)
        if not np.isfinite(allowed.max()):
            raise EngineError("the grammar allows no token here")
        if np.count_nonzero(allowed > -np.inf) == 1:
            return int(allowed.argmax())  # nothing is drawn, as for a forced token
        return self._pick(allowed)

    def _adjusted(self, logits: Logits) -> Logits:
        """A copy with biases and penalties."""
        params, logits = self._params, logits.copy()
        logits[self._biased] += self._biases
        output = np.fromiter(self._counts, np.int64, len(self._counts))
        if params.repetition_penalty != 1.0:
            seen = np.union1d(self._prompt, output)
            values = logits[seen]
            factor = np.float32(params.repetition_penalty)
            logits[seen] = np.where(values > 0, values / factor, values * factor)
        if len(output):
            counts = np.fromiter(self._counts.values(), np.float32, len(output))
            logits[output] -= params.presence_penalty + params.frequency_penalty * counts
        return logits

    def _draw(self, logits: Logits, best: np.float32) -> int:
        tokens, weights = self._candidates(logits, best)
        if self._params.mirostat_tau is not None:
            return self._mirostat(tokens, weights, self._params.mirostat_tau)
        return int(tokens[index(weights, self._random.random())])

    def _mirostat(self, tokens: Ids, weights: Weights, tau: float) -> int:
        """Mirostat 2.0: drop tokens of too much surprise, draw, and adapt the limit."""
        bits = -np.log2(weights / weights.sum(dtype=np.float64))
        kept = bits <= max(self._surprise, float(bits.min()))  # the best token always
        tokens, weights = tokens[kept], weights[kept]
        chosen = index(weights, self._random.random())
        surprise = -math.log2(float(weights[chosen]) / float(weights.sum(dtype=np.float64)))
        self._surprise -= self._params.mirostat_eta * (surprise - tau)
        return int(tokens[chosen])

    def _candidates(self, logits: Logits, best: np.float32) -> tuple[Ids, Weights]:
        """Tokens that may be drawn, with float32 weights; that of the best token is 1.

        Each filter narrows the vocabulary before anything is exponentiated or sorted.
        """
        params = self._params
        reach = NEGLIGIBLE
        if params.min_p > 0 and params.top_p == 1.0:  # else top-p needs the whole mass first
            reach = min(reach, -math.log(params.min_p))
        floor = best - np.float32(min(params.temperature * reach, FARTHEST))
        if params.top_k > 0:
            floor = max(floor, at_most_kth_largest(logits, params.top_k))
        tokens = np.flatnonzero(logits >= floor)
        if 0 < params.top_k < len(tokens):
            tokens = largest(logits, tokens, params.top_k)
        weights = np.exp((logits[tokens] - best) / np.float32(params.temperature))
        if params.top_p < 1.0:
            tokens, weights = nucleus(tokens, weights, params.top_p)
        likely = weights >= params.min_p
        tokens, weights = tokens[likely], weights[likely]
        return (
            typical(tokens, weights, params.typical_p)
            if params.typical_p < 1
            else (tokens, weights)
        )


def _with_logprobs(logits: Logits, token: int, count: int) -> Choice:
    total = _log_total(logits)
    pairs = []
    if count := min(count, len(logits)):
        near = np.flatnonzero(logits >= at_most_kth_largest(logits, count))
        pairs = [(int(t), float(logits[t]) - total) for t in largest(logits, near, count)]
    pairs.sort(key=lambda pair: (-pair[1], pair[0]))
    return Choice(token, float(logits[token]) - total, tuple(pairs))


def _share(masked: Logits, token: int) -> float:
    """The log probability of a token among those that a mask leaves."""
    return float(masked[token]) - _log_total(masked)


def _log_total(logits: Logits) -> float:
    best = logits.max()
    return float(best) + math.log(np.exp(logits - best).sum(dtype=np.float64))
