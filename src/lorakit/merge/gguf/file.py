"""Adapters in the weights of a GGUF file that stays one: for what llama.cpp cannot apply otherwise.

What no adapter changes is copied as it is. A tensor that changes is dequantised, changed in
float32, and stored in its own type where that is a plain one, else as F16: rounded to few bits
again it would lose part of what the adapter does. Of the keys only the vocabulary's and the
template change (tokens.py).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import BinaryIO

from lorakit.adapter import Adapter, Array
from lorakit.architectures import HEAD
from lorakit.base.folder import Base
from lorakit.base.grown import grown
from lorakit.check import require_fit
from lorakit.errors import AdapterError, FormatError, UnsupportedError, WriteError
from lorakit.files.atomic import write_atomic
from lorakit.files.dequantize import READABLE
from lorakit.files.gguf import ALIGNMENT, GgufFile, Tensor, Value
from lorakit.files.gguf_parts import open_gguf_model
from lorakit.files.gguf_stream import Output, write_tensors
from lorakit.files.gguf_types import PLAIN, padded
from lorakit.files.gguf_write import gguf_head, packed
from lorakit.files.room import require_room
from lorakit.files.rounding import ROUNDINGS
from lorakit.formats.brought import Files
from lorakit.formats.gguf.places import Place, places
from lorakit.merge.gguf.tensors import Source, sources
from lorakit.merge.gguf.tokens import own_text
from lorakit.merge.gguf.weights import Dequantised, held, stored
from lorakit.merge.record import made_record
from lorakit.merge.stream import THREADS, Progress
from lorakit.merge.view import changed, merged_view

RECORD = "lorakit.merge"
WIDE = "F16"  # what a quantised tensor that changes becomes
WITH_BIASES = ("llama",)  # architectures whose graph takes biases that the file lacked (src/models)
Scaled = Sequence[tuple[Adapter, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedFile:
    """What a merged file will hold. notes: what its user should know. Planning reads no weights."""

    keys: Mapping[str, bytes | memoryview]
    outputs: Sequence[Output]
    alignment: int
    notes: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        return sum(padded(output.nbytes, self.alignment) for output in self.outputs)

    def write(self, path: Path, progress: Progress | None = None) -> None:
        """Raises AdapterError for values that are not finite or beyond F16, and WriteError."""
        try:
            require_room(path, self.nbytes, "the merged model")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, lambda file: self._write(file, progress))
        except (FormatError, UnsupportedError) as error:
            raise AdapterError(
                "the merged weights would not be finite, or too large",
                items=[error.message],
                hint="a smaller scale",
            ) from error
        except OSError as error:
            raise WriteError(f"cannot write {path}: {error.strerror or error}") from error

    def _write(self, file: BinaryIO, progress: Progress | None) -> None:
        infos = [(output.name, output.kind, output.shape) for output in self.outputs]
        file.write(gguf_head(self.keys, infos, self.alignment))
        done, total = 0, self.nbytes

        def report(output: Output, begins: bool, nbytes: int) -> None:
            nonlocal done
            done += nbytes
            if progress is not None:
                progress(min(done, total), total)

        write_tensors(
            file,
            self.outputs,
            round_to=ROUNDINGS,
            alignment=self.alignment,
            threads=THREADS,
            on_piece=report,
        )


def merged_file(base: Base, adapters: Scaled, brought: Files = ()) -> MergedFile:
    """The plan of `base`, a GGUF file, with the adapters at their scales in its weights.

    brought: an adapter's tokenizer and templates, of which added tokens and a template are taken.
    Raises MismatchError, UnsupportedError listing what weights or llama.cpp's graph cannot express
    or what is not dequantised here, and BaseModelError for a file that contradicts itself.
    """
    require_known(base)
    file = open_gguf_model(base.path, vocabulary=True)
    source = replace(
        base,
        path=base.path.parent,  # as the folder that it would be
        tensors=Dequantised(held(file, base.decoder, beside=True)),
        _stored=stored(base.decoder),
    )
    larger = grown(source, adapters)
    for adapter, _ in adapters:
        require_fit(adapter, larger.decoder)
    merged = merged_view(larger, adapters)
    touched = changed(merged)
    outputs = list(_outputs(file, merged, touched))
    text, notes = own_text(file, brought, merged.decoder.vocabulary)
    record = json.dumps(made_record(base, base.fingerprint, adapters))
    return MergedFile(
        keys={**file.stored, **{k: packed(v) for k, v in text.items()},
              RECORD: packed(Value("str", record))},
        outputs=outputs,
        alignment=int(file.values.get("general.alignment", Value("u32", ALIGNMENT)).data),
        notes=(*_notes(file, outputs), *notes),
    )  # fmt: skip


def require_known(base: Base) -> None:
    """Raise UnsupportedError for a file of which only llama.cpp knows what its tensors are."""
    if base.decoder.is_foreign:
        raise UnsupportedError(
            f"{base.path} is of the architecture {base.decoder.architecture.gguf}, into which "
            "lorakit cannot merge",
            hint="merge into the folder that it was converted from, and convert that again",
        )


def _outputs(file: GgufFile, merged: Base, touched: frozenset[str]) -> Iterator[Output]:
    """The tensors in the order of the file, then those that are new."""
    made = sources(merged)
    new = {
        place.tensor: place
        for place in places(merged.decoder)
        if touched & set(_stored_as(place, merged))
    }
    _require_possible(file, merged, new)
    for name, tensor in file.tensors.items():
        if name in new:
            yield _changed(name, made[name], tensor.kind)
        else:
            yield Output(name=name, kind=tensor.kind, shape=tensor.shape, blocks=_as_stored(tensor))
    for name, place in new.items():
        if name not in file.tensors:
            beside = file.tensors["token_embd.weight"].kind if place.module == HEAD else "F32"
            yield _changed(name, made[name], beside)


def _stored_as(place: Place, base: Base) -> Iterator[str]:
    """Names of a checkpoint's tensors that are in this one of the file."""
    if len(place.shape) == 3:
        yield from (part.name for part in base.stored(place.module))
    else:
        yield place.parameter


