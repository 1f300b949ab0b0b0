"""What is meant where a user names adapters or none, and messages or a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from lorakit.chat.messages import Message
from lorakit.errors import ParameterError
from lorakit.model.adapters import Scales, as_scales
from lorakit.model.model import Model
from lorakit.model.prompts import is_conversation
from lorakit.model.types import Prompt

Asked = Prompt | Sequence[Message]  # messages are answered as `chat` answers them


def acting(model: Model, adapters: Scales | None) -> dict[str, float]:
    """Adapters with their scales; None means the active ones. Raises ParameterError."""
    if adapters is not None:
        chosen = as_scales(adapters)
    else:
        chosen = {each.name: each.scale for each in model.adapters if each.scale is not None}
    if not chosen:
        raise ParameterError(
            "no adapter is named or active, so there is nothing to compare the base with",
            hint='adapters={"name": 1.0}',
        )
    return chosen


def prompt_of(model: Model, asked: Asked) -> Prompt:
    """A prompt as it is, or that of messages. Raises what `Model.chat_prompt` raises."""
    return model.chat_prompt(asked) if is_conversation(asked) else cast(Prompt, asked)
