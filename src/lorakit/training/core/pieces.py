"""Attention as plain matrix products, piece by piece: faster on a CPU than fused kernels are.

A piece is some queries and all keys that they see, small enough for a core's cache; the query heads
that share a key head are rows of one product. Weights are computed again on the way back, so
nothing but queries, keys and values is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lorakit.training.core.rows import Group

QUERIES = 128  # of a piece, at most: longer ones compute more of what the mask hides
Times = Callable[[Any, Any], Any]  # a b^T of two matrices
Mask = Callable[[int, int], Any]  # added to the scores of the last so many of so many tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Queries begin..end of the row. Their keys are those of the prefix from `first` on and those
    from `own` to the end; in positions they follow each other."""

    begin: int
    end: int
    first: int
    prefix_end: int
    own: int

    @property
    def keys(self) -> int:
        return self.prefix_end - self.first + self.end - self.own


def cut(groups: Sequence[Group], window: int | None) -> Iterator[Piece]:
    """All pieces, in the order of the row."""
    for group in groups:
        end = group.start + group.prefix
        yield from _pieces(group.start, end, (group.start, group.start), window)
        for tails in group.tails:
            for start, length in zip(tails.starts, tails.lengths, strict=True):
                yield from _pieces(start, start + length, (group.start, end), window)


def _pieces(start: int, end: int, prefix: tuple[int, int], window: int | None) -> Iterator[Piece]:
    for begin in range(start, end, QUERIES):
        first, own = prefix[0], start
        if window is not None:  # the first position that the first query sees
            seen = max(0, begin - start + prefix[1] - prefix[0] - window + 1)
            first = min(prefix[0] + seen, prefix[1])
            own = start + max(0, seen - (prefix[1] - prefix[0]))
        yield Piece(
            begin=begin,
            end=min(begin + QUERIES, end),
            first=first,
            prefix_end=prefix[1],
            own=own,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Work:
    """What the pieces of a layer have in common."""

    pieces: tuple[Piece, ...]
    scale: float
    mask: Mask
    times: Times

    def weights(self, q: Any, k: Any, piece: Piece) -> Any:
        """softmax(scale q k^T) in float32 or wider."""
        queries = piece.end - piece.begin
        scores = self.times(q, k).view(-1, queries, piece.keys)
        hidden = torch.add(self.mask(queries, piece.keys), scores, alpha=self.scale)
        return torch.softmax(hidden, -1).view(-1, piece.keys)


class PieceAttention(torch.autograd.Function):  # type: ignore[misc]  # torch is not followed
    """q [heads, tokens, head_dim], k and v [key heads, ...] -> [tokens, heads, head_dim]."""

    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, v: Any, work: Work) -> Any:
        ctx.save_for_backward(q, k, v)
        ctx.work = work
        found = q.new_empty(q.shape[1], q.shape[0], q.shape[2])
        for piece, head, queries in _parts(work.pieces, q, k):
            own = _rows(q[queries, piece.begin : piece.end])
            weights = work.weights(own, _keys(k[head], piece), piece).to(q.dtype)
            mixed = work.times(weights, _keys(v[head], piece).t())
            found[piece.begin : piece.end, queries] = _by_token(mixed, piece)
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        q, k, v = ctx.saved_tensors
        work: Work = ctx.work
        of_q = torch.empty_like(q)
        of_k, of_v = (torch.zeros(x.shape, dtype=wide(q), device=q.device) for x in (k, v))
        for piece, head, queries in _parts(work.pieces, q, k):
            own, keys = _rows(q[queries, piece.begin : piece.end]), _keys(k[head], piece)
            weights = work.weights(own, keys, piece)
            given = _rows(gradient[piece.begin : piece.end, queries].transpose(0, 1))
            _add(of_v[head], piece, work.times(weights.to(q.dtype).t(), given.t()))
            of_weights = work.times(given, _keys(v[head], piece)).to(weights.dtype)
            of_scores = _softmax_back(of_weights, weights).mul_(work.scale).to(q.dtype)
            of_q[queries, piece.begin : piece.end] = _by_token(
                work.times(of_scores, keys.t()), piece
            ).transpose(0, 1)
            _add(of_k[head], piece, work.times(of_scores.t(), own.t()))
        return of_q, of_k.to(k.dtype), of_v.to(v.dtype), None


def _parts(pieces: Sequence[Piece], q: Any, k: Any) -> Iterator[tuple[Piece, int, slice]]:
    """Each piece with each key head and the query heads that share it."""
    shared = q.shape[0] // k.shape[0]
    for piece in pieces:
        for head in range(k.shape[0]):
            yield piece, head, slice(head * shared, (head + 1) * shared)


def wide(x: Any) -> Any:
    """The dtype of its softmax."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _rows(x: Any) -> Any:
    """[heads, queries, head_dim] as a matrix."""
    return x.reshape(-1, x.shape[-1])


def _by_token(x: Any, piece: Piece) -> Any:
    """A matrix [heads * queries, head_dim] as [queries, heads, head_dim]."""
    return x.view(-1, piece.end - piece.begin, x.shape[-1]).transpose(0, 1)


def _keys(x: Any, piece: Piece) -> Any:
    own = x[piece.own : piece.end]
    if piece.first == piece.prefix_end:
        return own
    return torch.cat([x[piece.first : piece.prefix_end], own])


def _add(total: Any, piece: Piece, gradient: Any) -> None:
    """A gradient by key to the tokens that the keys are of."""
    before = piece.prefix_end - piece.first
    total[piece.first : piece.prefix_end] += gradient[:before]
    total[piece.own : piece.end] += gradient[before:]


def _softmax_back(gradient: Any, weights: Any) -> Any:
    along = (gradient * weights).sum(-1, keepdim=True)
    return gradient.sub_(along).mul_(weights)
