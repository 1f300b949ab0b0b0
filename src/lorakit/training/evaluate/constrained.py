"""Answers that are constrained: the same prompts, each with what its calls must be.

Nothing of the wanted answers is used: a side that is constrained may talk or call, as in a chat,
and one that is required to has to call, wanted or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from lorakit.chat.constraints.replies import ToolUse
from lorakit.chat.dialogue import Dialogue
from lorakit.chat.rendering import RenderOptions
from lorakit.errors import FormatError, ParameterError
from lorakit.model.constraining import tool_use
from lorakit.model.types import ChatPrompt
from lorakit.training.data import Example
from lorakit.training.evaluate.work import Work
from lorakit.values import shown

Constrained = bool | Literal["required"]  # True is tool_choice="auto"
REQUIRED: Literal["required"] = "required"


def require_constrained(value: object) -> None:
    """Raise ParameterError for what says neither whether nor how."""
    if not isinstance(value, bool) and value != REQUIRED:
        raise ParameterError(f'constrained is True, False or "required", found {shown(value)}')


def tool_uses(
    examples: Iterable[Example], constrained: Constrained, *, known: bool = True
) -> list[ToolUse | None]:
    """What the calls of each example's answer must be; None where it declares no tools.

    known: whether the model's format of calls is. Raises FormatError for tools whose schemas cannot
    be enforced, ParameterError where no example has any, and CapabilityError where calls are
    required of a model without a known format.
    """
    options = RenderOptions(tool_choice=REQUIRED if constrained == REQUIRED else None)
    found: list[ToolUse | None] = []
    faults: list[str] = []
    for example in examples:
        try:
            found.append(tool_use(example.tools, options, known=known) if example.tools else None)
        except ParameterError as error:
            faults += [f"{example.place}: {'; '.join([error.message, *error.items[:3]])}"]
    if faults:
        raise FormatError(
            f"the tools of {len(faults)} examples cannot be enforced",
            items=faults,
            hint="evaluate without constraints, or change their schemas",
        )
    if not any(found) and known:
        raise ParameterError(
            "no example that is answered declares tools, so that nothing can be constrained",
            hint="declare them in a tools.json beside the examples",
        )
    return found


def prompts_of(
    work: Work, constrained: Constrained, dialogue: Dialogue
) -> Mapping[int, Sequence[int]]:
    """The prompts by the places of their examples: the same token ids, constrained or not. Raises
    as `tool_uses`."""
    if not constrained:
        return work.prompts
    examples = [work.examples[place] for place in work.prompts]
    uses = tool_uses(examples, constrained, known=dialogue.tool_format is not None)
    return {
        place: _with(prompt, use)
        for (place, prompt), use in zip(work.prompts.items(), uses, strict=True)
    }


def _with(prompt: Sequence[int], use: ToolUse | None) -> Sequence[int]:
    if use is None or not isinstance(prompt, ChatPrompt):
        return prompt
    return ChatPrompt(prompt, reasons=prompt.reasons, tools=prompt.tools, use=use)
