"""How to choose tokens and when to stop: what a request may say, and what its values must be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypedDict

import numpy as np

from lorakit.errors import ParameterError
from lorakit.values import finite, shown, whole

MAX_BIASES = 10_000  # a request's size is bounded
MAX_CHOICES = 2000  # of answers: more take too long to tell apart
_PYDANTIC = (
    'a pydantic model\'s schema is a dictionary: {"type": "json_schema", "json_schema": '
    '{"schema": Model.model_json_schema()}}'
)
MAX_BIAS = 1_000_000  # a float32 of this size still tells logits apart


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How to choose tokens and when to stop. The defaults are greedy.

    temperature 0 is greedy; top_k 0, top_p 1, min_p 0 and typical_p 1 are off (typical: Meister et
    al. 2022). mirostat_tau is the target surprise per token in bits, and mirostat_eta the rate
    (Basu et al. 2020, version 2), in place of the top-k, top-p, min-p and typical filters. grammar
    is what the answer must follow, GBNF or llguidance's Lark; regex an expression that it fits as a
    whole; choices the texts that it may be; response_format OpenAI's {"type": "json_schema",
    "json_schema": {"schema": {...}}} or {"type": "json_object"}: at most one of these four.
    repetition_penalty divides the logits of tokens seen in prompt or output (Keskar et al. 2019);
    presence and frequency penalties are subtracted for tokens of the output, and logit_bias (by
    token id) is added before anything else (OpenAI's definitions); -100 or less rules a token out.
    logprobs = n reports the chosen token's log probability and the n best (of the model's own
    distribution, before all of the above); None reports none. stop strings end the text before
    them; stop_tokens end it as the model's own end tokens do, which ignore_eos switches off. Within
    the first min_tokens tokens no end token is chosen (but where a grammar allows nothing else),
    and no stop string counts.
    lookup proposes tokens that followed the same ones in the prompt or the answer, and checks
    several in one step: the text is that without it, sooner where much is copied. None: where a
    constraint restricts the answer. Never in engines without `capabilities.lookup`, nor in streams
    that follow the model's active adapters and are read with a lookahead: a scale may change
    between any two tokens of theirs.
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
    regex: str | None = None
    choices: tuple[str, ...] | None = None
    response_format: Mapping[str, Any] | None = field(default=None, hash=False)
    lookup: bool | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", _sequence(self.stop))
        object.__setattr__(self, "stop_tokens", _sequence(self.stop_tokens))
        object.__setattr__(self, "response_format", _nested(self.response_format))
        if self.choices is not None:
            object.__setattr__(self, "choices", _sequence(self.choices))
        faults = [
            f"{name} must be {expected}, found {shown(getattr(self, name))}"
            for name, expected, valid in _RULES
            if not valid(getattr(self, name))
        ]
        if self.mirostat_tau is not None and self.filtered:
            faults.append("mirostat_tau takes the place of top_k, top_p, min_p and typical_p")
        if len(said := self.restricting) > 1:
            faults.append(f"{' and '.join(said)} both say what an answer may be: leave one out")
        if not faults and self.min_tokens > self.max_tokens:
            faults.append(
                f"min_tokens must be at most max_tokens, {self.max_tokens}, found {self.min_tokens}"
            )
        if faults:
            raise ParameterError(
                "invalid sampling parameters",
                items=faults,
                hint=_PYDANTIC if _has_schema(self.response_format) else "",
            )
        for name in ("max_tokens", "min_tokens", "top_k", "seed", "logprobs"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, int(value))  # numpy's integers overflow
        biases = {int(token): float(bias) for token, bias in self.logit_bias.items()}
        object.__setattr__(self, "logit_bias", biases)

    @property
    def filtered(self) -> bool:
        """Whether any of the four filters is on."""
        return (self.top_k, self.top_p, self.min_p, self.typical_p) != (0, 1.0, 0.0, 1.0)

    @property
    def restricting(self) -> tuple[str, ...]:
        """The parameters that say what the answer may be."""
        said = (self.grammar, self.regex, self.choices, self.response_format)
        plain = isinstance(said[-1], Mapping) and said[-1].get("type") == "text"
        names = ("grammar", "regex", "choices", "response_format")
        given = [name for name, value in zip(names, said, strict=True) if value is not None]
        return tuple(name for name in given if not (plain and name == "response_format"))


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
    regex: str | None
    choices: str | Sequence[str] | None
    response_format: Mapping[str, Any] | None
    lookup: bool | None


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


def _is_text(x: Any) -> bool:
    return x is None or (isinstance(x, str) and bool(x))


def _choices(x: Any) -> bool:
    if x is None:
        return True
    return 0 < len(x) <= MAX_CHOICES and all(isinstance(text, str) and text for text in x)


def _nested(x: Any) -> Any:
    """A response_format with its schema below json_schema; OpenAI's Responses have it beside the
    type."""
    if isinstance(x, Mapping) and x.get("type") == "json_schema" and "json_schema" not in x:
        return {"type": "json_schema", "json_schema": {k: x[k] for k in x if k != "type"}}
    return x


def _has_schema(x: Any) -> bool:
    """Whether it is a pydantic model, or holds one, in place of a schema."""
    inner = x.get("json_schema") if isinstance(x, Mapping) else x
    schema = inner.get("schema") if isinstance(inner, Mapping) else inner
    return hasattr(schema, "model_json_schema")


def _format(x: Any) -> bool:
    if x is None:
        return True
    if not isinstance(x, Mapping):
        return False
    inner = x.get("json_schema")
    of_schema = isinstance(inner, Mapping) and isinstance(inner.get("schema"), Mapping)
    kind = x.get("type")
    if kind == "json_schema":
        return of_schema and x.keys() <= {"type", "json_schema"}
    return x.keys() == {"type"} and isinstance(kind, str) and kind in ("text", "json_object")


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
    ("grammar", "None or a text", _is_text),
    ("regex", "None or a regular expression", _is_text),
    ("choices", f"None, or 1 to {MAX_CHOICES} texts, none empty", _choices),
    (
        "response_format",
        'None, {"type": "text"}, {"type": "json_object"} or {"type": "json_schema", '
        '"json_schema": {"schema": {...}}}',
        _format,
    ),
    ("lookup", "None, True or False", lambda x: x is None or isinstance(x, bool)),
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
