"""Attention over a packed row (see rows.py), through transformers' registry of attentions.

A prefix attends to itself; a tail to its prefix and itself. Windows are those of lorakit's
description of the base. Long tails on a CPU go through matrix products (see pieces.py); all else
through torch's fused attention, tails of like length in one call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # its name in every torch program
from transformers import AttentionInterface

from lorakit.training.core.pieces import Piece, PieceAttention, Times, Work, cut, wide
from lorakit.training.core.rows import Group, Packed, Tails

NAME = "lorakit_rows"
WORTH = 1 << 13  # scores of a piece, for one head


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Places:
    """Tails as indices into the row: `at` [tails, longest], padded with their first token, and
    which of them are no padding; both None where the tails are one block."""

    begin: int
    end: int
    tails: Tails
    at: Any
    keep: Any


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layout:
    """A packed row on a device, and the windows of the base's layers; masks are made once."""

    groups: tuple[tuple[Group, tuple[Places, ...]], ...]
    windows: Sequence[int | None]
    device: Any
    pieces: Mapping[int | None, tuple[Piece, ...]] | None  # by window; None: fused attention
    times: Times
    masks: dict[tuple[int, int, int | None, Any], Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        packed: Packed,
        windows: Sequence[int | None],
        device: Any,
        times: Times,
        in_pieces: bool | None = None,
    ) -> Layout:
        """in_pieces: whether to use matrix products; None: where they are faster."""
        groups = tuple((g, tuple(_places(t, device) for t in g.tails)) for g in packed.groups)
        pieces = {w: tuple(cut(packed.groups, w)) for w in set(windows)}
        if in_pieces is None:
            in_pieces = device.type == "cpu" and all(map(_large, pieces.values()))
        return cls(
            groups=groups,
            windows=windows,
            device=device,
            pieces=pieces if in_pieces else None,
            times=times,
        )

    def work(self, window: int | None, scale: float, dtype: Any) -> Work | None:
        if self.pieces is None:
            return None

        def mask(queries: int, keys: int) -> Any:
            return self.mask(queries, keys, window, dtype)

        return Work(pieces=self.pieces[window], scale=scale, mask=mask, times=self.times)

    def mask(self, queries: int, keys: int, window: int | None, dtype: Any) -> Any:
        """What is added to the scores of the last `queries` of `keys` tokens."""
        known = (queries, keys, window, dtype)
        if known not in self.masks:
            q = torch.arange(keys - queries, keys, device=self.device)[:, None]
            k = torch.arange(keys, device=self.device)[None]
            hidden = (k > q) if window is None else (k > q) | (q - k >= window)
            mask = torch.zeros(queries, keys, dtype=dtype, device=self.device)
            self.masks[known] = mask.masked_fill_(hidden, float("-inf"))
        return self.masks[known]


def _large(pieces: Sequence[Piece]) -> bool:
    """Whether pieces are worth a product each, on average."""
    scores = sum((piece.end - piece.begin) * piece.keys for piece in pieces)
    return scores >= WORTH * len(pieces)


def _places(tails: Tails, device: Any) -> Places:
    begin, longest = tails.starts[0], tails.longest
    end = tails.starts[-1] + tails.lengths[-1]
    if tails.even:
        return Places(begin=begin, end=end, tails=tails, at=None, keep=None)
    starts = torch.tensor(tails.starts)[:, None]
    steps = torch.arange(longest)[None]
    keep = steps < torch.tensor(tails.lengths)[:, None]
    at = torch.where(keep, starts + steps, starts)
    return Places(begin=begin, end=end, tails=tails, at=at.to(device), keep=keep.to(device))


def attend(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    *,
    layout: Layout,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Any, None]:
    """query [1, heads, tokens, head_dim] -> [1, tokens, heads, head_dim], as transformers asks."""
    window = layout.windows[module.layer_idx]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    work = layout.work(window, scale, wide(query))
    if work is not None:
        return PieceAttention.apply(query[0], key[0], value[0], work)[None], None
    call = _Call(layout, window, scale, query[0], key[0], value[0])
    parts = [part for group, places in layout.groups for part in call.group(group, places)]
    return torch.cat(parts)[None], None


AttentionInterface.register(NAME, attend)


@dataclass(frozen=True, slots=True)
class _Call:
    """The attention of one layer; q, k and v are [heads, tokens, head_dim]."""

    layout: Layout
    window: int | None
    scale: float
    query: Any
    key: Any
    value: Any

    def group(self, group: Group, places: Sequence[Places]) -> list[Any]:
        begin, end = group.start, group.start + group.prefix
        parts = self._prefix(begin, end) if group.prefix else []
        return parts + [self._tails(begin, end, part) for part in places]

    def _prefix(self, begin: int, end: int) -> list[Any]:
        """In pieces of a window's length where there is one that hides any of it."""
        window = self.window
        step = end - begin if window is None or end - begin <= window else max(window, 64)
        parts = []
        for at in range(begin, end, step):
            last, first = min(at + step, end), self._first(begin, at)
            q, k, v = (
                self.query[None, :, at:last],
                self.key[None, :, first:last],
                self.value[None, :, first:last],
            )
            parts.append(self._scores(q, k, v).transpose(1, 2)[0])
        return parts

    def _tails(self, begin: int, end: int, places: Places) -> Any:
        first = self._first(begin, end)
        count, longest = len(places.tails.starts), places.tails.longest
        k, v = (
            torch.cat([x[None, :, first:end].expand(count, -1, -1, -1), self._own(x, places)], 2)
            if end > first
            else self._own(x, places)
            for x in (self.key, self.value)
        )
        found = self._scores(self._own(self.query, places), k, v).transpose(1, 2)
        if places.keep is None:
            return found.reshape(count * longest, *found.shape[2:])
        return found[places.keep]

    def _own(self, x: Any, places: Places) -> Any:
        """[tails, heads, longest, head_dim]"""
        count, longest = len(places.tails.starts), places.tails.longest
        own = x[:, places.begin : places.end] if places.at is None else x[:, places.at.view(-1)]
        return own.reshape(x.shape[0], count, longest, x.shape[-1]).transpose(0, 1)

    def _first(self, begin: int, at: int) -> int:
        """The first key that the query at `at` sees."""
        return begin if self.window is None else max(begin, at - self.window + 1)

    def _scores(self, q: Any, k: Any, v: Any) -> Any:
        queries, keys = q.shape[2], k.shape[2]
        hides = self.window is not None and keys > self.window
        causal = queries == keys and not hides
        mask = None
        if not causal:
            mask = self.layout.mask(queries, keys, self.window if hides else None, q.dtype)
        return F.scaled_dot_product_attention(
            q,
            _repeated(k, q.shape[1]),
            _repeated(v, q.shape[1]),
            attn_mask=mask,
            is_causal=causal,
            scale=self.scale,
        )


def _repeated(x: Any, heads: int) -> Any:
    """Keys or values once for each query head that shares them."""
    times = heads // x.shape[1]
    if times == 1:
        return x
    if x.shape[1] == 1:
        return x.expand(-1, heads, -1, -1)
    return x.repeat_interleave(times, 1)
