"""What a prompt must be to run: ids that the vocabulary has, and room for an answer."""

from __future__ import annotations

from collections.abc import Container, Sequence

from lorakit.errors import ContextFullError, ParameterError
from lorakit.text.image_ids import image_of
from lorakit.values import shown


def check_prompt(
    prompt: Sequence[int], context: int, vocabulary: int, images: Container[int] = ()
) -> None:
    """Refuse what no engine can run. Raises ContextFullError or ParameterError.

    images: the digests that negative ids may name.
    """
    if len(prompt) >= context:
        raise ContextFullError(
            f"the prompt has {len(prompt)} tokens; the context holds {context}, "
            "at least one of them for the answer",
            hint="shorten the prompt, or open the model with a larger context, up to what it was "
            "trained for",
        )
    check_ids(prompt, vocabulary, images)


def check_ids(tokens: Sequence[int], vocabulary: int, images: Container[int] = ()) -> None:
    """Refuse token ids that the vocabulary does not have. Raises ParameterError."""
    outside = sorted(
        token
        for token in set(tokens)
        if token >= vocabulary or (token < 0 and image_of(token)[0] not in images)
    )
    if outside:
        raise ParameterError(
            f"token ids must be in [0, {vocabulary}), found {', '.join(map(shown, outside[:5]))}"
        )