def _require_possible(file: GgufFile, merged: Base, new: Mapping[str, Place]) -> None:
    decoder = merged.decoder
    faults = [
        f"{name}: of the type {file.tensors[name].kind}, which is not dequantised here"
        for name in new
        if name in file.tensors and file.tensors[name].kind not in READABLE
    ]
    if decoder.architecture.gguf not in WITH_BIASES:
        faults += [
            f"{place.module}: a bias, which llama.cpp's graph of {decoder.architecture.gguf} lacks"
            for name, place in new.items()
            if place.kind == "bias" and name not in file.tensors
        ]
    if faults:
        raise UnsupportedError(
            f"these adapters cannot be merged into {file.path}",
            items=faults[:20],
            hint="merge them into the folder that it was converted from",
        )


def _changed(name: str, source: Source, kind: str) -> Output:
    kept = kind if kind in PLAIN else WIDE
    return Output(name=name, kind=kept, shape=source.shape, blocks=source.blocks)


def _as_stored(tensor: Tensor) -> Callable[[], Iterator[Array]]:
    plain = PLAIN.get(tensor.kind)
    raw = tensor.raw if plain is None else tensor.raw.view(plain)
    return lambda: iter([raw.reshape(prod(tensor.shape[:-1]), -1)])


def _notes(file: GgufFile, outputs: Sequence[Output]) -> Iterator[str]:
    before = {name: tensor.kind for name, tensor in file.tensors.items()}
    wider = Counter(before[o.name] for o in outputs if before.get(o.name, o.kind) != o.kind)
    if wider:
        said = ", ".join(f"{count} of {kind}" for kind, count in wider.most_common())
        yield f"merged tensors are {WIDE} now, so that nothing of the adapter is lost: {said}"
    if "output.weight" not in before and any(o.name == "output.weight" for o in outputs):
        yield "lookup and head now differ: output.weight is a tensor of its own"
