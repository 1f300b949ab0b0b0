"""A conversation's answer as it is written: events, text alone, or the whole reply at its end.

It knows nothing of formats: a reader makes events of pieces of text.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from lorakit.chat.calls import ParsedReply
from lorakit.chat.events import TextDelta
from lorakit.model.types import ChatReply, Event, ReplyEnd
from lorakit.runtime.generation import Completion, Stream


class Reader(Protocol):
    """What makes events of a reply's pieces, as chat.reading.ReplyReader does."""

    def feed(self, piece: str) -> Iterable[Event]:
        """What is certain with this piece."""
        ...

    def end(self, parsed: ParsedReply) -> Iterable[Event]:
        """What is left, once the whole reply is known."""
        ...


class ChatStream:
    """The result of `stream` for messages: an iterator of events, sync or async.

    It ends with a ReplyEnd, unless it was cancelled. Dropping or closing it cancels the answer.
    """

    def __init__(
        self, stream: Stream, reader: Reader, parse: Callable[[Completion], ChatReply]
    ) -> None:
        """Made by `Model.stream`."""
        self._stream, self._reader, self._parse = stream, reader, parse
        self._events: deque[Event] = deque()
        self._reply: ChatReply | None = None
        self._ended = False

    def __iter__(self) -> ChatStream:
        return self

    def __next__(self) -> Event:
        while not self._events:
            if self._ended:
                raise StopIteration
            piece = next(self._stream, None)
            if piece is not None:
                self._events.extend(self._reader.feed(piece))
            elif self._cancelled():
                raise StopIteration
            else:
                self._end(self.reply)
        return self._events.popleft()

    def __aiter__(self) -> ChatStream:
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            if self._ended:
                raise StopAsyncIteration
            piece = await anext(self._stream, None)
            if piece is not None:
                self._events.extend(self._reader.feed(piece))
            elif self._cancelled():
                raise StopAsyncIteration
            else:
                self._end(await self.areply())
        return self._events.popleft()

    @property
    def text(self) -> TextPieces:
        """The visible text alone, piece by piece: `for piece in stream.text`, or `async for`."""
        return TextPieces(self)

    @property
    def reply(self) -> ChatReply:
        """The whole answer; waits for it. Raises the request's error."""
        return self._reply or self._finish(self._stream.result())

    async def areply(self) -> ChatReply:
        """`reply` for coroutines."""
        return self._reply or self._finish(await self._stream.aresult())

    def cancel(self) -> None:
        """Stop within one token; iteration then ends and `reply` raises CancelledError."""
        self._stream.cancel()

    close = cancel

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._stream!r}>"

    def _finish(self, completion: Completion) -> ChatReply:
        self._reply = self._parse(completion)
        return self._reply

    def _end(self, reply: ChatReply) -> None:
        self._ended = True
        self._events.extend(self._reader.end(reply.parsed))
        self._events.append(ReplyEnd(reply))

    def _cancelled(self) -> bool:
        """Whether it was stopped before its end."""
        return self._stream.cancelled


class TextPieces:
    """The visible text of a ChatStream, as an iterator of pieces, sync or async."""

    def __init__(self, events: ChatStream) -> None:
        """Made by `ChatStream.text`."""
        self._events = events

    def __iter__(self) -> TextPieces:
        return self

    def __next__(self) -> str:
        for event in self._events:
            if isinstance(event, TextDelta):
                return event.text
        raise StopIteration

    def __aiter__(self) -> TextPieces:
        return self

    async def __anext__(self) -> str:
        async for event in self._events:
            if isinstance(event, TextDelta):
                return event.text
        raise StopAsyncIteration
