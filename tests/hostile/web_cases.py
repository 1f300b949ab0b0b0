"""Web adapters: safetensors whose metadata, names or shapes contradict their tensors."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from cases import case, packed, sparse

Q = "model.layers.0.self_attn.q_proj"
A, B = f"{Q}.lora_A", f"{Q}.lora_B"
Tensors = dict[str, np.ndarray]
Metadata = dict[str, Any]


def good(**change: Any) -> tuple[Tensors, Metadata]:
    tensors = {A: np.ones((8, 4), np.float32), B: np.ones((4, 6), np.float32)}
    return tensors, {"format": "lorakit-web", "version": "1", "rank": "4", "adapter": "a"} | change


def write(path: Path, tensors: Tensors, metadata: Metadata, *, digest: str = "") -> None:
    """Written by hand, to be written wrongly; its digest is right unless one is said."""
    header: dict[str, Any] = {}
    data = b""
    for name, array in tensors.items():
        kind = {"float32": "F32", "int64": "I64", "float64": "F64"}[array.dtype.name]
        end = len(data) + array.nbytes
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [len(data), end]}
        data += array.tobytes()
    found = "sha256:" + hashlib.sha256(data).hexdigest()
    header["__metadata__"] = metadata | {"digest": digest or found}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packed(header) + data)


def changed(path: Path, **tensors: np.ndarray) -> None:
    mine, metadata = good()
    named = {{"a": A, "b": B}.get(name, name): array for name, array in tensors.items()}
    write(path, mine | named, metadata)


@case("format_unsupported", "without its adapter_config.json")
def another_format(path: Path) -> None:
    write(path, *good(format="lorakit"))


@case("format_unsupported", "version")
def version_2(path: Path) -> None:
    write(path, *good(version="2"))


@case("format_unsupported", "version")
def no_version(path: Path) -> None:
    tensors, metadata = good()
    del metadata["version"]
    write(path, tensors, metadata)


@case("format_invalid", "object of strings")
def version_as_a_number(path: Path) -> None:
    write(path, *good(version=1))


@case("format_unsupported", "no lorakit-web")
def format_in_a_name(path: Path) -> None:
    tensors, metadata = good(format="pt", note="lorakit-web")
    write(path, tensors, metadata)


@case("format_invalid", "rank: expected 4")
def rank_of_another(path: Path) -> None:
    write(path, *good(rank="8"))


@case("format_invalid", "rank: expected 4")
def rank_of_a_million_digits(path: Path) -> None:
    write(path, *good(rank="4" * 10**6))


@case("format_invalid", "digest: expected sha256:")
def digest_of_another(path: Path) -> None:
    write(path, *good(), digest="sha256:" + "0" * 64)


@case("format_invalid", "digest: expected sha256:")
def values_altered(path: Path) -> None:
    write(path, *good())
    path.write_bytes(path.read_bytes()[:-1] + b"\x40")


@case("format_invalid", "claims bytes")
def truncated(path: Path) -> None:
    write(path, *good())
    path.write_bytes(path.read_bytes()[:-40])


@case("format_invalid", "has only lora_A")
def half_pair(path: Path) -> None:
    tensors, metadata = good()
    del tensors[B]
    write(path, tensors, metadata)


@case("format_invalid", "expected [in, r]")
def ranks_disagree(path: Path) -> None:
    changed(path, a=np.ones((4, 8), np.float32))


@case("format_invalid", "expected [in, r]")
def peft_orientation(path: Path) -> None:
    changed(path, a=np.ones((4, 8), np.float32), b=np.ones((6, 4), np.float32))


@case("format_invalid", "expected [in, r]")
def three_dimensions(path: Path) -> None:
    changed(path, a=np.ones((1, 8, 4), np.float32))


@case("format_invalid", "expected [in, r]")
def rank_0(path: Path) -> None:
    changed(path, a=np.ones((8, 0), np.float32), b=np.ones((0, 6), np.float32))


@case("format_invalid", "dtype int64")
def integers(path: Path) -> None:
    changed(path, a=np.ones((8, 4), np.int64))


@case("format_invalid", "dtype float64")
def doubles(path: Path) -> None:
    changed(path, a=np.ones((8, 4), np.float64))


@case("format_invalid", "no tensor at all")
def no_tensors(path: Path) -> None:
    write(path, {}, good()[1])


@case("format_unsupported", "'input_ids'")
def another_input(path: Path) -> None:
    changed(path, input_ids=np.ones((1, 1), np.float32))


@case("format_unsupported", "..")
def climbing_name(path: Path) -> None:
    changed(path, **{"model.../../../etc/passwd.lora_A": np.ones((8, 4), np.float32)})


@case("format_unsupported", "graph input")
def homograph(path: Path) -> None:
    changed(path, **{A.replace("o", "\u043e"): np.ones((8, 4), np.float32)})


@case("format_invalid", "limit")
def terabyte(path: Path) -> None:
    write(path, *good())
    sparse(path, 1 << 40, path.read_bytes())


@case("format_unsupported", "without its adapter_config.json")
def name_behind_the_header(path: Path) -> None:
    """A header that ends before the words that tell the format."""
    write(path, *good(format="x"))
    path.write_bytes(path.read_bytes() + json.dumps("lorakit-web").encode())


@case("adapter_mismatch", "NaN or infinity", opens="fit")
def values_nan(path: Path) -> None:
    tensors = {A: np.full((96, 4), np.nan, np.float32), B: np.ones((4, 96), np.float32)}
    write(path, tensors, good()[1])
