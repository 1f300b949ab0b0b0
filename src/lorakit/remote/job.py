"""A request in flight: what was asked, the connection that answers, and what its reader gets."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lorakit.chat.events import Delta
from lorakit.errors import CancelledError, LorakitError
from lorakit.remote.answers import Answer, Piece, RemoteCompletion
from lorakit.remote.asking import Question
from lorakit.remote.connection import Connection
from lorakit.remote.kinds import Chosen
from lorakit.remote.turns import wait
from lorakit.runtime.generation import Completion, Generation


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """chosen: its adapters, as the server calls them. body: the JSON that asks."""

    question: Question
    generation: Generation
    chosen: Chosen
    body: dict[str, Any]
    connection: Connection | None = None
    poke: threading.Event = field(default_factory=threading.Event)

    def give(self, deltas: Sequence[Delta]) -> None:
        """Hand deltas to the reader, once it wants them. Raises DeadlineError."""
        generation = self.generation
        while not (generation.wants_more or generation.done):
            self.poke.clear()
            if generation.wants_more or generation.done:
                break
            wait(self.poke, self.question.deadline)
        if not generation.done:
            generation.emit(Piece.of(deltas))

    def completion(self, answer: Answer, first: float) -> Completion:
        """What a finished answer comes to. first: when its first piece came, or 0."""
        assert answer.finish is not None
        begin, usage, now = self.generation.submitted, answer.usage, time.monotonic()
        return RemoteCompletion(
            text=answer.text,
            tokens=tuple(answer.tokens),
            finish_reason=answer.finish,
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            completion_tokens=usage.completion_tokens or len(answer.tokens),
            adapters=tuple((adapter.name, scale) for adapter, scale in self.chosen),
            first_token_seconds=(first or now) - begin,
            seconds=now - begin,
            parsed=answer.reply(),
            mended=answer.reply(repair=True),
        )

    def end(self, reason: LorakitError) -> None:
        """End it and its connection. Takes no lock of the runtime."""
        self.generation.finish(reason)  # before it looks cut off
        if self.connection is not None:
            self.connection.abort()

    def interrupt(self) -> None:
        """End it as cancelled, and the waiting for its connection."""
        self.end(CancelledError("the request was cancelled"))
