"""GGUF models in several files, of which one is missing, lies, or belongs elsewhere."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
from cases import case, sparse
from gguf_cases import packed, string, u32

FIRST, SECOND = "m-00001-of-00002.gguf", "m-00002-of-00002.gguf"
Change = dict[str, bytes | None]


def u16(value: int) -> bytes:
    return struct.pack("<IH", 2, value)


def i32(value: int) -> bytes:
    return struct.pack("<Ii", 5, value)


MODEL = {"general.architecture": string("llama"), "llama.block_count": u32(1)}


def part(path: Path, number: int, change: Change, count: int = 2, tensor: str = "") -> None:
    said = {
        "split.no": u16(number - 1),
        "split.count": u16(count),
        "split.tensors.count": i32(2),
    }
    keys = {**(MODEL if number == 1 else {}), **said, **change}
    held = (tensor or f"t{number}", ([8, 4], 0, np.ones(32, "<f4").tobytes()))
    path.write_bytes(packed({k: v for k, v in keys.items() if v is not None}, [held]))


def two(
    path: Path, first: Change | None = None, second: Change | None = None, **options: Any
) -> None:
    path.mkdir(parents=True)
    part(path / FIRST, 1, first or {})
    part(path / SECOND, 2, second or {}, **options)


@case("source_unsupported", FIRST, opens="base", at=SECOND)
def not_the_first(path: Path) -> None:
    two(path)


@case("source_not_found", SECOND, opens="base", at=FIRST)
def missing(path: Path) -> None:
    two(path)
    (path / SECOND).unlink()


@case("source_not_found", "of which 998 are missing", opens="base", at="m-00001-of-00999.gguf")
def nearly_all_missing(path: Path) -> None:
    path.mkdir(parents=True)
    part(path / "m-00001-of-00999.gguf", 1, {}, count=999)


@case("format_invalid", "0 parts", opens="base", at="m-00001-of-00000.gguf")
def none_at_all(path: Path) -> None:
    path.mkdir(parents=True)
    part(path / "m-00001-of-00000.gguf", 1, {}, count=0)


@case("source_unsupported", "65535 parts", opens="base", at="m-00001-of-65535.gguf")
def absurdly_many(path: Path) -> None:
    path.mkdir(parents=True)
    part(path / "m-00001-of-65535.gguf", 1, {}, count=65535)


@case("source_unsupported", "and its name does not", opens="base", at=FIRST)
def another_count_than_the_name(path: Path) -> None:
    two(path, {"split.count": u16(3)})


@case("source_unsupported", "NAME-00001-of-00002.gguf", opens="base", at="model.gguf")
def renamed(path: Path) -> None:
    two(path)
    (path / FIRST).rename(path / "model.gguf")


@case("format_invalid", "split.count is 2 of the type u32", opens="base", at=FIRST)
def count_of_another_type(path: Path) -> None:
    two(path, {"split.count": u32(2)})


@case("format_invalid", "split.no is 1 of the type u32, expected u16", opens="base", at=FIRST)
def number_that_ends_llama_cpp(path: Path) -> None:
    two(path, second={"split.no": u32(1)})


@case("format_invalid", "split.no is missing", opens="base", at=FIRST)
def number_missing(path: Path) -> None:
    two(path, second={"split.no": None})


@case("format_invalid", "it says that it is part 41", opens="base", at=FIRST)
def number_wrong(path: Path) -> None:
    two(path, second={"split.no": u16(40)})


@case("format_invalid", "split.tensors.count is missing", opens="base", at=FIRST)
def total_missing(path: Path) -> None:
    two(path, {"split.tensors.count": None})


@case("format_invalid", "hold 2 tensors, and should hold 1000", opens="base", at=FIRST)
def total_wrong(path: Path) -> None:
    two(path, {"split.tensors.count": i32(1000)}, {"split.tensors.count": i32(1000)})


@case("format_invalid", "repeats tensors", opens="base", at=FIRST)
def tensor_in_both(path: Path) -> None:
    two(path, tensor="t1")


@case("format_invalid", "general.architecture is another", opens="base", at=FIRST)
def of_another_model(path: Path) -> None:
    two(path, second={"general.architecture": string("gemma3")})


@case("format_invalid", "split.count is another", opens="base", at=FIRST)
def of_another_split(path: Path) -> None:
    two(path, second={"split.count": u16(3)})


@case("format_invalid", "it says that it is part 1", opens="base", at=FIRST)
def link_to_the_first(path: Path) -> None:
    two(path)
    (path / SECOND).unlink()
    (path / SECOND).symlink_to(FIRST)


@case("source_not_found", SECOND, opens="base", at=FIRST)
def link_to_itself(path: Path) -> None:
    two(path)
    (path / SECOND).unlink()
    (path / SECOND).symlink_to(SECOND)


@case("source_not_found", SECOND, opens="base", at=FIRST)
def pipe(path: Path) -> None:
    two(path)
    (path / SECOND).unlink()
    os.mkfifo(path / SECOND)


@case("format_invalid", SECOND, opens="base", at=FIRST)
def cut_off(path: Path) -> None:
    two(path)
    (path / SECOND).write_bytes((path / SECOND).read_bytes()[:-40])


@case("format_invalid", SECOND, opens="base", at=FIRST)
def no_gguf(path: Path) -> None:
    two(path)
    sparse(path / SECOND, 1 << 40, b"GGML")
