"""What users give as a prompt or a timeout, checked and made plain."""

from __future__ import annotations

import operator
import time
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, TypeGuard

import numpy as np

from lorakit.chat.messages import Message
from lorakit.errors import ParameterError
from lorakit.values import real, shown, whole

FOR_EVER = 1e12  # seconds


def is_conversation(prompt: object) -> TypeGuard[list[Message]]:
    """Whether it is messages, not text or token ids."""
    return isinstance(prompt, list | tuple) and bool(prompt) and isinstance(prompt[0], Mapping)


def refuse_conversation(prompt: object) -> None:
    """Raise ParameterError for messages where text or token ids are expected."""
    if is_conversation(prompt):
        raise ParameterError(
            "a prompt is text or token ids, found messages",
            hint="chat(messages) answers a conversation, stream(messages) streams its answer",
        )


def as_ids(prompt: Iterable[int]) -> list[int]:
    """Token ids as a list. Raises ParameterError for bytes, booleans and other types."""
    if isinstance(prompt, Mapping) and "role" in prompt:
        raise ParameterError(
            "a prompt is text or token ids, found a message",
            hint="a conversation is a list of messages: chat([message])",
        )
    if isinstance(prompt, bytes | bytearray | memoryview | Mapping | AbstractSet):
        raise ParameterError(
            f"a prompt is text or token ids, not {type(prompt).__name__}",
            hint="give text, or a list of ids",
        )
    try:
        ids: list[Any] = list(prompt)
        refuse_conversation(ids)
        if any(isinstance(token, bool | np.bool_) for token in ids):
            raise ParameterError("a prompt is text or token ids, found a boolean among them")
        if any(isinstance(each, str) for each in ids):
            raise ParameterError(
                "a prompt is text or token ids, found a list of texts",
                hint="one call for each; batch() answers several at once",
            )
        return [operator.index(token) for token in ids]
    except TypeError as error:
        raise ParameterError(f"a prompt is text or token ids: {error}") from error


def deadline_of(timeout: float | None) -> float | None:
    """The deadline for a timeout, on the clock of time.monotonic. Raises ParameterError."""
    if timeout is None:
        return None
    if not (real(timeout) and timeout > 0):
        raise ParameterError(f"timeout must be above 0 seconds, found {shown(timeout)}")
    return time.monotonic() + float(min(timeout, FOR_EVER))


def require_lookahead(lookahead: int | None) -> None:
    """Raise ParameterError for what is no number of pieces to be ahead of the reader."""
    if lookahead is not None and not (whole(lookahead) and lookahead >= 0):
        raise ParameterError(f"lookahead must be None or 0 and more, found {shown(lookahead)}")
