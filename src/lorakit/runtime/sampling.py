"""From logits to a token: one sampler, shared by all engines.

Order of operations: biases, penalties, temperature, top-k, top-p, min-p, typical-p, draw (the order
of Hugging Face generation); or biases, penalties, temperature, mirostat, draw. A constraint (a
grammar) can override the draw. The same logits, parameters and seed give the same token on every
engine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, TypedDict

import numpy as np

from lorakit.engines.protocol import Logits
from lorakit.errors import EngineError, ParameterError
from lorakit.runtime.filters import (
    Ids,
    Weights,
    at_most_kth_largest,
    index,
    largest,
    nucleus,
    typical,
)
from lorakit.values import finite, shown, whole

MAX_BIASES = 10_000  # a request's size is bounded
MAX_BIAS = 1_000_000  # a float32 of this size still tells logits apart
RULED_OUT = -100.0  # a bias that means never, whatever the logits and the temperature
NEGLIGIBLE = 30.0  # nats below the best token: e^-30 of its probability, beneath float32
FARTHEST = 1e38  # below the best logit, whatever the temperature: what is ruled out is farther


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How to choose tokens and when to stop. The defaults are greedy.

    temperature 0 is greedy; top_k 0, top_p 1, min_p 0 and typical_p 1 are off (typical: Meister et
    al. 2022). mirostat_tau is the target surprise per token in bits, and mirostat_eta the rate
    (Basu et al. 2020, version 2), in place of the top-k, top-p, min-p and typical filters. grammar
    is a GBNF text that the answer must follow, in engines with grammars. repetition_penalty divides
    the logits of tokens seen in prompt or output (Keskar et al. 2019); presence and frequency
    penalties are subtracted for tokens of the output, and logit_bias (by token id) is added before
    anything else (OpenAI's definitions); -100 or less rules a token out. logprobs = n reports
    the chosen token's log probability and the n best (of the model's own distribution, before all
    of the above); None reports none. stop strings end the text before them; stop_tokens end it as
    the model's own end tokens do, which ignore_eos switches off. Within the first min_tokens tokens
    no end token is chosen (but where a grammar allows nothing else), and no stop string counts.
    Raises ParameterError that lists every value out of range.
    """

    max_tokens: int = 256
    min_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    mirostat_tau: float | None = None
    mirostat_eta: float = 0.1
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    seed: int | None = None
    logprobs: int | None = None
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[int, ...] = ()
    ignore_eos: bool = False
    grammar: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", _sequence(self.stop))
        object.__setattr__(self, "stop_tokens", _sequence(self.stop_tokens))
        faults = [
            f"{name} must be {expected}, found {shown(getattr(self, name))}"
            for name, expected, valid in _RULES
            if not valid(getattr(self, name))
        ]
        if self.mirostat_tau is not None and self.filtered:
            faults.append("mirostat_tau takes the place of top_k, top_p, min_p and typical_p")
        if not faults and self.min_tokens > self.max_tokens:
            faults.append(
                f"min_tokens must be at most max_tokens, {self.max_tokens}, found {self.min_tokens}"
            )
        if faults:
            raise ParameterError("invalid sampling parameters", items=faults)
        for name in ("max_tokens", "min_tokens", "top_k", "seed", "logprobs"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, int(value))  # numpy's integers overflow
        biases = {int(token): float(bias) for token, bias in self.logit_bias.items()}
        object.__setattr__(self, "logit_bias", biases)

    @property
    def filtered(self) -> bool:
        """Whether any of the four filters is on."""
        return (self.top_k, self.top_p, self.min_p, self.typical_p) != (0, 1.0, 0.0, 1.0)


class SamplingOptions(TypedDict, total=False):
    """The same parameters as keyword arguments."""

    max_tokens: int
    min_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    mirostat_tau: float | None
    mirostat_eta: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float]
    seed: int | None
    logprobs: int | None
    stop: str | Sequence[str]
    stop_tokens: Sequence[int]
    ignore_eos: bool
    grammar: str | None


def sampling_params(given: SamplingParams | None, options: SamplingOptions) -> SamplingParams:
    """SamplingParams with some of them replaced. Raises ParameterError, for unknown names too."""
    if not isinstance(given, SamplingParams | None):
        raise ParameterError(f"sampling must be SamplingParams, found {shown(given)}")
    known = {item.name for item in fields(SamplingParams)}
    if unknown := sorted(set(options) - known):
        raise ParameterError(
            f"unknown sampling parameters: {', '.join(unknown)}",
            hint=f"known: {', '.join(sorted(known))}",
        )
    return replace(given or SamplingParams(), **options)  # type: ignore[arg-type]  # normalised there


