"""Room in a base for the tokens that its adapters bring, made before an engine opens it.

An adapter with added tokens replaces the whole vocabulary by one of another size, which no engine
can do to an open base. So the base is written once more, into the cache, with as many rows and with
the adapter's tokenizer and templates; the adapter is applied to that as any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lorakit.adapter import Adapter
from lorakit.base.folder import Base
from lorakit.base.grown import more_rows, resized
from lorakit.formats.brought import Files
from lorakit.merge.cached import MergedAdapter, merged_base
from lorakit.sources import OnProgress


def with_room(
    base: Base, adapters: Sequence[Adapter], progress: OnProgress | None, brought: Files = ()
) -> Base:
    """The base, with a vocabulary as large as the adapters'.

    Where they have several sizes, the first one's: the others do not fit, which is said where they
    are loaded. Raises what `merged_base` raises.
    """
    rows = next(_sizes(base, adapters), None)
    if base.is_gguf or rows is None:
        return base
    larger = more_rows(base, rows)
    said = MergedAdapter(name="rows", source=f"{rows} tokens", scale=1.0, digest=larger.digest)
    return merged_base(base, [(larger, said)], progress, brought)


def resize(before: int, base: Base) -> str:
    """What is said of a vocabulary that had `before` tokens; "" where it has them still."""
    rows = base.decoder.vocabulary
    way = "grew" if rows > before else "shrank"
    return f"the vocabulary {way} from {before} to {rows} tokens" if rows != before else ""


def _sizes(base: Base, adapters: Sequence[Adapter]) -> Iterator[int]:
    """Other sizes than the base's: that of all adapters together, then of each alone."""
    for some in (adapters, *([adapter] for adapter in adapters)):
        rows = resized(base, [(adapter, 1.0) for adapter in some])
        if rows != base.decoder.vocabulary:
            yield rows
