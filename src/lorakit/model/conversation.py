"""A conversation with a model: its messages can be edited, forked and saved.

It holds text and no KV. The runtime's prefix cache finds the KV of earlier messages again, so a
fork or another answer to the same message costs only its new tokens.

A saved conversation is a JSON object. All fields are checked, on writing and on reading, by the
rules for a model's input: what can be saved can be loaded.

    format "lorakit-session"    version 3    messages    tools or null
    adapters  {name: scale} or null          sampling  {parameter: value} or null
    rendering {option: value} of RenderOptions, or null
    sha256    of the other fields, as JSON with sorted keys and nothing between

Version 2 had no rendering, version 1 neither that nor sampling nor sha256. Both are read.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any, Protocol, Unpack, cast

from lorakit.chat.messages import MAX_NODES, Message, prepare_messages, prepare_tools
from lorakit.chat.rendering import DEFAULT, RenderOptions
from lorakit.engines.protocol import Capabilities
from lorakit.errors import (
    ContextFullError,
    FormatError,
    ParameterError,
    SourceError,
    WriteError,
)
from lorakit.files.atomic import write_atomic
from lorakit.files.bounded import parse_json, read_bounded
from lorakit.model.adapters import Scales, as_scales
from lorakit.model.chat_stream import ChatStream, Reader
from lorakit.model.fitting import Fitted, Fitting, WhenFull, require_when_full
from lorakit.model.types import (
    ChatKeywords,
    ChatPrompt,
    ChatReply,
    Prompt,
    RenderKeywords,
    Tools,
    split_keywords,
)
from lorakit.runtime.generation import Completion, Stream
from lorakit.runtime.sampling import SamplingOptions, SamplingParams, sampling_params
from lorakit.values import shown

FORMAT, VERSION = "lorakit-session", 3
log = logging.getLogger("lorakit")
FIELDS = {
    1: ("messages", "tools", "adapters"),
    2: ("messages", "tools", "adapters", "sampling", "sha256"),
    3: ("messages", "tools", "adapters", "sampling", "rendering", "sha256"),
}
MAX_FILE = 64 << 20  # bytes of a saved conversation


class Talker(Protocol):
    """What a session needs of a Model."""

    @property
    def capabilities(self) -> Capabilities: ...

    def chat_prompt(
        self,
        messages: Sequence[Message],
        *,
        tools: Tools | None = None,
        **options: Unpack[RenderKeywords],
    ) -> ChatPrompt: ...

    def stream(
        self,
        prompt: Prompt,
        *,
        adapters: Scales | None = None,
        sampling: SamplingParams | None = None,
        timeout: float | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Stream: ...

    def reader(self, prompt: Prompt | None = None) -> Reader: ...

    def parse_reply(self, completion: Completion, prompt: Prompt | None = None) -> ChatReply: ...


class Session:
    """A conversation. Use it from one thread at a time; the model may serve others meanwhile.

    messages: in OpenAI's format, oldest first; may be read, and changed between two turns.
    adapters: for this conversation only, as in `Model.chat`; None follows the active set.
    when_full: what becomes of a conversation that leaves the context no room for an answer. "stop"
    raises ContextFullError; "drop" drops its oldest turns, "summarise" has the model summarise them
    first, which is waited for. The system message and the tools stay.
    """

    def __init__(
        self,
        model: Talker,
        *,
        system: str | None = None,
        messages: Sequence[Message] = (),
        tools: Tools | None = None,
        adapters: Scales | None = None,
        sampling: SamplingParams | None = None,
        rendering: RenderOptions = DEFAULT,
        when_full: WhenFull = "stop",
    ) -> None:
        """Made by `Model.session`."""
        require_when_full(when_full)
        self._model = model
        self.messages: list[dict[str, Any]] = [copy.deepcopy(dict(m)) for m in messages]
        if system is not None:
            self.messages.insert(0, {"role": "system", "content": system})
        self.tools = tools
        self.adapters: dict[str, float] | None = None if adapters is None else as_scales(adapters)
        self.sampling = sampling
        self.rendering = rendering
        self.when_full: WhenFull = when_full

    def send(self, content: Any, **options: Unpack[ChatKeywords]) -> ChatReply:
        """Send a message and wait for the answer; both are kept. Raises what `Model.chat` raises;
        the conversation is then unchanged."""
        return _wait(self.stream(content, **options))

    def stream(self, content: Any, **options: Unpack[ChatKeywords]) -> Turn:
        """Send a message and stream the answer; both are kept once it has ended."""
        return self._turn([*self.messages, {"role": "user", "content": content}], options)

    def stream_from(self, messages: Sequence[Message], **options: Unpack[ChatKeywords]) -> Turn:
        """Stream the answer to messages that take the place of the conversation's, with the
        answer, once it has ended. The others here are ways to say which messages."""
        return self._turn([copy.deepcopy(dict(message)) for message in messages], options)

    def answer(self, results: Sequence[Message], **options: Unpack[ChatKeywords]) -> ChatReply:
        """Send the results of tool calls (messages of the role "tool") and wait for the answer."""
        if isinstance(results, str | Mapping) or not all(isinstance(r, Mapping) for r in results):
            raise ParameterError(
                f"the results of tool calls are a list of messages, not {shown(results)}",
                hint='each is {"role": "tool", "tool_call_id": call.id, "name": call.name, '
                '"content": "..."}',
            )
        if not results:
            raise ParameterError("there is no result to answer", hint="regenerate() answers anew")
        return _wait(self._turn([*self.messages, *map(dict, results)], options))

    def regenerate(self, **options: Unpack[ChatKeywords]) -> ChatReply:
        """Replace the last answer with a new one."""
        end = self._last_user() + 1
        return _wait(self._turn(self.messages[:end], options))

    def edit_last(self, content: Any, **options: Unpack[ChatKeywords]) -> ChatReply:
        """Replace the last user message, drop what follows, and wait for a new answer."""
        start = self._last_user()
        changed = {**self.messages[start], "content": content}
        return _wait(self._turn([*self.messages[:start], changed], options))

    def fork(self) -> Session:
        """An independent copy that continues from here."""
        return Session(
            self._model,
            messages=self.messages,
            tools=self.tools,
            adapters=self.adapters,
            sampling=self.sampling,
            rendering=self.rendering,
            when_full=self.when_full,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the conversation as JSON, whole or not at all.

        Raises ParameterError for values that JSON cannot hold (images given as bytes, lone
        surrogates, NaN) and for invalid conversations, and WriteError.
        """
        try:
            text = _encoded(self._content())
            _check(json.loads(text))
        except FormatError as error:
            message = f"the conversation cannot be saved: {error.message}"
            raise ParameterError(message, items=error.items) from error
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ParameterError(f"the conversation cannot be saved as JSON: {error}") from error
        if len(text) > MAX_FILE:
            raise ParameterError(f"the conversation has more than {MAX_FILE} bytes")
        try:
            write_atomic(Path(path), text)
        except (OSError, ValueError) as error:  # a name that no file can have
            reason = getattr(error, "strerror", None) or error
            raise WriteError(f"cannot write {path}: {reason}") from error
        except TypeError as error:
            raise ParameterError(f"a path is expected, not {path!r:.80}") from error

    def __repr__(self) -> str:
        count = len(self.messages)
        own = "" if self.adapters is None else f", adapters {shown(self.adapters)}"
        return f"<Session of {count} message{'s' * (count != 1)}{own}>"

    def _content(self) -> dict[str, Any]:
        content = {
            "format": FORMAT,
            "version": VERSION,
            "messages": self.messages,
            "tools": self.tools,
            "adapters": self.adapters,
            "sampling": None if self.sampling is None else _plain(asdict(self.sampling)),
            "rendering": None if self.rendering == DEFAULT else {**_keywords(self.rendering)},
        }
        return {**content, "sha256": digest_of(content)}

    @classmethod
    def load(
        cls,
        model: Talker,
        path: str | os.PathLike[str],
        *,
        sampling: SamplingParams | None = None,
        when_full: WhenFull = "stop",
    ) -> Session:
        """Read what `save` wrote. The adapters it names must be loaded before it continues.

        sampling: replaces the saved one. Raises SourceError and FormatError.
        """
        content = _read(Path(path))
        try:
            saved = _check(content)
        except FormatError as error:
            message = f"{path} is not a saved conversation: {error.message}"
            raise FormatError(message, items=error.items, hint=error.hint) from error
        return cls(
            model,
            messages=content["messages"],
            tools=content["tools"],
            adapters=content["adapters"],
            sampling=saved["sampling"] if sampling is None else sampling,
            rendering=saved["rendering"] or DEFAULT,
            when_full=when_full,
        )

    def _turn(self, messages: list[dict[str, Any]], options: ChatKeywords) -> Turn:
        given: ChatKeywords = {**_keywords(self.rendering), **options}
        render, sampling = split_keywords(given)
        fitted = self._fitting(render, sampling)(messages)
        try:
            stream = self._model.stream(
                fitted.prompt, adapters=self.adapters, sampling=self.sampling, **sampling
            )
        except ContextFullError as error:
            if self.when_full == "stop" and len(messages) > 1:
                error.hint = 'shorten the conversation; when_full="drop" drops its oldest turns'
            raise
        if fitted.dropped:
            what = "summarised" if fitted.summary else "dropped"
            log.info("the context is full: the oldest %d messages are %s", fitted.dropped, what)
        return Turn(self, fitted, stream, self._model)

    def _fitting(self, render: RenderOptions, sampling: SamplingOptions) -> Fitting:
        require_when_full(self.when_full)  # it may be set at any time
        keywords = _keywords(render)
        return Fitting(
            when_full=self.when_full,
            context=self._model.capabilities.context,
            answer=sampling_params(self.sampling, sampling).max_tokens,
            render=lambda said: self._model.chat_prompt(said, tools=self.tools, **keywords),
            summarise=self._summary,
        )

    def _summary(self, prompt: ChatPrompt, tokens: int) -> str:
        """What the model says to a prompt, greedily."""
        asked = SamplingParams(max_tokens=tokens)
        stream = self._model.stream(prompt, adapters=self.adapters, sampling=asked)
        try:
            completion = stream.result()
        except BaseException:  # Ctrl-C too
            stream.cancel()
            raise
        return self._model.parse_reply(completion, prompt).text.strip()

    def _last_user(self) -> int:
        for index in range(len(self.messages) - 1, -1, -1):
            if self.messages[index].get("role") == "user":
                return index
        raise ParameterError("the conversation holds no message of the user yet")


