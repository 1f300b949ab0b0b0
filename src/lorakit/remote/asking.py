"""A request to a server, as a value, and the JSON that says it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lorakit.chat.calls import call_of
from lorakit.chat.images import TYPES, read_images
from lorakit.chat.messages import REASONING, Message, prepare_messages, prepare_tools
from lorakit.chat.rendering import DEFAULT, RenderOptions
from lorakit.engines.protocol import AdapterSet
from lorakit.errors import CapabilityError
from lorakit.runtime.params import SamplingParams

STREAMED = {"stream": True, "stream_options": {"include_usage": True}}
_PICTURES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"RIFF": "webp"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Messages and tools, checked; the server renders them with its own template."""

    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] = ()
    options: RenderOptions = DEFAULT

    @classmethod
    def of(
        cls,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        options: RenderOptions = DEFAULT,
    ) -> Conversation:
        """Raises ParameterError for what are no messages or tools."""
        if options.control_tokens is not None:
            raise CapabilityError(
                "control_tokens= is for a model that lorakit tokenises itself",
                hint="whether spelled control tokens are text is the server's to decide",
            )
        if not options.declare:
            raise CapabilityError(
                "declare=False is for a model that lorakit renders itself",
                hint="a server declares the tools that it is given",
            )
        plain = prepare_messages(_with_data_urls(messages))
        return cls(messages=tuple(plain), tools=tuple(prepare_tools(tools) or ()), options=options)

    def fields(self, reasoning: bool) -> dict[str, Any]:
        """The fields of /chat/completions. reasoning: the server takes an earlier turn's."""
        said: dict[str, Any] = {"messages": [_as_openai(m, reasoning) for m in self.messages]}
        if self.tools:
            said["tools"] = list(self.tools)
        return said


Content = str | tuple[int, ...] | Conversation


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A request for one answer. See runtime.protocol.Submission for what they share.

    content: a text, token ids, or a conversation. patient: a server that is busy is asked again.
    """

    content: Content
    params: SamplingParams
    adapters: AdapterSet | None = None
    deadline: float | None = None
    lookahead: int | None = None
    patient: bool = field(default=False)

    @property
    def path(self) -> str:
        return "/chat/completions" if isinstance(self.content, Conversation) else "/completions"


def _as_openai(message: Mapping[str, Any], reasoning: bool) -> dict[str, Any]:
    """A prepared message as the API has it: arguments as text, reasoning once or not at all."""
    plain = {key: value for key, value in message.items() if key not in REASONING}
    thoughts = message.get(REASONING[0])
    if reasoning and thoughts:
        plain[REASONING[0]] = thoughts
    plain.setdefault("content", None)
    if calls := message.get("tool_calls"):
        read = [call_of(call) for call in calls]
        plain["tool_calls"] = [
            replace(call, id=call.id or f"call_{i}").to_openai() for i, call in enumerate(read)
        ]
    return plain


def _with_data_urls(messages: Sequence[Message]) -> Sequence[Message]:
    """The messages, their pictures as data URLs."""
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        return messages  # what is wrong with it is said where messages are checked
    if not any(_is_picture(part) for message in messages for part in _parts(message)):
        return messages
    contents = iter(read_images(messages))
    return [
        {**message, "content": [
            _picture(next(contents)[1]) if _is_picture(part) else part for part in _parts(message)
        ]} if _parts(message) else message
        for message in messages
    ]  # fmt: skip


def _parts(message: object) -> Sequence[Any]:
    content = message.get("content") if isinstance(message, Mapping) else None
    return content if isinstance(content, list | tuple) else ()


def _is_picture(part: object) -> bool:
    return isinstance(part, Mapping) and part.get("type") in TYPES


def _picture(content: bytes) -> dict[str, Any]:
    kind = next((name for begin, name in _PICTURES.items() if content.startswith(begin)), "png")
    url = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}
