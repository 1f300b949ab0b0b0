"""How a conversation becomes a prompt, and what its tools are for: what a caller may choose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from lorakit.chat.messages import prepare_variables
from lorakit.errors import ParameterError
from lorakit.values import among, shown

ToolChoice = str | Mapping[str, Any] | None  # "auto", "none", "required", "free", or a function
ControlTokens = Literal["text", "template"]
GIVEN = ("messages", "tools", "add_generation_prompt")  # what a template is given in any case


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderOptions:
    """What reaches the chat template, what control tokens in messages are, and what tools are for.

    chat_template_kwargs: variables of the template, such as {"date_string": "1 Jan 2026"}; one
    that it does not read is an error. enable_thinking: the same as that variable. control_tokens:
    what a control token such as <|im_end|> is where a message spells it: "text", or what the
    template's own are ("template"). None is text in calls and in the results of tools.
    tool_choice: "auto" lets the model talk or call, and what begins as a call ends as a valid one;
    "required" has it call; a function's name (or OpenAI's {"type": "function", ...}) has it call
    that one; in "none" it cannot call; "free" restricts nothing. None is "auto" where calls can be
    restricted, else "free". parallel_tool_calls: whether there may be several calls. declare:
    whether the prompt has the tools; without, they only say what calls may be.
    Raises ParameterError.
    """

    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    enable_thinking: bool | None = None
    control_tokens: ControlTokens | None = None
    tool_choice: ToolChoice = None
    parallel_tool_calls: bool = True
    declare: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.chat_template_kwargs, Mapping):
            raise ParameterError(
                "chat_template_kwargs are variables by name, not "
                f"{shown(self.chat_template_kwargs)}"
            )
        if taken := sorted(set(GIVEN) & self.chat_template_kwargs.keys()):
            raise ParameterError(
                "chat_template_kwargs cannot replace what every template is given", items=taken
            )
        plain = prepare_variables(self.chat_template_kwargs)
        object.__setattr__(self, "chat_template_kwargs", plain)
        if not isinstance(self.enable_thinking, bool | None):
            found = shown(self.enable_thinking)
            raise ParameterError(f"enable_thinking must be True or False, found {found}")
        if self.enable_thinking is not None and "enable_thinking" in plain:
            raise ParameterError("enable_thinking is given twice: in chat_template_kwargs too")
        if self.control_tokens is not None and not among(
            self.control_tokens, get_args(ControlTokens)
        ):
            found = shown(self.control_tokens)
            raise ParameterError(f"control_tokens must be 'text' or 'template', not {found}")
        object.__setattr__(self, "tool_choice", _choice(self.tool_choice))
        for name in ("parallel_tool_calls", "declare"):
            if not isinstance(value := getattr(self, name), bool):
                raise ParameterError(f"{name} must be True or False, found {shown(value)}")

    @property
    def variables(self) -> dict[str, Any]:
        """What the template is given beside messages and tools."""
        thinking = self.enable_thinking
        own = {} if thinking is None else {"enable_thinking": thinking}
        return {**self.chat_template_kwargs, **own}


def _choice(value: object) -> str | None:
    """A choice of tools as a word or a function's name. Raises ParameterError."""
    said = value
    if isinstance(value, Mapping) and value.get("type") == "function":
        function = value.get("function", value)  # the Responses API has the name beside the type
        said = function.get("name") if isinstance(function, Mapping) else 0
    if value is None or (isinstance(said, str) and said):
        return said if isinstance(said, str) else None
    raise ParameterError(
        f"tool_choice is a word or one function, found {shown(value)}",
        hint='"auto", "none", "required", "free", the name of a function, or {"type": "function", '
        '"function": {"name": "..."}}',
    )


DEFAULT = RenderOptions()