class Turn(ChatStream):
    """One answer in progress, which the conversation keeps once it has ended: a ChatStream.

    messages: what it answers. dropped: how many of the conversation's oldest messages went, as the
    context was full; summary: what the model said of those, "" if it was not asked.
    """

    def __init__(self, session: Session, fitted: Fitted, stream: Stream, model: Talker) -> None:
        parse = partial(model.parse_reply, prompt=fitted.prompt)
        super().__init__(stream, model.reader(fitted.prompt), parse)
        self._session = session
        self._before = list(session.messages)
        self.messages = tuple(fitted.messages)
        self.dropped = fitted.dropped
        self.summary = fitted.summary

    def cancel(self) -> None:
        """Stop the answer; the conversation stays as it was before this turn."""
        super().cancel()

    close = cancel

    def _finish(self, completion: Completion) -> ChatReply:
        if self._session.messages != self._before:
            raise ParameterError(
                "the conversation was changed while this answer was written",
                hint="read one answer to its end before the next turn; fork() for two at once",
            )
        reply = super()._finish(completion)
        self._session.messages[:] = [*self.messages, reply.message]
        return reply


def _wait(turn: Turn) -> ChatReply:
    try:
        return turn.reply
    except BaseException:  # Ctrl-C too
        turn.cancel()
        raise