def _sequence(value: Any) -> tuple[Any, ...]:
    """A user's value for several items: one item, a sequence, or None."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value,)


def _integer(x: Any) -> bool:
    return whole(x) and 0 <= int(x) < 1 << 63


def _biases(x: Any) -> bool:
    return (
        isinstance(x, Mapping)
        and len(x) <= MAX_BIASES
        and all(map(_integer, x))
        and all(finite(bias) and abs(bias) <= MAX_BIAS for bias in x.values())
    )


_RULES: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    ("max_tokens", "an integer of 0 or more", _integer),
    ("min_tokens", "an integer of 0 or more", _integer),
    ("temperature", "a finite number of 0 or more", lambda x: finite(x) and x >= 0),
    ("top_k", "an integer of 0 or more", _integer),
    ("top_p", "above 0 and at most 1", lambda x: finite(x) and 0 < x <= 1),
    ("min_p", "between 0 and 1", lambda x: finite(x) and 0 <= x <= 1),
    ("typical_p", "above 0 and at most 1", lambda x: finite(x) and 0 < x <= 1),
    (
        "mirostat_tau",
        "None or a finite number of 0 or more",
        lambda x: x is None or (finite(x) and x >= 0),
    ),
    ("mirostat_eta", "between 0 and 1", lambda x: finite(x) and 0 <= x <= 1),
    ("grammar", "None or a text", lambda x: x is None or (isinstance(x, str) and bool(x))),
    (
        "repetition_penalty",
        "a finite number above 0",
        lambda x: finite(x) and float(np.float32(x)) > 0,
    ),
    ("presence_penalty", "a finite number", finite),
    ("frequency_penalty", "a finite number", finite),
    (
        "logit_bias",
        f"at most {MAX_BIASES} token ids, each with a number from -{MAX_BIAS} to {MAX_BIAS}",
        _biases,
    ),
    ("ignore_eos", "True or False", lambda x: isinstance(x, bool)),
    ("seed", "None or an integer of 0 or more", lambda x: x is None or _integer(x)),
    ("logprobs", "None or an integer of 0 or more", lambda x: x is None or _integer(x)),
    ("stop", "non-empty strings", lambda x: all(isinstance(s, str) and s for s in x)),
    ("stop_tokens", "token ids", lambda x: all(_integer(t) for t in x)),
)


@dataclass(frozen=True, slots=True)
class Choice:
    """A sampled token; with logprobs asked for, its log probability and the best alternatives."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Constraint(Protocol):
    """Restricts an answer, token by token."""

    def allows(self, token: int) -> bool:
        """Whether this token may come next."""
        ...

    def mask(self, logits: Logits) -> Logits:
        """A copy of float32 logits [vocabulary], minus infinity for what may not come next."""
        ...

    def accept(self, token: int) -> None:
        """Advance: this token was chosen."""
        ...


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
        self._params = params
        self._constraint = constraint
        self._surprise = 2.0 * (params.mirostat_tau or 0.0)  # the most bits that a token may have
        self._random = np.random.Generator(np.random.PCG64(params.seed))
        self._prompt = np.unique(np.asarray(prompt, np.int64))
        self._counts: dict[int, int] = {}
        self._chosen = 0
        self._ends = np.fromiter(ends, np.int64, len(ends)) if params.min_tokens else None
        self._biased = np.fromiter(params.logit_bias, np.int64, len(params.logit_bias))
        biases = np.fromiter(params.logit_bias.values(), np.float32, len(params.logit_bias))
        self._biases = np.where(biases <= RULED_OUT, np.float32(-np.inf), biases)
        self._excludes = self._ends is not None or bool(np.isneginf(self._biases).any())
        self._adjusts = bool(params.logit_bias) or (
            params.repetition_penalty, params.presence_penalty, params.frequency_penalty
        ) != (1.0, 0.0, 0.0)  # fmt: skip

    def choose(self, logits: Logits) -> Choice:
        """Choose a token from float32 logits [vocabulary], which are left as they are.

        Raises EngineError for logits that hold NaN or only infinities.
        """
        adjusted = self._adjusted(logits) if self._adjusts else logits
        open_ended = self._without_ends(adjusted)
        token = self._pick(open_ended)
        if self._constraint is not None:
            token = self._constrained(self._constraint, open_ended, adjusted, token)
        self._chosen += 1
        self._counts[token] = self._counts.get(token, 0) + 1
        if self._params.logprobs is None:
            return Choice(token)
        return _with_logprobs(logits, token, self._params.logprobs)

    def _pick(self, logits: Logits) -> int:
        token = int(logits.argmax())  # the first NaN, if there is one
        if not math.isfinite(logits[token]):
            why = "; logit_bias and min_tokens may leave no token" if self._excludes else ""
            raise EngineError(f"the logits are not finite{why}")
        if np.float32(self._params.temperature) > 0:
            token = self._draw(logits, logits[token])
        return token

    def _without_ends(self, logits: Logits) -> Logits:
        """The logits as they are, or a copy in which no token ends the answer."""
        if self._ends is None or self._chosen >= self._params.min_tokens:
            return logits
        logits = logits.copy()
        logits[self._ends[self._ends < len(logits)]] = -np.inf  # a tokenizer may know more
        return logits

    def _constrained(
        self, constraint: Constraint, logits: Logits, ending: Logits, token: int
    ) -> int:
        """The token, or another if it is not allowed. All tokens are checked only in that case.

        ending: the logits with those of end tokens, for where a grammar allows nothing else.
        """
        if not constraint.allows(token):
            allowed = constraint.mask(logits)
            if not np.isfinite(allowed.max()):
                allowed = constraint.mask(ending)
            if not np.isfinite(allowed.max()):
                raise EngineError("the grammar allows no token here")
            token = self._pick(allowed)
        constraint.accept(token)
        return token

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
    best = logits.max()
    total = float(best) + math.log(np.exp(logits - best).sum(dtype=np.float64))
    pairs = []
    if count := min(count, len(logits)):
        near = np.flatnonzero(logits >= at_most_kth_largest(logits, count))
        pairs = [(int(t), float(logits[t]) - total) for t in largest(logits, near, count)]
    pairs.sort(key=lambda pair: (-pair[1], pair[0]))
    return Choice(token, float(logits[token]) - total, tuple(pairs))
