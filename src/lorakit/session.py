"""A conversation with a model: its messages, kept, changed, forked and saved.

It holds text and no KV: what was computed before is found again by the runtime's prefix cache, so
that a fork or another answer to the same question costs only its new tokens.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Unpack

from lorakit.atomic import write_atomic
from lorakit.chat.messages import Message
from lorakit.errors import FormatError, ParameterError, SourceError, WriteError
from lorakit.loaded import Scales, as_scales
from lorakit.requests import ChatReply
from lorakit.runtime.generation import Completion, Stream
from lorakit.runtime.sampling import SamplingOptions, SamplingParams

VERSION = 1
MAX_FILE = 64 << 20  # bytes of a saved conversation


class Talker(Protocol):
    """What a session asks of a Model."""

    def chat_prompt(
        self, messages: Sequence[Message], *, tools: Sequence[Mapping[str, Any]] | None = None
    ) -> list[int]: ...

    def stream(
        self,
        prompt: Any,
        *,
        adapters: Scales | None = None,
        sampling: SamplingParams | None = None,
        timeout: float | None = None,
        lookahead: int | None = 0,
        **options: Unpack[SamplingOptions],
    ) -> Stream: ...

    def parse_reply(self, completion: Completion) -> ChatReply: ...


class Session:
    """A conversation. For use by one thread at a time; the model may serve others meanwhile.

    messages: OpenAI's shapes, oldest first; yours to read, and to change between two turns.
    adapters: as of `Model.chat`: for this conversation alone, or None to follow the active set.
    """

    def __init__(
        self,
        model: Talker,
        *,
        system: str | None = None,
        messages: Sequence[Message] = (),
        tools: Sequence[Mapping[str, Any]] | None = None,
        adapters: Scales | None = None,
        sampling: SamplingParams | None = None,
    ) -> None:
        self._model = model
        self.messages: list[dict[str, Any]] = [copy.deepcopy(dict(m)) for m in messages]
        if system is not None:
            self.messages.insert(0, {"role": "system", "content": system})
        self.tools = tools
        self.adapters = None if adapters is None else as_scales(adapters)
        self.sampling = sampling

    def send(self, content: Any, **options: Unpack[SamplingOptions]) -> ChatReply:
        """Say something and wait for the answer; both are kept. Errors as of `Model.chat`, and then
        the conversation is as it was."""
        for _ in (turn := self.stream(content, **options)):
            pass
        return turn.reply

    def stream(self, content: Any, **options: Unpack[SamplingOptions]) -> Turn:
        """Say something and read the answer piece by piece; both are kept once it has ended."""
        return self._turn([*self.messages, {"role": "user", "content": content}], options)

    def answer(self, results: Sequence[Message], **options: Unpack[SamplingOptions]) -> ChatReply:
        """Hand over the results of tool calls (messages of the role "tool") and wait for what
        the model says of them."""
        for _ in (turn := self._turn([*self.messages, *map(dict, results)], options)):
            pass
        return turn.reply

    def regenerate(self, **options: Unpack[SamplingOptions]) -> ChatReply:
        """Another answer to the last message, in place of the one that was given."""
        end = self._last_user() + 1
        for _ in (turn := self._turn(self.messages[:end], options)):
            pass
        return turn.reply

    def edit_last(self, content: Any, **options: Unpack[SamplingOptions]) -> ChatReply:
        """Say the last thing otherwise; what was answered is dropped and answered anew."""
        start = self._last_user()
        changed = {**self.messages[start], "content": content}
        for _ in (turn := self._turn([*self.messages[:start], changed], options)):
            pass
        return turn.reply

    def fork(self) -> Session:
        """A conversation that goes on from here by itself."""
        return Session(
            self._model,
            messages=self.messages,
            tools=self.tools,
            adapters=self.adapters,
            sampling=self.sampling,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the conversation as JSON, whole or not at all. Raises WriteError."""
        content = {
            "format": "lorakit-session",
            "version": VERSION,
            "messages": self.messages,
            "tools": self.tools,
            "adapters": self.adapters,
        }
        try:
            text = json.dumps(content, ensure_ascii=False, indent=1)
        except TypeError as error:
            raise ParameterError(f"a message cannot be saved as JSON: {error}") from error
        try:
            write_atomic(Path(path), text.encode())
        except OSError as error:
            raise WriteError(f"cannot write {path}: {error.strerror or error}") from error

    @classmethod
    def load(
        cls,
        model: Talker,
        path: str | os.PathLike[str],
        *,
        sampling: SamplingParams | None = None,
    ) -> Session:
        """Read what `save` wrote. Its adapters are names, which must be loaded when it goes on.

        Raises SourceError and FormatError.
        """
        content = _read(Path(path))
        return cls(
            model,
            messages=content["messages"],
            tools=content.get("tools"),
            adapters=content.get("adapters"),
            sampling=sampling,
        )

    def _turn(self, messages: list[dict[str, Any]], options: SamplingOptions) -> Turn:
        ids = self._model.chat_prompt(messages, tools=self.tools)
        stream = self._model.stream(ids, adapters=self.adapters, sampling=self.sampling, **options)
        return Turn(self, messages, stream, self._model)

    def _last_user(self) -> int:
        for index in range(len(self.messages) - 1, -1, -1):
            if self.messages[index].get("role") == "user":
                return index
        raise ParameterError("the conversation holds no message of the user yet")


class Turn:
    """One answer while it is written: iterate for its pieces, then read `reply`."""

    def __init__(
        self, session: Session, messages: list[dict[str, Any]], stream: Stream, model: Talker
    ) -> None:
        self._session, self._messages = session, messages
        self._stream, self._model = stream, model
        self._reply: ChatReply | None = None

    def __iter__(self) -> Iterator[str]:
        yield from self._stream
        self._finish()

    @property
    def reply(self) -> ChatReply:
        """The whole answer; waits for it. Raises what went wrong."""
        return self._finish()

    def cancel(self) -> None:
        """Stop the answer and take the turn back."""
        self._stream.cancel()

    def _finish(self) -> ChatReply:
        if self._reply is None:
            self._reply = self._model.parse_reply(self._stream.result())
            self._session.messages[:] = [*self._messages, self._reply.message]
        return self._reply


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_FILE:
            raise FormatError(f"{path} is larger than {MAX_FILE} bytes")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict) or content.get("format") != "lorakit-session":
        raise FormatError(f"{path} is not a saved conversation")
    if content.get("version") != VERSION:
        raise FormatError(f"{path} has version {content.get('version')!r:.20}, not {VERSION}")
    messages = content.get("messages")
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise FormatError(f"{path}: messages must be a list of objects")
    return content
