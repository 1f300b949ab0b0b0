"""Tools: which format a model uses, and whether a call fits the tools that were offered.

Adding a format is one file and one row of FORMATS. A format is recognised by strings that its
models' chat templates (or, without a telling template, vocabularies) hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lorakit.chat.calls import Malformed, ParsedReply, ToolCall, ToolFormat, function_of
from lorakit.chat.formats.deepseek import DEEPSEEK
from lorakit.chat.formats.gemma import FUNCTIONGEMMA, GEMMA4
from lorakit.chat.formats.generic import GENERIC
from lorakit.chat.formats.granite import GRANITE
from lorakit.chat.formats.hermes import HERMES
from lorakit.chat.formats.llama3 import LLAMA3
from lorakit.chat.formats.llama3_function import LLAMA3_FUNCTION
from lorakit.chat.formats.mistral import MISTRAL, MISTRAL11
from lorakit.chat.formats.phi4 import PHI4
from lorakit.chat.formats.qwen3coder import QWEN3CODER
from lorakit.chat.schema import problems
from lorakit.errors import ParameterError
from lorakit.values import among, shown

__all__ = [
    "FORMATS",
    "Malformed",
    "ParsedReply",
    "ToolCall",
    "ToolFormat",
    "detect_format",
    "get_format",
    "validate_call",
]


FormatName = Literal[
    "functiongemma",
    "gemma4",
    "hermes",
    "qwen3coder",
    "llama3",
    "llama3_function",
    "mistral",
    "mistral11",
    "phi4",
    "deepseek",
    "granite",
    "json",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """By what a format is recognised: all of `present`, none of `absent`, in the template."""

    format: ToolFormat
    present: tuple[str, ...]
    absent: tuple[str, ...] = ()
    token: str = ""  # a token of the vocabulary that no other format has


_MARKERS = (  # of calls that are more than JSON, as a template may write them
    *("<tool", "<|tool", "<｜", "[TOOL", "<TOOL", "<function", "functools", "<invoke", "<action"),
    *(
        "<|python_tag|>",
        "<|channel",
        "<|START_",
        "<|action",
        "<|call",
        "<start_",
        "<seed:",
        "<minimax",
    ),
)

FORMATS: Mapping[str, Signs] = {
    signs.format.name: signs
    for signs in (
        Signs(
            format=FUNCTIONGEMMA,
            present=("<start_function_call>", "<escape>"),
            token="<start_function_call>",
        ),
        Signs(format=GEMMA4, present=("<|tool_call>", '<|"|>'), token="<|tool_call>"),
        Signs(
            format=HERMES,
            present=("<tool_call>", "arguments"),
            # Calls of Qwen3-Coder, GLM and MiniMax are not JSON; the templates of Apriel and
            # MiroThinker name <tool_call> too, but their models write what else is here.
            absent=("<function=", "<arg_key>", "<invoke", "<tool_calls>", "<use_mcp_tool>"),
        ),
        Signs(format=QWEN3CODER, present=("<tool_call>", "<function=", "<parameter=")),
        Signs(
            format=LLAMA3,
            present=('"parameters', "<|start_header_id|>", "ipython"),  # the call's key, no word
            absent=("<function=", ">>>", "<TOOLCALL>"),  # Functionary's and Nemotron's calls
        ),
        Signs(
            format=LLAMA3_FUNCTION,
            present=("<function=", "<|start_header_id|>"),
            absent=("<parameter=",),
        ),
        Signs(format=MISTRAL, present=("[TOOL_CALLS]",), absent=("[ARGS]",)),
        Signs(format=MISTRAL11, present=("[TOOL_CALLS]", "[ARGS]")),
        Signs(format=PHI4, present=("<|tool|>", "<|/tool|>", "<|end|>")),
        Signs(
            format=DEEPSEEK,
            present=("<｜tool▁calls▁begin｜>", "<｜tool▁sep｜>", "```json"),
        ),
        Signs(format=GRANITE, present=("<|start_of_role|>", "<|tool_call|>")),
        Signs(
            format=GENERIC,
            present=("tools", '"name', '"arguments', "JSON"),
            absent=_MARKERS,
        ),
    )
}


def get_format(name: FormatName) -> ToolFormat:
    """A format by name. Raises ParameterError for an unknown one."""
    if not among(name, FORMATS):
        raise ParameterError(
            f"there is no tool format {shown(name)}", hint=f"known: {', '.join(FORMATS)}"
        )
    return FORMATS[name].format


def detect_format(
    template: str | None, token_id: Callable[[str], int | None] | None = None
) -> ToolFormat | None:
    """The format that a chat template writes, else the one whose token the vocabulary holds.

    token_id: such as `Tokenizer.token_id`. None where no format is recognised.
    """
    for signs in FORMATS.values():
        if template and _fits(signs, template):
            return signs.format
    for signs in FORMATS.values():
        if token_id and signs.token and token_id(signs.token) is not None:
            return signs.format
    return None


def validate_call(call: ToolCall, tools: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every way in which a call does not fit the tools: [] where it does.

    tools: OpenAI function objects. An argument that the schema does not name is a fault, unless
    the schema says additionalProperties.
    """
    known = {str(function_of(tool).get("name")): function_of(tool) for tool in tools}
    if call.name not in known:
        offered = ", ".join(sorted(known)) or "no tools"
        return [f"{call.name}: no such function; offered: {offered}"]
    schema = known[call.name].get("parameters") or {}
    return problems(dict(call.arguments), schema, call.name, closed=True)


def _fits(signs: Signs, template: str) -> bool:
    return all(s in template for s in signs.present) and not any(
        s in template for s in signs.absent
    )
