"""Answers to many prompts, from one model, together: a window of requests moves over them."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence

from lorakit.errors import QueueFullError
from lorakit.model.model import Model
from lorakit.model.types import Request
from lorakit.runtime.generation import Completion, Stream


def answers(
    model: Model, requests: Sequence[Request[Completion]], in_flight: int
) -> Generator[Completion]:
    """The answers in the order of the requests, at most `in_flight` of which run or wait.

    Requests may name different adapters; they run in one batch as far as the engine can. Raises
    what `Model.complete` raises. Whoever stops early, by Ctrl-C say, cancels those that run.
    """
    running: deque[Stream] = deque()
    try:
        for request in requests:
            while len(running) >= in_flight:
                yield running.popleft().result()
            while (stream := _submitted(model, request, bool(running))) is None:
                yield running.popleft().result()
            running.append(stream)
        while running:
            yield running.popleft().result()
    finally:
        for stream in running:
            stream.cancel()


def _submitted(model: Model, request: Request[Completion], others: bool) -> Stream | None:
    """The request as it runs; None where the model's queue has no room before others end."""
    assert request.prompt is not None, "a Request of a Completion has a prompt"
    try:
        return model.stream(
            request.prompt, adapters=request.adapters, sampling=request.sampling, lookahead=None
        )
    except QueueFullError:
        if not others:  # the room is taken by somebody else's requests
            raise
        return None
