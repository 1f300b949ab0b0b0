"""The arguments and results of a Model's calls, other than plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lorakit.chat.calls import Malformed, ParsedReply, ToolCall
from lorakit.errors import ParameterError
from lorakit.model.adapters import Scales
from lorakit.runtime.generation import Completion
from lorakit.runtime.sampling import SamplingParams
from lorakit.text.image_ids import Vectors
from lorakit.values import shown

Prompt = str | Sequence[int]


class ChatPrompt(list[int]):
    """Token ids of a prompt, and the images that its negative ids name (see text.image_ids).

    images: float32 vectors [positions, embedding] by digest.
    """

    def __init__(self, ids: Sequence[int], images: Mapping[int, Vectors] | None = None) -> None:
        super().__init__(ids)
        self.images: Mapping[int, Vectors] = images or {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One entry of `Model.batch`: a prompt with its own adapters and sampling."""

    prompt: Prompt
    adapters: Scales | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)

    def __post_init__(self) -> None:
        """Raises ParameterError."""
        if not isinstance(self.sampling, SamplingParams):
            raise ParameterError(f"sampling must be SamplingParams, found {shown(self.sampling)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatReply:
    """A parsed answer in a conversation. `str()` of it is its text."""

    parsed: ParsedReply
    completion: Completion = field(repr=False)

    @property
    def text(self) -> str:
        """The answer without its tool calls and its reasoning."""
        return self.parsed.text

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls that could be parsed, in their order."""
        return self.parsed.tool_calls

    @property
    def reasoning(self) -> str:
        """The model's reasoning; "" if there is none."""
        return self.parsed.reasoning

    @property
    def malformed(self) -> tuple[Malformed, ...]:
        """Tool calls that could not be parsed, each with the reason."""
        return self.parsed.malformed

    @property
    def message(self) -> dict[str, Any]:
        """The answer as a message to append to the conversation (OpenAI's format)."""
        return self.parsed.to_message()

    def __str__(self) -> str:
        return self.text
