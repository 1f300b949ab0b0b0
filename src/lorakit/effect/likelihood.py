"""Logits of an answer's tokens as log probabilities, and how far two such rows are apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from lorakit.errors import CapabilityError
from lorakit.model.model import Model
from lorakit.model.types import ChatPrompt, Prompt

F64 = npt.NDArray[np.float64]


def require_logits(model: Model) -> None:
    """Before anything is generated. Raises CapabilityError for a model behind a URL."""
    if model.capabilities.engine == "api":
        raise CapabilityError(
            "a server gives no logits, and without them there is no KL",
            hint="open a base on this machine",
        )


def answer_rows(
    model: Model, prompt: Prompt, answer: Sequence[int], adapters: Mapping[str, float]
) -> F64:
    """Log probabilities [answer, vocabulary] of what comes at each token of an answer.

    One forward over prompt and answer, without cached KV. Raises what `Model.logits` raises.
    """
    ids = model.encode(prompt)
    images = ids.images if isinstance(ids, ChatPrompt) else {}
    whole = ChatPrompt([*ids, *answer[:-1]], images)
    logits = model.logits(whole, adapters=adapters)
    return log_softmax(logits[len(ids) - 1 :])


def log_softmax(logits: npt.NDArray[np.float32]) -> F64:
    """Natural logarithms of the probabilities, in float64, along the last axis."""
    values = logits.astype(np.float64)
    values -= values.max(axis=-1, keepdims=True)
    values -= np.log(np.exp(values).sum(axis=-1, keepdims=True))
    return values


def divergence(one: F64, other: F64) -> F64:
    """KL(one || other) of each row of log probabilities, in nats: sum of p (log p - log q).

    What is impossible under `one` adds nothing (0 log 0 = 0); rounding below 0 is 0.
    """
    p = np.exp(one)
    with np.errstate(invalid="ignore"):
        parts = np.where(p > 0, p * (one - other), 0.0)
    total: F64 = np.maximum(parts.sum(axis=-1), 0.0)
    return total
