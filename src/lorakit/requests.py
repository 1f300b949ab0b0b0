"""What goes into a Model's calls and comes out of them, beside plain text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lorakit.chat.tools import ToolCall
from lorakit.loaded import Scales
from lorakit.runtime.generation import Completion
from lorakit.runtime.sampling import SamplingParams

Prompt = str | Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One entry of `Model.batch`: a prompt with its own adapters and sampling."""

    prompt: Prompt
    adapters: Scales | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatReply:
    """An answer in a conversation. `str()` of it is its text.

    text: what is left beside the tool calls. malformed: what looked like a tool call and could not
    be read, each with its reason; it is in the text as well.
    """

    text: str
    tool_calls: tuple[ToolCall, ...]
    malformed: tuple[str, ...]
    completion: Completion

    @property
    def message(self) -> dict[str, Any]:
        """The answer as a message to append to the conversation (OpenAI's shape)."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
                }
                for call in self.tool_calls
            ]
        return message

    def __str__(self) -> str:
        return self.text