def _keywords(options: RenderOptions) -> RenderKeywords:
    return {
        "chat_template_kwargs": options.chat_template_kwargs,
        "enable_thinking": options.enable_thinking,
        "control_tokens": options.control_tokens,
    }


def _read(path: Path) -> Any:
    """JSON of bounded size, which could be written again."""
    try:
        raw = read_bounded(path, MAX_FILE)
        if raw is None:
            raise FormatError(f"{path} is larger than {MAX_FILE} bytes")
        content = parse_json(raw, items=MAX_NODES)
        _encoded(content)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not valid JSON: {error}") from error
    return content


def _encoded(content: object) -> bytes:
    """JSON in UTF-8. Raises ValueError for lone surrogates, NaN and circular values, and
    TypeError."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1).encode()


def digest_of(content: Mapping[str, Any]) -> str:
    """What the field sha256 of a saved conversation says of the others."""
    rest = {name: value for name, value in content.items() if name != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _check(content: Any) -> dict[str, Any]:
    """Raise FormatError with all faults; returns what became of each field."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise FormatError(f'it has no "format": "{FORMAT}"')
    version = content.get("version")
    if type(version) is not int or version not in FIELDS:
        known = " or ".join(map(str, FIELDS))
        raise FormatError(f"it has version {version!r:.20}, not {known}")
    names = {"format", "version", *FIELDS[version]}
    faults = [f"{name!r:.80} is not known" for name in content if name not in names]
    faults += [f"{name} is missing" for name in sorted(names - content.keys())]
    if faults:
        raise FormatError("its fields are not those of a conversation", items=faults)
    if "sha256" in names and content["sha256"] != digest_of(content):
        raise FormatError(
            "it is damaged, or was changed by hand",
            hint="version 1, without sampling, rendering and sha256, may be written by hand",
        )
    found: dict[str, Any] = {}
    for name, check in _CHECKS.items():
        try:
            value = content.get(name)
            found[name] = None if value is None and name != "messages" else check(value)
        except ParameterError as error:
            faults += error.items or (f"{name}: {error.message}",)
    if faults:
        raise FormatError("its fields cannot be read", items=faults)
    return found


