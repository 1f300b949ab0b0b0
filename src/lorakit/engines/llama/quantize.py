"""Quantising a GGUF model: what is written of which tensor, and where to.

Which type a tensor takes is quantize_types.py's business, how values are rounded to it
quantize_values.py's, and how tensors are streamed files/gguf_stream.py's.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from lorakit.adapter import Array
from lorakit.engines.llama.quantize_types import (
    MIXES,
    choose_types,
    dimensions,
    numbers_of,
    type_keys,
)
from lorakit.engines.llama.quantize_values import rounding
from lorakit.engines.protocol import EngineOptions
from lorakit.engines.threads import default_threads
from lorakit.errors import (
    FormatError,
    ParameterError,
    SourceError,
    UnsupportedError,
    WriteError,
)
from lorakit.files.atomic import write_atomic
from lorakit.files.gguf import ALIGNMENT, GgufFile, Tensor, is_gguf
from lorakit.files.gguf_parts import open_gguf_model
from lorakit.files.gguf_stream import Output, write_tensors
from lorakit.files.gguf_types import PLAIN
from lorakit.files.gguf_write import gguf_head, packed
from lorakit.files.rounding import Rounding

Progress = Callable[[int, int, str], object]  # which tensor, of how many, its name

TYPES = {name: mix.number for name, mix in MIXES.items()}
WANTED = "expected a GGUF model, best F16; lorakit export --to gguf makes one of a folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """The result. fallbacks: tensors whose row length is no multiple of the type's block size, each
    as (name, row length, type wanted, type taken), types as llama.cpp writes them."""

    path: Path
    type: str
    bytes_before: int
    bytes_after: int
    fallbacks: tuple[tuple[str, int, str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """A tensor, and the type that it is to have; wanted: what its rows do not divide into."""

    name: str
    source: Tensor
    wanted: str
    kind: str

    @property
    def changes(self) -> bool:
        return self.kind != self.source.kind

    @property
    def output(self) -> Output:
        shape = dimensions(self.source.shape)
        return Output(name=self.name, kind=self.kind, shape=shape, blocks=self._blocks)

    def _blocks(self) -> Iterator[Array]:
        """All rows: floats, or the bytes of types that are only copied."""
        raw, plain = self.source.raw, PLAIN.get(self.source.kind)
        values = raw if plain is None else raw.view(plain)
        yield values.reshape(prod(self.source.shape[:-1]), -1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What is to be written: keys as stored, then tensors, at multiples of the alignment."""

    file_type: str
    keys: Mapping[str, bytes | memoryview]
    alignment: int
    steps: Sequence[_Step]
    bytes_before: int


