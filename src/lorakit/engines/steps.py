"""What every engine refuses of a step, before anything of it is touched."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Sequence
from itertools import pairwise

import numpy as np

from lorakit.engines.protocol import Capabilities, Row
from lorakit.errors import ContextFullError, EngineError, ParameterError
from lorakit.values import shown


def check_rows(
    rows: Sequence[Row],
    limit: Capabilities,
    length: Callable[[int], int],
    attached: Container[int],
) -> None:
    """Raise for rows that cannot run; negative ids, which name images, are the engine's to judge.

    length: of a sequence's KV cache. attached: the handles that rows may name.
    """
    if len(rows) > limit.max_batch:
        raise EngineError(f"{len(rows)} rows in one step; max_batch is {limit.max_batch}")
    if len({row.sequence for row in rows}) < len(rows):
        raise EngineError("a step names one sequence twice")
    for row in rows:
        tokens = row.tokens
        if tokens.ndim != 1 or not len(tokens):
            raise ParameterError("a row needs a 1-D array of at least one token")
        highest = int(tokens[0] if len(tokens) == 1 else tokens.max())
        if highest >= limit.vocabulary:
            raise ParameterError(f"token ids must be below {limit.vocabulary}")
        total = length(row.sequence) + len(tokens)
        if total > limit.context:
            raise ContextFullError(
                f"a sequence would hold {total} tokens; the context is {limit.context}"
            )
        for handle, scale in row.adapters:
            require_attached(handle, attached)
            if not math.isfinite(scale):
                raise ParameterError(f"a scale must be finite, found {scale}")
        check_wanted(row, limit)


def check_wanted(row: Row, limit: Capabilities) -> None:
    """Raise ParameterError for positions or columns of logits that the row does not have."""
    if isinstance(row.logits, tuple):
        ascending = all(a < b for a, b in pairwise(row.logits))
        if not ascending or any(not 0 <= at < len(row.tokens) for at in row.logits):
            raise ParameterError(
                f"logits of a row of {len(row.tokens)} tokens are of ascending positions in it, "
                f"found {shown(row.logits)}"
            )
    if row.among is None:
        return
    columns = row.among
    if len(row.positions) != 1 or not 0 < len(columns) <= limit.few:
        raise ParameterError(
            f"columns are chosen for one position and at most {limit.few} of them, found "
            f"{len(row.positions)} positions and {len(columns)} columns"
        )
    if columns[0] < 0 or columns[-1] >= limit.vocabulary or bool((np.diff(columns) <= 0).any()):
        raise ParameterError(f"columns are ascending ids below {limit.vocabulary}")


def refuse_images(rows: Sequence[Row]) -> None:
    """Raise ParameterError for negative ids, where the engine sees no images."""
    if any(int(row.tokens.min()) < 0 for row in rows):
        raise ParameterError("token ids must not be negative")


def require_attached(handle: int, attached: Container[int]) -> None:
    """Raises EngineError for a handle that attach did not give, or that was detached."""
    if handle not in attached:
        raise EngineError(f"no adapter is attached with handle {handle}")
