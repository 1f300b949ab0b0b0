"""A row as the pieces that a context decodes: its text, and its images by their vectors."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

from lorakit.engines.llama.context import Piece
from lorakit.engines.llama.vision import Vision
from lorakit.engines.protocol import Logits, Row
from lorakit.errors import EngineError, ParameterError
from lorakit.text.image_ids import runs

ONE_BY_ONE = 6  # tokens; measured: 2 cost 0.60, 4 0.76, 6 0.96 of what they cost at once
Part = tuple[Piece, Logits]


def pieces(
    row: Row, result: Logits, slot: int, start: int, *, causal: bool
) -> list[tuple[Piece, Logits]]:
    """A row's text and images, each with its share of the row's logits.

    slot, start: where its sequence is in the context, and how long. causal: of images, see Piece.
    """
    if not row.images:
        return [(Piece(slot, start, row.tokens, row.positions), result)]
    wanted = row.positions
    parts = []
    for run in runs(row.tokens):
        first, last = bisect_left(wanted, run.start), bisect_left(wanted, run.end)
        image = run.digest is not None
        piece = Piece(
            slot,
            start + run.start,
            row.tokens[run.start : run.end],
            [at - run.start for at in wanted[first:last]],
            vectors=row.images[run.digest] if run.digest is not None else None,
            causal=causal or not image,
        )
        parts.append((piece, result[first:last]))
    return parts


def decodes(parts: Sequence[Part]) -> list[Sequence[Part]]:
    """Pieces as the decodes that compute them soonest.

    A few tokens that follow others cost less one by one, without logits but for the last, than at
    once: llama.cpp multiplies several tokens by the whole vocabulary, whatever is wanted of them.
    """
    seats = [piece.slot for piece, _ in parts]  # one of several, beside images, keeps its place
    apart = [_is_short(piece) and seats.count(piece.slot) == 1 for piece, _ in parts]
    if not any(apart):
        return [parts]
    short = [part for part, is_short in zip(parts, apart, strict=True) if is_short]
    whole = [part for part, is_short in zip(parts, apart, strict=True) if not is_short]
    alone: list[Sequence[Part]] = [
        [
            (replace(p, start=p.start + at, tokens=p.tokens[at : at + 1], keep=()), result[:0])
            for p, result in short
            if at < len(p.tokens) - 1
        ]
        for at in range(max(len(p.tokens) for p, _ in short) - 1)
    ]
    return [*alone, [*whole, *((_last_of(piece), result) for piece, result in short)]]


def _is_short(piece: Piece) -> bool:
    count = len(piece.tokens)
    plain = piece.vectors is None and piece.start > 0 and 1 < count <= ONE_BY_ONE
    return plain and all(at == count - 1 for at in piece.keep)


def _last_of(piece: Piece) -> Piece:
    before = len(piece.tokens) - 1
    return replace(
        piece,
        start=piece.start + before,
        tokens=piece.tokens[before:],
        keep=[0] if piece.keep else (),
    )


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
