"""Base against adapter, token by token, on one answer.

Both read the same prompt and the same answer; at each of its tokens there are the two
probabilities, what either would have said, and KL(adapter || base) in nats: how much the base is
surprised, on average, by what the adapter draws there. It is the penalty of RLHF per token (Ouyang
et al. 2022), and 0 where the adapter changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lorakit.effect.acting import Asked, acting, prompt_of
from lorakit.effect.likelihood import F64, answer_rows, divergence, require_logits
from lorakit.errors import ParameterError
from lorakit.model.adapters import Scales
from lorakit.model.model import Model
from lorakit.model.types import Request
from lorakit.runtime.params import SamplingParams

MAX_TOKENS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffToken:
    """One token of the answer. base, adapted: its probability; kl: in nats.

    base_best, adapted_best: the text of the likeliest token there, with its probability;
    base_best_token, adapted_best_token: its id, as two parts of characters have the same text.
    """

    token: int
    text: str
    base: float
    adapted: float
    kl: float
    base_best: tuple[str, float]
    adapted_best: tuple[str, float]
    base_best_token: int
    adapted_best_token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """One answer under base and adapters. answer: the text that was compared on; base_answer and
    adapted_answer: what each says by itself, greedily."""

    adapters: dict[str, float]
    answer: str
    base_answer: str
    adapted_answer: str
    tokens: tuple[DiffToken, ...]

    @property
    def kl(self) -> float:
        """Mean over the tokens, in nats."""
        return sum(each.kl for each in self.tokens) / len(self.tokens)

    @property
    def first_change(self) -> int | None:
        """The place of the first token of which base and adapters have another favourite."""
        places = enumerate(self.tokens)
        changed = (n for n, each in places if each.base_best_token != each.adapted_best_token)
        return next(changed, None)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"kl": self.kl, "first_change": self.first_change}


def diff(
    model: Model,
    prompt: Asked,
    *,
    adapters: Scales | None = None,
    answer: str | None = None,
    max_tokens: int = MAX_TOKENS,
) -> Diff:
    """Compare the base with adapters on an answer to a prompt (text, ids, messages, `chat_prompt`).

    adapters: as everywhere; None is the active set. answer: None takes what the adapters say,
    greedily, with the token that ended it. Two answers run together, then two passes over one.
    Raises ParameterError (no adapter; an answer without tokens), CapabilityError (a model behind a
    URL) and what `Model.batch` and `Model.logits` raise.
    """
    require_logits(model)
    chosen = acting(model, adapters)
    prompt = prompt_of(model, prompt)
    greedy = SamplingParams(max_tokens=max_tokens, temperature=0.0)
    base, adapted = model.batch(
        Request(prompt=prompt, adapters=each, sampling=greedy) for each in ({}, chosen)
    )
    if answer is None:
        ids = [choice.token for choice in adapted.tokens]
    else:
        ids = model.tokenizer.encode(answer, special=False)
    if not ids:
        raise ParameterError("the answer holds no tokens", hint="give another answer=")
    rows = [answer_rows(model, prompt, ids, each) for each in ({}, chosen)]
    return Diff(
        adapters=chosen,
        answer=adapted.text if answer is None else answer,
        base_answer=base.text,
        adapted_answer=adapted.text,
        tokens=tuple(_tokens(model, ids, *rows)),
    )


def _tokens(model: Model, ids: Sequence[int], base: F64, adapted: F64) -> list[DiffToken]:
    apart = divergence(adapted, base)
    return [
        DiffToken(
            token=token,
            text=token_text(model, token),
            base=float(np.exp(base[place, token])),
            adapted=float(np.exp(adapted[place, token])),
            kl=float(apart[place]),
            base_best=_best(model, base[place]),
            adapted_best=_best(model, adapted[place]),
            base_best_token=int(np.argmax(base[place])),
            adapted_best_token=int(np.argmax(adapted[place])),
        )
        for place, token in enumerate(ids)
    ]


def _best(model: Model, row: F64) -> tuple[str, float]:
    token = int(np.argmax(row))
    return token_text(model, token), float(np.exp(row[token]))


def token_text(model: Model, token: int) -> str:
    """A token alone; U+FFFD for bytes that are part of a character."""
    return model.tokenizer.token_bytes(token).decode("utf-8", "replace")