def quantize(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    type: str,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Quantized:
    """Write a GGUF model in another type, as llama.cpp's llama_model_quantize would.

    K-quants need row lengths that are multiples of 256. Other tensors take a similar type with
    blocks of 32 (Q4_K: Q5_0, Q5_K: Q5_1, Q6_K: Q8_0, Q2_K and Q3_K: Q4_0) or F16; the result lists
    them. Of a model in several parts the first is named, and one file is written.

    Raises ParameterError (an unknown type: all are listed; threads), SourceError (also for missing
    parts), FormatError (not a GGUF file, or a broken one; values that are not finite),
    UnsupportedError (an adapter; a model that is quantised already; values that the type cannot
    hold), WriteError (the output exists; the disk is full), MissingExtraError (no library, for
    other types than F32, F16, BF16 and Q8_0).
    """
    source, output = Path(source), Path(output)
    plan = _plan(source, _file_type(type))
    _require_new(output)
    write = partial(
        _write,
        plan=plan,
        round_to=rounding({step.kind for step in plan.steps if step.changes}),
        threads=EngineOptions(threads=threads).threads or default_threads(),
        progress=progress,
    )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(output, write, verify=lambda _: _require_new(output))
    except OSError as error:
        raise WriteError(
            f"cannot write {output}: {error.strerror or error}", hint="is the disk full?"
        ) from error
    return Quantized(
        path=output,
        type=plan.file_type,
        bytes_before=plan.bytes_before,
        bytes_after=output.stat().st_size,
        fallbacks=tuple(_fallback(step) for step in plan.steps if step.kind != step.wanted),
    )


def _file_type(name: str) -> str:
    if not isinstance(name, str) or name.upper() not in MIXES:
        raise ParameterError(
            f"unknown type {name!r}",
            items=list(MIXES),
            hint="Q8_0 is nearly exact; Q4_K_M is the usual choice for small devices",
        )
    return name.upper()


def _require_new(output: Path) -> None:
    if output.exists():
        raise WriteError(f"{output} exists", hint="remove it, or give another name")


def _fallback(step: _Step) -> tuple[str, int, str, str]:
    wanted, kind = (name.lower().replace("_k", "_K") for name in (step.wanted, step.kind))
    return (step.name, step.source.shape[-1], wanted, kind)


# The source.


def _plan(source: Path, file_type: str) -> _Plan:
    """The source's keys, but for what llama.cpp says of the type at their end, and its tensors."""
    file = _open(source)
    tensors = {name: (tensor.kind, tensor.shape) for name, tensor in file.tensors.items()}
    choices = choose_types(file_type, numbers_of(file.values, file.path), tensors)
    steps = [
        _Step(name=c.name, source=file.tensors[c.name], wanted=c.wanted, kind=c.kind)
        for c in choices
    ]
    _require_floats(source, steps)
    added = {key: packed(value) for key, value in type_keys(file_type).items()}
    kept = {k: v for k, v in file.stored.items() if k not in added}
    return _Plan(
        file_type=file_type,
        keys={**kept, **added},
        alignment=int(_scalar(file, "general.alignment", ALIGNMENT)),
        steps=steps,
        bytes_before=sum(part.stat().st_size for part in file.parts),
    )


def _open(source: Path) -> GgufFile:
    if not source.is_file():
        raise SourceError(f"there is no file {source}", hint=WANTED)
    if not is_gguf(source):
        raise FormatError(f"{source} is not a GGUF file", hint=WANTED)
    file = open_gguf_model(source)
    kind = _scalar(file, "general.type", "model")
    if kind not in ("model", "mmproj"):
        raise UnsupportedError(
            f"{source} is not a model: its general.type is {kind!r:.40}",
            hint="lorakit convert ADAPTER OUT --to gguf --dtype f16 makes a smaller adapter",
        )
    return file


def _scalar(file: GgufFile, key: str, default: Any) -> Any:
    value = file.values.get(key)
    if value is None:
        return default
    if value.array or not isinstance(value.data, type(default)):
        raise FormatError(f"{file.path}: {key} is {value.data!r:.40}")
    return value.data


def _require_floats(source: Path, steps: list[_Step]) -> None:
    """Only floats can be rounded. Tensors that keep their type are copied whatever it is."""
    kinds = Counter(step.source.kind for step in steps if step.changes)
    wrong = {kind: count for kind, count in kinds.items() if kind not in PLAIN}
    if wrong:
        raise UnsupportedError(
            f"{source} is already quantised",
            items=[f"{count} tensors are {kind}" for kind, count in wrong.items()],
            hint="start from the F32, F16 or BF16 file: each quantisation adds its own error",
        )


# The output.


def _write(
    file: BinaryIO,
    *,
    plan: _Plan,
    round_to: Mapping[str, Rounding],
    threads: int,
    progress: Progress | None,
) -> None:
    outputs = [step.output for step in plan.steps]
    infos = [(output.name, output.kind, output.shape) for output in outputs]
    numbers = {output.name: number for number, output in enumerate(outputs, 1)}

    def report(output: Output, begins: bool, nbytes: int) -> None:
        if begins and progress:
            progress(numbers[output.name], len(outputs), output.name)

    file.write(gguf_head(plan.keys, infos, plan.alignment))
    write_tensors(
        file,
        outputs,
        round_to=round_to,
        alignment=plan.alignment,
        threads=threads,
        on_piece=report,
    )
