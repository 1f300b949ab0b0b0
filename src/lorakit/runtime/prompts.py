"""What a prompt must be to run: ids that the vocabulary has, and room for an answer."""

from __future__ import annotations

from collections.abc import Container, Sequence

from lorakit.errors import ContextFullError, ParameterError
from lorakit.text.image_ids import image_of
from lorakit.values import shown


def check_prompt(
    prompt: Sequence[int],
    context: int,
    vocabulary: int,
    images: Container[int] = (),
    *,
    longest: int = 0,
) -> None:
    """Refuse what no engine can run. Raises ContextFullError or ParameterError.

    images: the digests that negative ids may name. longest: as in Capabilities.
    """
    if len(prompt) >= context:
        raise ContextFullError(
            f"the prompt has {len(prompt)} tokens; the context holds {context}, "
            "at least one of them for the answer",
            hint=f"shorten the prompt{_or_larger(context, longest)}",
        )
    check_ids(prompt, vocabulary, images)


def larger_context(context: int, longest: int) -> str:
    """How to get a larger context than this one; "" where the model has none, or it is not known.

    longest: as in Capabilities.
    """
    return f"open the model with a larger context=, at most {longest}" if longest > context else ""


def _or_larger(context: int, longest: int) -> str:
    larger = larger_context(context, longest)
    if larger:
        return f", or {larger}"
    return f": the model's limit is {longest}" if longest else ""


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
