"""A GGUF model in several files, opened by the first of them as if it were one.

Named and split as llama-gguf-split does (llama.cpp, tools/gguf-split): NAME-00001-of-00003.gguf,
of which the first has the model's values, and each says which one it is. llama.cpp ends the process
over a number of another kind in a later part, so all parts are looked at before it sees any.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lorakit.errors import FormatError, SourceError
from lorakit.files.bounded import MAX_READ
from lorakit.files.gguf import GgufFile, Tensor, open_gguf

MAX_PARTS = 1000  # a process can have 1024 files open, as most systems begin
NO, COUNT, TENSORS = "split.no", "split.count", "split.tensors.count"
_KINDS = {NO: "u16", COUNT: "u16", TENSORS: "i32"}
_OWN = (NO, "general.alignment")  # in which parts of one model may differ
_NAMED = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL | re.ASCII)


def part_name(stem: str, number: int, count: int) -> str:
    """The name of a part; the first has the number 1."""
    return f"{stem}-{number:05}-of-{count:05}.gguf"


def part_names(name: str) -> tuple[str, ...]:
    """The names of all parts, by the first one's; of another file, its own.

    Raises SourceError for the name of a part that is not the first.
    """
    found = _NAMED.fullmatch(name)
    if found is None:
        return (name,)
    stem, number, count = found[1], int(found[2]), int(found[3])
    if not 1 <= number <= count <= MAX_PARTS:
        return (name,)
    if number != 1:
        raise _not_first(name, number, count)
    return tuple(part_name(stem, at, count) for at in range(1, count + 1))


def first_part(name: str) -> str:
    """The name of the first part, by that of any; of another file, its own."""
    found = _NAMED.fullmatch(name)
    return name if found is None else part_name(found[1], 1, int(found[3]))


def whole_name(name: str) -> str:
    """What a model is called as one file, by the name of any part; of another file, its own."""
    found = _NAMED.fullmatch(name)
    return name if found is None else f"{found[1]}.gguf"


def gguf_parts(path: Path) -> tuple[Path, ...]:
    """The files that may be opened with this one, by their names alone."""
    if first_part(path.name) != path.name:
        return (path,)
    beside = (path.with_name(name) for name in part_names(path.name)[1:])
    return (path, *(part for part in beside if part.is_file()))


def open_gguf_model(path: Path, *, vocabulary: bool = False) -> GgufFile:
    """Map a whole model: one file, or all parts of which it is the first.

    The values are the first part's, without what it says of parts; the tensors are those of all.
    Raises as `open_gguf`, SourceError for a part that is not the first or files that are missing
    (all are listed), and FormatError for parts that do not belong together.
    """
    first = open_gguf(path, model=True, vocabulary=vocabulary)
    count = _number(first, COUNT) if COUNT in first.values else 1
    if count == 0:
        raise FormatError(f"{path} says that its model has 0 parts")
    parts = [first]
    if count > 1:
        most = MAX_READ // count  # bytes: many small parts are not read into memory, either
        parts += [open_gguf(p, model=True, max_read=most) for p in _others(first, count)]
    for number, part in enumerate(parts[1:], 1):
        _require_part(part, number, first)
    return replace(
        first,
        values=_without(first.values),
        stored=_without(first.stored),
        tensors=first.tensors if count < 2 else _tensors(parts),
        parts=tuple(part.path for part in parts),
    )


def _others(first: GgufFile, count: int) -> list[Path]:
    """The files of the other parts, which are there."""
    path, number = first.path, _number(first, NO)
    if number != 0:
        raise _not_first(path.name, number + 1, count, path)
    names = part_names(path.name)
    if count > MAX_PARTS or len(names) != count:
        raise SourceError(
            f"{path} says that it is the first of {count} parts of a model, and its name does not",
            code="source_unsupported",
            hint=f"the parts are named {part_name('NAME', 1, count)} and so on, at most {MAX_PARTS}"
            "; give the files their names again",
        )
    missing = [name for name in names[1:] if not path.with_name(name).is_file()]
    if missing:
        raise SourceError(
            f"{path} is the first of {count} parts of a model, of which {len(missing)} are missing",
            items=missing[:20],
            hint="download all parts into one folder, under their own names",
        )
    return [path.with_name(name) for name in names[1:]]


def _not_first(name: str, number: int, count: int, path: Path | None = None) -> SourceError:
    first = first_part(name if _NAMED.fullmatch(name) else part_name("NAME", 1, count))
    return SourceError(
        f"{path or name} is part {number} of {count} of a model",
        code="source_unsupported",
        hint=f"give the first part, {first}; the others are found by its name",
    )


def _require_part(part: GgufFile, number: int, first: GgufFile) -> None:
    faults = []
    if _number(part, NO) != number:
        faults.append(f"it says that it is part {_number(part, NO) + 1}")
    faults += [
        f"{key} is another than in the first"
        for key in part.stored.keys() & first.stored.keys()
        if key not in _OWN and part.stored[key] != first.stored[key]
    ]
    if faults:
        raise FormatError(
            f"{part.path} is not part {number + 1} of the model of {first.path.name}",
            items=sorted(faults)[:20],
            hint="the files may be of two models, or of two ways to split one: download all again",
        )


def _tensors(parts: Sequence[GgufFile]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for part in parts:
        twice = found.keys() & part.tensors.keys()
        if twice:
            raise FormatError(
                f"{part.path} repeats tensors of another part", items=sorted(twice)[:20]
            )
        found |= part.tensors
    if (expected := _number(parts[0], TENSORS)) != len(found):
        raise FormatError(
            f"{parts[0].path} and the other parts hold {len(found)} tensors, "
            f"and should hold {expected}"
        )
    return found


def _number(file: GgufFile, key: str) -> int:
    """One of the numbers of parts, of the kind in which llama.cpp reads it."""
    value = file.values.get(key)
    if value is None or value.array or value.kind != _KINDS[key]:
        said = "is missing" if value is None else f"is {value.data!r:.40} of the type {value.kind}"
        raise FormatError(f"{file.path}: {key} {said}, expected {_KINDS[key]}")
    return int(value.data)


def _without(entries: Mapping[str, Any]) -> dict[str, Any]:
    return {key: entry for key, entry in entries.items() if key not in _KINDS}
