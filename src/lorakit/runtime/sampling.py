"""From logits to a token: one sampler, shared by all engines.

Order of operations: penalties, temperature, top-k, top-p, min-p, draw (the order of Hugging Face
generation). The same logits, parameters and seed give the same token on every engine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from lorakit.engines.protocol import Logits
from lorakit.errors import EngineError, ParameterError

NEGLIGIBLE = 30.0  # nats below the best token: e^-30 of its probability, beneath float32


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How to choose tokens and when to stop. The defaults are greedy.

    temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 are off. repetition_penalty divides the
    logits of tokens seen in prompt or output (Keskar et al. 2019); presence and frequency penalties
    are subtracted for tokens of the output (OpenAI's definition). logprobs = n reports the chosen
    token's log probability and the n best (of the model's own distribution, before all of the
    above); None reports none. stop strings end the text before them; stop_tokens end it as the
    model's own end tokens do, which ignore_eos switches off.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    logprobs: int | None = None
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[int, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", _strings(self.stop))
        object.__setattr__(self, "stop_tokens", tuple(self.stop_tokens))
        faults = [
            f"{name} must be {expected}, found {getattr(self, name)!r}"
            for name, expected, valid in _RULES
            if not valid(getattr(self, name))
        ]
        if faults:
            raise ParameterError("invalid sampling parameters", items=faults)


class SamplingOptions(TypedDict, total=False):
    """The same parameters as keyword arguments."""

    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int | None
    logprobs: int | None
    stop: str | Sequence[str]
    stop_tokens: Sequence[int]
    ignore_eos: bool


def sampling_params(given: SamplingParams | None, options: SamplingOptions) -> SamplingParams:
    """SamplingParams with some of them replaced. Raises ParameterError, for unknown names too."""
    known = {field.name for field in fields(SamplingParams)}
    if unknown := sorted(set(options) - known):
        raise ParameterError(
            f"unknown sampling parameters: {', '.join(unknown)}",
            hint=f"known: {', '.join(sorted(known))}",
        )
    return replace(given or SamplingParams(), **options)  # type: ignore[arg-type]  # normalised there


def _strings(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def _integer(x: Any) -> bool:
    return isinstance(x, int) and not isinstance(x, bool) and x >= 0


def _finite(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)


_RULES: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    ("max_tokens", "an integer of 0 or more", _integer),
    ("temperature", "a finite number of 0 or more", lambda x: _finite(x) and x >= 0),
    ("top_k", "an integer of 0 or more", _integer),
    ("top_p", "above 0 and at most 1", lambda x: _finite(x) and 0 < x <= 1),
    ("min_p", "between 0 and 1", lambda x: _finite(x) and 0 <= x <= 1),
    ("repetition_penalty", "a finite number above 0", lambda x: _finite(x) and x > 0),
    ("presence_penalty", "a finite number", _finite),
    ("frequency_penalty", "a finite number", _finite),
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


class Sampler:
    """The sampling state of one request: its random stream and the tokens that penalties see."""

    def __init__(self, params: SamplingParams, prompt: Sequence[int]) -> None:
        self._params = params
        self._random = np.random.Generator(np.random.PCG64(params.seed))
        self._prompt = np.unique(np.asarray(prompt, np.int64))
        self._counts: dict[int, int] = {}
        self._penalized = (params.repetition_penalty, params.presence_penalty,
                           params.frequency_penalty) != (1.0, 0.0, 0.0)  # fmt: skip

    def choose(self, logits: Logits) -> Choice:
        """Choose a token from float32 logits [vocabulary], which are left as they are.

        Raises EngineError for logits that hold NaN or only infinities.
        """
        adjusted = self._penalize(logits) if self._penalized else logits
        token = int(adjusted.argmax())  # the first NaN, if there is one
        if not math.isfinite(adjusted[token]):
            raise EngineError("the engine gave logits that are not finite")
        if self._params.temperature > 0:
            token = self._draw(adjusted)
        self._counts[token] = self._counts.get(token, 0) + 1
        if self._params.logprobs is None:
            return Choice(token)
        return _with_logprobs(logits, token, self._params.logprobs)

    def _penalize(self, logits: Logits) -> Logits:
        params, logits = self._params, logits.copy()
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

    def _draw(self, logits: Logits) -> int:
        tokens, probabilities = self._candidates(logits)
        total = np.cumsum(probabilities)
        return int(tokens[np.searchsorted(total, self._random.random() * total[-1], side="right")])

    def _candidates(self, logits: Logits) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Tokens that may be drawn, with unnormalised probabilities (float64, the best has 1)."""
        params = self._params
        best = logits.max()
        tokens = np.flatnonzero(logits >= best - params.temperature * NEGLIGIBLE)
        if 0 < params.top_k < len(tokens):
            tokens = _largest(logits, tokens, params.top_k)
        values = logits[tokens].astype(np.float64)
        probabilities = np.exp((values - values.max()) / params.temperature)
        if params.top_p < 1.0:
            order = np.argsort(-probabilities, kind="stable")
            tokens, probabilities = tokens[order], probabilities[order]
            before = np.cumsum(probabilities) - probabilities
            keep = int(np.count_nonzero(before < params.top_p * probabilities.sum()))
            tokens, probabilities = tokens[:keep], probabilities[:keep]
        if params.min_p > 0.0:
            likely = probabilities >= params.min_p
            tokens, probabilities = tokens[likely], probabilities[likely]
        return tokens, probabilities


def _largest(logits: Logits, tokens: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """The `count` best of `tokens`; of equals at the border, those with the smaller ids."""
    values = logits[tokens]
    border = np.partition(values, len(values) - count)[len(values) - count]
    better = tokens[values > border]
    equal = tokens[values == border][: count - len(better)]
    return np.sort(np.concatenate([better, equal]))


def _with_logprobs(logits: Logits, token: int, count: int) -> Choice:
    values = logits.astype(np.float64)
    values -= values.max()
    values -= np.log(np.exp(values).sum())
    best = _largest(logits, np.arange(len(logits)), min(count, len(logits))) if count else ()
    top = sorted(((int(t), float(values[t])) for t in best), key=lambda pair: (-pair[1], pair[0]))
    return Choice(token, float(values[token]), tuple(top))
