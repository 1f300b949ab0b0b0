"""A row as the pieces that a context decodes: its text, and its images by their vectors."""

from __future__ import annotations

from lorakit.engines.llama.context import Piece
from lorakit.engines.llama.vision import Vision
from lorakit.engines.protocol import Logits, Row
from lorakit.errors import EngineError, ParameterError
from lorakit.text.image_ids import runs


def pieces(
    row: Row, result: Logits, slot: int, start: int, *, causal: bool
) -> list[tuple[Piece, Logits]]:
    """A row's text and images, each with its share of the row's logits.

    slot, start: where its sequence is in the context, and how long. causal: of images, see Piece.
    """
    if not row.images:
        return [(Piece(slot, start, row.tokens, len(result)), result)]
    before = len(row.tokens) - len(result)  # positions without logits
    parts = []
    for run in runs(row.tokens):
        keep = min(max(run.end - before, 0), run.end - run.start)
        last = max(run.end - before, 0)
        image = run.digest is not None
        piece = Piece(
            slot,
            start + run.start,
            row.tokens[run.start : run.end],
            keep,
            vectors=row.images[run.digest] if run.digest is not None else None,
            causal=causal or not image,
        )
        parts.append((piece, result[last - keep : last]))
    return parts


def require_whole_images(row: Row, vision: Vision | None, micro_batch: int) -> None:
    """Raise where negative ids form no whole images of the model, or the row lacks their vectors;
    and EngineError for an image that has to run at once and is too large for that."""
    if vision is None:
        raise ParameterError("a row has negative token ids, but no projector is loaded")
    for run in runs(row.tokens):
        if run.digest is None:
            continue
        vectors = row.images.get(run.digest)
        count = run.end - run.start
        if vectors is None or run.position or vectors.shape != (count, vision.width):
            raise ParameterError(
                "negative token ids must form whole images of this model, with vectors",
                items=[f"token {run.start}: {count} positions from {run.position} on"],
            )
        if not vision.causal and count > micro_batch:
            raise EngineError(
                f"an image of {count} tokens does not fit a micro batch of {micro_batch}",
                hint=f"open the model with micro_batch={count} or more",
            )
