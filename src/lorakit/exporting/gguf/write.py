"""A GGUF model written as a stream: floats and Q8_0 by lorakit itself, other types by llama.cpp's
rounding; in one file, or in parts that are named and marked as llama-gguf-split does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

from lorakit.engines.llama.quantize_types import (
    choose_types,
    dimensions,
    numbers_of,
    type_keys,
)
from lorakit.engines.protocol import EngineOptions
from lorakit.engines.threads import default_threads
from lorakit.errors import ParameterError
from lorakit.exporting.gguf.model import GgufModel
from lorakit.files.atomic import write_atomic
from lorakit.files.gguf import ALIGNMENT, Value
from lorakit.files.gguf_parts import COUNT, MAX_PARTS, NO, TENSORS, part_name
from lorakit.files.gguf_stream import Output, write_tensors
from lorakit.files.gguf_types import padded
from lorakit.files.gguf_write import gguf_head, packed
from lorakit.files.rounding import ROUNDINGS, Rounding
from lorakit.values import shown, whole


def require_parts(model: GgufModel, form: str, split_size: int | None) -> None:
    """Raise ParameterError where a model would not be written in parts of this size."""
    _parts(_outputs(model, form), split_size)


def expected_bytes(model: GgufModel, form: str) -> int:
    """The bytes of one file of a form, or a little less than those of its parts."""
    outputs = _outputs(model, form)
    head = _head(_keys(model, form), outputs)
    return len(head) + sum(_size(output) for output in outputs)


def write_gguf(
    model: GgufModel,
    path: Path,
    form: str,
    *,
    split_size: int | None = None,
    threads: int | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> tuple[Path, ...]:
    """Write a model, and return the file, or the parts NAME-00001-of-0000N.gguf in order.

    path: ends in .gguf. form: one of quantize_types.MIXES. split_size: bytes of tensors in a part
    at most, where there is more than one tensor in it. on_bytes: told how many bytes of tensors
    were written; what it raises ends the work. A failure leaves nothing.

    Raises ParameterError, FormatError (values that are not finite), UnsupportedError (values that
    the form cannot hold), MissingExtraError (a form that needs llama.cpp, which is not installed)
    and OSError.
    """
    outputs = _outputs(model, form)
    parts = _parts(outputs, split_size)
    keys = _keys(model, form)
    counted = _Counted(on_bytes)
    put = partial(
        _write,
        round_to=_rounding(form, outputs),
        threads=EngineOptions(threads=threads).threads or default_threads(),
        on_piece=counted,
    )
    written: list[Path] = []
    try:
        for number, part in enumerate(parts):
            said, place = keys, path
            if len(parts) > 1:
                place = path.with_name(part_name(path.stem, number + 1, len(parts)))
                said = {**(keys if number == 0 else {}), **_marks(number, len(parts), len(outputs))}
            write_atomic(place, partial(put, keys=said, outputs=part))
            written.append(place)
    except BaseException:
        for place in written:
            with suppress(OSError):  # the fault is what is told
                place.unlink()
        raise
    return tuple(written)


class _Counted:
    """Adds up the bytes of all parts."""

    def __init__(self, on_bytes: Callable[[int], None] | None) -> None:
        self._on_bytes, self._written = on_bytes, 0

    def __call__(self, output: Output, begins: bool, nbytes: int) -> None:
        self._written += nbytes
        if self._on_bytes is not None:
            self._on_bytes(self._written)


def _outputs(model: GgufModel, form: str) -> list[Output]:
    """The tensors, with their types as llama.cpp would choose them of a file in F32."""
    shapes = {name: ("F32", source.shape) for name, source in model.tensors.items()}
    choices = choose_types(form, numbers_of(model.keys, Path("the model")), shapes)
    return [
        Output(
            name=choice.name,
            kind=choice.kind,
            shape=dimensions(model.tensors[choice.name].shape),
            blocks=model.tensors[choice.name].blocks,
        )
        for choice in choices
    ]


def _keys(model: GgufModel, form: str) -> dict[str, bytes]:
    return {**model.stored, **{key: packed(value) for key, value in type_keys(form).items()}}


def _marks(number: int, count: int, tensors: int) -> dict[str, bytes]:
    marks = {
        NO: Value("u16", number),
        COUNT: Value("u16", count),
        TENSORS: Value("i32", tensors),
    }
    return {key: packed(value) for key, value in marks.items()}


def _rounding(form: str, outputs: Sequence[Output]) -> Mapping[str, Rounding]:
    kinds = {output.kind for output in outputs}
    if kinds <= ROUNDINGS.keys():
        return ROUNDINGS
    from lorakit.engines.llama.quantize_values import rounding  # finds a library

    return rounding(kinds)


def _parts(outputs: Sequence[Output], size: int | None) -> list[list[Output]]:
    """As llama-gguf-split: a tensor begins a new part where it would make one too large."""
    if size is None:
        return [list(outputs)]
    if not whole(size) or size < 1:
        raise ParameterError(f"split_size must be a number of bytes, found {shown(size)}")
    parts: list[list[Output]] = [[]]
    room = size
    for output in outputs:
        if _size(output) > room and parts[-1]:
            parts.append([])
            room = size
        parts[-1].append(output)
        room -= _size(output)
    if len(parts) > MAX_PARTS:
        raise ParameterError(
            f"split_size {size} would make {len(parts)} parts; {MAX_PARTS} is the limit"
        )
    return parts


def _size(output: Output) -> int:
    return padded(output.nbytes, ALIGNMENT)


def _head(keys: Mapping[str, bytes], outputs: Sequence[Output]) -> bytes:
    return gguf_head(keys, [(output.name, output.kind, output.shape) for output in outputs])


def _write(
    file: BinaryIO,
    *,
    keys: Mapping[str, bytes],
    outputs: Sequence[Output],
    round_to: Mapping[str, Rounding],
    threads: int,
    on_piece: Callable[[Output, bool, int], object],
) -> None:
    file.write(_head(keys, outputs))
    write_tensors(
        file, outputs, round_to=round_to, alignment=ALIGNMENT, threads=threads, on_piece=on_piece
    )