def _messages(value: object) -> None:
    if value != []:
        prepare_messages(value)  # type: ignore[arg-type]  # checked there


def _tools(value: object) -> None:
    if value != []:
        prepare_tools(_list(value))


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ParameterError(f"expected a list, found {type(value).__name__}")
    return value


def _adapters(value: object) -> None:
    if not isinstance(value, dict):
        raise ParameterError(f"expected names with scales, found {type(value).__name__}")
    as_scales(value)


def _sampling(value: object) -> SamplingParams:
    if not isinstance(value, dict):
        raise ParameterError(f"expected parameters, found {type(value).__name__}")
    return sampling_params(None, cast(SamplingOptions, value | _biases(value)))  # checked there


def _biases(saved: Mapping[str, Any]) -> dict[str, Any]:
    """logit_bias with token ids as numbers: keys of JSON are text."""
    biases = saved.get("logit_bias")
    if not isinstance(biases, dict):
        return {}
    return {
        "logit_bias": {
            int(token) if token.isdecimal() and len(token) < 19 else token: bias
            for token, bias in biases.items()
        }
    }


def _rendering(value: object) -> RenderOptions:
    known = RenderKeywords.__annotations__
    if not isinstance(value, dict) or not value.keys() <= known.keys():
        raise ParameterError(f"expected some of {', '.join(known)}, found {shown(value)}")
    return RenderOptions(**value)


_CHECKS: dict[str, Callable[[object], Any]] = {
    "messages": _messages,
    "tools": _tools,
    "adapters": _adapters,
    "sampling": _sampling,
    "rendering": _rendering,
}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Converts numbers of other libraries to Python's, for JSON."""
    return {name: _number(value) for name, value in values.items()}


def _number(value: Any) -> Any:
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, dict):
        return _plain(value)
    if isinstance(value, tuple):
        return [_number(item) for item in value]
    return int(value) if isinstance(value, Integral) else float(value)
