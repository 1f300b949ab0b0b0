"""The arguments and results of a Model's calls, other than plain text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypedDict, TypeVar, Unpack, cast, overload

from lorakit.chat.calls import Malformed, ParsedReply, Repair, ToolCall
from lorakit.chat.constraints.replies import ToolUse
from lorakit.chat.events import Delta
from lorakit.chat.messages import Message
from lorakit.chat.rendering import DEFAULT, ControlTokens, RenderOptions, ToolChoice
from lorakit.errors import ParameterError
from lorakit.model.adapters import Scales
from lorakit.model.keywords import require_sampling
from lorakit.runtime.generation import Completion, FinishReason, Usage
from lorakit.runtime.params import SamplingOptions, SamplingParams, sampling_params
from lorakit.runtime.sampling import Choice
from lorakit.text.image_ids import Vectors
from lorakit.values import shown

Prompt = str | Sequence[int]
Tools = Sequence[Mapping[str, Any]]
ReplyReason = FinishReason | Literal["tool_calls"]


class ChatKeywords(SamplingOptions, total=False):
    """What conversations take as keywords: RenderOptions' and every sampling parameter. repair:
    whether calls that cannot be read are mended where it is clear what was meant."""

    chat_template_kwargs: Mapping[str, Any]
    enable_thinking: bool | None
    control_tokens: ControlTokens | None
    repair: bool
    tool_choice: ToolChoice
    parallel_tool_calls: bool
    declare: bool


class RenderKeywords(TypedDict, total=False):
    """Those of ChatKeywords that make the prompt, and say what its tools are for."""

    chat_template_kwargs: Mapping[str, Any]
    enable_thinking: bool | None
    control_tokens: ControlTokens | None
    tool_choice: ToolChoice
    parallel_tool_calls: bool
    declare: bool


def split_keywords(keywords: ChatKeywords) -> tuple[RenderOptions, SamplingOptions]:
    """What makes the prompt, and what chooses tokens, without `repair_of` them. Raises
    ParameterError for a wrong value."""
    repair_of(keywords)
    rendering = {k: v for k, v in keywords.items() if k in RenderKeywords.__annotations__}
    sampling = {k: v for k, v in keywords.items() if k not in rendering and k != "repair"}
    options = RenderOptions(**rendering) if rendering else DEFAULT  # type: ignore[arg-type]
    return options, cast(SamplingOptions, sampling)


def repair_of(keywords: ChatKeywords) -> bool:
    """Whether calls are mended. Raises ParameterError for a wrong value."""
    repair = keywords.get("repair", False)
    if not isinstance(repair, bool):
        raise ParameterError(f"repair is True or False, not {shown(repair)}")
    return repair


def keywords_of(options: RenderOptions) -> RenderKeywords:
    """The same as keywords."""
    return {
        "chat_template_kwargs": options.chat_template_kwargs,
        "enable_thinking": options.enable_thinking,
        "control_tokens": options.control_tokens,
        "tool_choice": options.tool_choice,
        "parallel_tool_calls": options.parallel_tool_calls,
        "declare": options.declare,
    }


class ChatPrompt(list[int]):
    """Token ids of a prompt, and the images that its negative ids name (see text.image_ids).

    images: float32 vectors [positions, embedding] by digest. reasons: whether the prompt ends
    within reasoning that its template opened; None where that is not known. tools: those that the
    answer may call. use: what its calls must be; None where nothing restricts that.
    """

    def __init__(
        self,
        ids: Sequence[int],
        images: Mapping[int, Vectors] | None = None,
        *,
        reasons: bool | None = None,
        tools: Tools | None = None,
        use: ToolUse | None = None,
    ) -> None:
        super().__init__(ids)
        self.images: Mapping[int, Vectors] = images or {}
        self.reasons = reasons
        self.tools = tools
        self.use = use

    def set_free(self) -> None:
        """Let the reply be any text: it need not call, whatever was asked for."""
        self.use = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatReply:
    """A parsed answer in a conversation.

    `str()` of it is what is to be seen: its text, else its calls as code, else what began like a
    call and is none, with the reason. `text` is the text alone.

    others: the further answers, where several were asked for.
    """

    parsed: ParsedReply
    completion: Completion = field(repr=False)
    others: tuple[ChatReply, ...] = field(default=(), repr=False)

    @property
    def choices(self) -> tuple[ChatReply, ...]:
        """All answers that were asked for (n=), this one first."""
        return (self, *self.others)

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
    def repairs(self) -> tuple[Repair, ...]:
        """What was mended in calls, where `repair=True` asked for it."""
        return self.parsed.repairs

    @property
    def message(self) -> dict[str, Any]:
        """The answer as a message to append to the conversation (OpenAI's format)."""
        return self.parsed.to_message()

    @property
    def finish_reason(self) -> ReplyReason:
        """Why it ended, in OpenAI's words: "tool_calls" where it stopped with calls, else that of
        its completion, which is the engine's and says "stop" there."""
        reason = self.completion.finish_reason
        return "tool_calls" if reason == "stop" and self.tool_calls else reason

    @property
    def tokens(self) -> tuple[Choice, ...]:
        """Every sampled token, as in its completion."""
        return self.completion.tokens

    @property
    def usage(self) -> Usage:
        """Its tokens, counted."""
        return self.completion.usage

    def __str__(self) -> str:
        return str(self.parsed)

    def __repr__(self) -> str:
        ended = f"finish_reason={self.finish_reason!r}, usage={self.usage!r}"
        return f"ChatReply(parsed={self.parsed!r}, {ended})"


@dataclass(frozen=True, slots=True)
class ReplyEnd:
    """The end of a streamed reply: all of it."""

    reply: ChatReply


Event = Delta | ReplyEnd
R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True, init=False)
class Request(Generic[R_co]):
    """One entry of `Model.batch`: a prompt or a conversation, with its own adapters and sampling.

    Exactly one of prompt (the result is a Completion) and messages (a ChatReply). keywords: as of
    `complete` and `chat`, such as max_tokens=5.
    """

    prompt: Prompt | None
    messages: Sequence[Message] | None
    tools: Tools | None
    adapters: Scales | None
    sampling: SamplingParams | None
    keywords: ChatKeywords

    @overload
    def __init__(
        self: Request[Completion],
        *,
        prompt: Prompt,
        adapters: Scales | None = None,
        sampling: SamplingParams | None = None,
        **keywords: Unpack[SamplingOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: Request[ChatReply],
        *,
        messages: Sequence[Message],
        tools: Tools | None = None,
        adapters: Scales | None = None,
        sampling: SamplingParams | None = None,
        **keywords: Unpack[ChatKeywords],
    ) -> None: ...
    def __init__(
        self,
        *,
        prompt: Prompt | None = None,
        messages: Sequence[Message] | None = None,
        tools: Tools | None = None,
        adapters: Scales | None = None,
        sampling: SamplingParams | None = None,
        **keywords: Any,
    ) -> None:
        """Raises ParameterError."""
        if (prompt is None) == (messages is None):
            found = "neither" if prompt is None else "both"
            raise ParameterError(
                f"a Request has a prompt or messages, found {found}",
                hint='Request(prompt="...") or Request(messages=[{"role": "user", ...}])',
            )
        options, rest = split_keywords(cast(ChatKeywords, keywords))
        require_sampling(rest)
        sampling_params(sampling, rest)  # raises what is wrong with them
        if messages is None and (tools is not None or options != DEFAULT or "repair" in keywords):
            given = sorted(set(keywords) - set(rest)) + ["tools"] * (tools is not None)
            raise ParameterError(
                f"{', '.join(given)}: a prompt that is no conversation has no template",
                hint="give messages",
            )
        for name, value in (
            ("prompt", prompt),
            ("messages", messages),
            ("tools", tools),
            ("adapters", adapters),
            ("sampling", sampling),
            ("keywords", keywords),
        ):
            object.__setattr__(self, name, value)


def check_request(request: object) -> None:
    """Raise ParameterError for what is no Request."""
    if not isinstance(request, Request):
        raise ParameterError(
            f"a batch is of lorakit.Request, not {shown(request)}",
            hint='lorakit.Request(messages=[...], adapters={"name": 1.0}), or with prompt="..."',
        )


def check_batch(requests: object) -> None:
    """Raise ParameterError for what holds no requests, such as a single one."""
    if not isinstance(requests, Iterable):
        raise ParameterError(
            f"a batch is a list of lorakit.Request, not {shown(requests)}",
            hint="a single request goes into a list, too",
        )
