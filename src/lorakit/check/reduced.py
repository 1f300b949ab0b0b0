"""An adapter without what cannot act on this base, or changes nothing in it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lorakit.adapter import Adapter, Replacement
from lorakit.architectures import is_seeing
from lorakit.base.folder import Base

_NUMBER = re.compile(r"\.\d+(?=\.|$)")


def without_seeing(adapter: Adapter) -> tuple[Adapter, tuple[str, ...]]:
    """The adapter without its parts for what sees or hears, and their names.

    They are of a model that holds this one's text, and cannot act on text.
    """
    names = [*adapter.modules, *(r.name for r in adapter.replacements)]
    seeing = tuple(name for name in names if is_seeing(name))
    if not seeing:
        return adapter, ()
    kept = replace(
        adapter,
        deltas=tuple(d for d in adapter.deltas if not is_seeing(d.module)),
        magnitudes=tuple(m for m in adapter.magnitudes if not is_seeing(m.module)),
        replacements=tuple(r for r in adapter.replacements if not is_seeing(r.name)),
    )
    return kept, seeing


def for_text(adapter: Adapter) -> Adapter:
    """`without_seeing`, with a note of it in the adapter's `reading`.

    One that has no other parts is as it was, and fits no base of text.
    """
    kept, seeing = without_seeing(adapter)
    if not seeing or not (kept.deltas or kept.replacements):
        return adapter
    notes = (*adapter.reading.notes, left_out_note(seeing))
    return replace(kept, reading=replace(adapter.reading, notes=notes))


def left_out_note(seeing: Sequence[str]) -> str:
    """What is said of parts that were left out: how many, and of which kinds."""
    kinds = Counter(_NUMBER.sub(".N", name) for name in seeing)
    named = ", ".join(f"{name} ({n})" if n > 1 else name for name, n in kinds.items())
    return f"{len(seeing)} parts for what sees are left out, as they cannot act on text: {named}"


def without_unchanged(adapter: Adapter, base: Base) -> Adapter:
    """The adapter without the replacements that hold just what the base holds.

    PEFT stores the whole embedding beside a delta of it, changed or not; an engine that cannot
    replace a parameter can then apply the rest. Compared in the base's own dtype.
    """
    kept = tuple(r for r in adapter.replacements if not _unchanged(r, base))
    same = len(kept) == len(adapter.replacements)
    return adapter if same else replace(adapter, replacements=kept)


def _unchanged(replacement: Replacement, base: Base) -> bool:
    try:
        own = base.tensor(replacement.name)
    except KeyError:  # no such parameter, or one that a GGUF file holds quantised
        return False
    rows = replacement.rows
    if rows is not None:
        if rows.size == 0 or rows[0] < 0 or rows[-1] >= len(own):
            return False
        own = own[rows]
    value = replacement.value
    return own.shape == value.shape and bool(np.array_equal(own, value.astype(own.dtype)))
