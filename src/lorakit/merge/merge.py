"""merge and unmerge: adapters into a checkpoint, and out of it again.

Computed in float32 (float64 for tensors that hold it) and rounded once, to the output's dtype. A
tensor that no adapter touches keeps its bytes. What adapters mean for a weight stands in plan.py.
A base in a GGUF file is dequantised, and becomes a folder (gguf/).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from lorakit.adapter import Adapter
from lorakit.base.exported import RECORD
from lorakit.base.folder import Base
from lorakit.base.gguf import open_base
from lorakit.base.grown import VOCABULARY, grown, resized_decoder, vocabulary_tensors
from lorakit.check import require_fit, without_seeing
from lorakit.errors import (
    AdapterError,
    MismatchError,
    ParameterError,
    UnsupportedError,
    WriteError,
)
from lorakit.files.atomic import new_folder, write_synced
from lorakit.files.room import require_room
from lorakit.formats.brought import Files
from lorakit.formats.readback import DTYPES, Dtype
from lorakit.merge.brought import write_brought
from lorakit.merge.gguf.origin import GgufOrigin
from lorakit.merge.origin import Brought, FolderOrigin, Origin
from lorakit.merge.plan import Plan, plan
from lorakit.merge.record import as_bytes, made_record, read_record, require_merged
from lorakit.merge.shards import Shard
from lorakit.merge.stream import Progress, Stream
from lorakit.text.tokenizer import TextTokenizer
from lorakit.values import among, shown


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeReport:
    """What was written. Names are those of stored tensors and files."""

    target: Path
    changed: tuple[str, ...]  # tensors that hold other values than the base's
    added: tuple[str, ...]  # tensors that the base lacks
    replaced: tuple[str, ...]  # parameters that an adapter replaces, whole or by rows
    untied: bool  # whether the head became a tensor of its own
    nbytes: int  # of weights
    along: tuple[str, ...]  # files that came along with the weights
    left: tuple[str, ...]  # files of the base's folder that did not
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}


def merge(
    base: Base | str | os.PathLike[str],
    adapters: Sequence[tuple[Adapter, float]],
    target: Path,
    *,
    dtype: Dtype | None = None,
    progress: Progress | None = None,
    tokenizer: TextTokenizer | None = None,
    brought: Files = (),
) -> MergeReport:
    """Write `base` with the adapters at their scales in its weights as a new folder.

    base: a Base, or the path of a folder or a GGUF file.
    The adapters act in order, as several active ones do at run time, which matters for DoRA alone;
    0 switches one off, and there may be none. dtype: what all floating-point weights become; None
    keeps each one's own, and makes quantised ones float32. progress: called with (bytes written,
    bytes in all). tokenizer: of a GGUF base, the file's own by llama.cpp (the `tokenizer` of a
    model opened from it), whose ids the written one must give. brought: an adapter's tokenizer and
    templates (`brought_by`), written where they differ from the base's.
    An adapter that holds a whole vocabulary of another size makes the base's as large.

    Raises ParameterError (a target in use, a scale that is not finite), MismatchError (an adapter
    that does not fit), UnsupportedError listing what weights cannot express or what of a GGUF file
    no folder can hold, AdapterError listing tensors whose values the dtype cannot hold, WriteError
    (no room); then nothing is left behind. A path raises as `Base.open` does, too.
    """
    _require(adapters, target, dtype)
    opened = base if isinstance(base, Base) else open_base(base)
    for adapter, _ in adapters:
        require_fit(_text_of(adapter, opened), resized_decoder(opened, adapters))
    origin = _origin(opened, tokenizer)
    larger = grown(origin.base, adapters)
    todo = plan(larger, adapters)
    if larger is not origin.base:
        todo.config[VOCABULARY] = larger.decoder.vocabulary
        todo.rows = dict.fromkeys(vocabulary_tensors(origin.base), larger.decoder.vocabulary)
    with ThreadPoolExecutor(1) as pool:  # it reads the whole base, which the writing does, too
        fingerprint = pool.submit(lambda: opened.fingerprint)

        def record() -> dict[str, Any]:
            return made_record(opened, fingerprint.result(), adapters)

        return _write(origin, todo, target, dtype, progress, record, brought)


def unmerge(
    merged: Base,
    adapters: Sequence[tuple[Adapter, float]],
    target: Path,
    *,
    dtype: Dtype | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> MergeReport:
    """Write what `merged` was before the adapters were merged into it at these scales.

    Equal to the base to within the rounding of both dtypes. A head that the merge untied stays a
    tensor of its own. force: also what no lorakit.json of a merge says is in it.
    Raises as `merge` does, MismatchError for adapters or scales that the record does not name, and
    UnsupportedError for what a merge does not keep: replaced parameters, and the norms that DoRA
    divided by.
    """
    _require(adapters, target, dtype)
    record = read_record(merged.path)
    if not force:
        require_merged(merged.path, record, adapters)
    for adapter, _ in adapters:
        require_fit(_text_of(adapter, merged), merged.decoder)
    _require_invertible(adapters)
    origin = _origin(merged)
    undo = plan(origin.base, [(adapter, -scale) for adapter, scale in adapters])
    if undo.untied or undo.added:
        raise MismatchError(
            "this model does not come from a merge with these adapters",
            items=[f"{name}: merging would have added it" for name in undo.added],
            hint="give the folder that was merged, and the adapters and scales of that merge",
        )
    left = None if record is None else record.without(adapters)
    return _write(origin, undo, target, dtype, progress, lambda: left)


def _origin(base: Base, tokenizer: TextTokenizer | None = None) -> Origin:
    if base.exported is not None:
        base.require_weights()
    return GgufOrigin.of(base, tokenizer) if base.is_gguf else FolderOrigin(base)


def _require(adapters: Sequence[tuple[Adapter, float]], target: Path, dtype: str | None) -> None:
    bad = [str(scale) for _, scale in adapters if not math.isfinite(scale)]
    if bad:
        raise ParameterError("scales must be finite numbers", items=bad)
    if dtype is not None and not among(dtype, DTYPES):
        names = ", ".join(DTYPES)
        raise ParameterError(f"there is no dtype {shown(dtype)}", hint=f"dtypes: {names}")
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ParameterError(f"{target} exists", hint="name a new folder")


def _text_of(adapter: Adapter, base: Base) -> Adapter:
    """What of an adapter must fit the text; what else a base that sees must hold, its plan says."""
    return without_seeing(adapter)[0] if base.left_out else adapter


def _require_invertible(adapters: Sequence[tuple[Adapter, float]]) -> None:
    faults = []
    for adapter, scale in adapters:
        if scale != 0:
            faults += [
                f"{r.name}: a {r.kind}; what it replaced is gone" for r in adapter.replacements
            ]
            faults += [f"{m.module}: DoRA; the norms are gone" for m in adapter.magnitudes]
    if faults:
        raise UnsupportedError(
            "this merge cannot be undone from the merged weights alone",
            items=faults,
            hint="keep the base, which is what unmerging would give",
        )


def _write(
    origin: Origin,
    todo: Plan,
    target: Path,
    dtype: Dtype | None,
    progress: Progress | None,
    record: Callable[[], Mapping[str, Any] | None],
    files: Files = (),
) -> MergeReport:
    kind = DTYPES[dtype] if dtype is not None else None
    outputs = origin.shards(todo, kind)
    total = sum(shard.size for shard in outputs)
    try:
        require_room(target, total, "the merged model")
        with new_folder(target) as folder:
            brought = fill(folder, origin, todo, outputs, kind, progress)
            own = write_brought(folder, files)
            if said := record():
                write_synced(folder / RECORD, as_bytes(said))
    except FileExistsError as error:
        raise ParameterError(str(error), hint="name a new folder") from error
    except OSError as error:
        raise WriteError(f"cannot write {target}: {error.strerror or error}") from error
    return MergeReport(
        target=target,
        changed=_changed(outputs, todo),
        added=tuple(todo.added),
        replaced=todo.replaced,
        untied=todo.untied,
        nbytes=total,
        along=brought.along,
        left=brought.left,
        notes=(*_notes(todo, origin.base.decoder.vocabulary), *brought.notes, *_text(own)),
    )


def fill(
    folder: Path,
    origin: Origin,
    todo: Plan,
    outputs: tuple[Shard, ...],
    dtype: np.dtype[np.generic] | None,
    progress: Progress | None,
) -> Brought:
    """Write weights and what comes along into a folder that is there and holds none of it.

    Raises AdapterError (values that the dtype cannot hold), OSError, and what `bring_along` does.
    """
    stream = Stream(folder, progress, sum(shard.size for shard in outputs))
    for shard in outputs:
        stream.write(shard)
    require_finite(stream.faults)
    return origin.bring_along(folder, todo, outputs, dtype.name if dtype else None)


def _changed(outputs: Sequence[Shard], todo: Plan) -> tuple[str, ...]:
    written = (output.name for shard in outputs for output in shard.outputs)
    return tuple(name for name in written if name in todo.changes and name not in todo.added)


def _notes(todo: Plan, before: int) -> Iterator[str]:
    if todo.untied:
        yield "lookup and head now differ: lm_head.weight is a tensor of its own (untied)"
    if rows := todo.config.get(VOCABULARY):
        way = "grew" if int(str(rows)) > before else "shrank"
        yield f"the vocabulary {way} to {rows} tokens, with the adapter's rows"
    biases = sum(name.endswith(".bias") for name in todo.added)
    if biases:
        yield f"{biases} biases were added, zero where no adapter has one"


def _text(files: Sequence[str]) -> Iterator[str]:
    if files:
        yield f"the adapter's own, in place of the base's: {', '.join(files)}"


def require_finite(faults: Mapping[str, str]) -> None:
    """Raise AdapterError listing tensors whose values cannot be written, and why."""
    if faults:
        raise AdapterError(
            "the merged weights would not be finite",
            items=[f"{name}: {why}" for name, why in sorted(faults.items())],
            hint="a smaller scale, or --dtype bf16 or f32 where the values are too large for f16",
        )


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
