"""What a hostile case is, the list of them, and how their files are written by hand.

Each case is a function that writes a small or sparse file or folder to the path that it is given.
`@case` says what opening it must say: the error's code, and words that name the item or the reason.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Write = Callable[[Path], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """opens: how it is opened (see child.py); at: what to open below the path."""

    name: str
    write: Write
    code: str
    words: str
    opens: str = "adapter"
    at: str = ""


CASES: dict[str, Case] = {}


def case(
    code: str, words: str, *, opens: str = "adapter", at: str = ""
) -> Callable[[Write], Write]:
    """Put a function into the list, under its module's and its own name."""

    def put(write: Write) -> Write:
        name = f"{write.__module__.removesuffix('_cases')}-{write.__name__}"
        CASES[name] = Case(name=name, write=write, code=code, words=words, opens=opens, at=at)
        return write

    return put


Q = "base_model.model.model.layers.0.self_attn.q_proj"
CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["q_proj"],
}


def pair(module: str = Q, rank: int = 4, n_in: int = 8, n_out: int = 6) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        f"{module}.lora_A.weight": rng.standard_normal((rank, n_in), np.float32),
        f"{module}.lora_B.weight": rng.standard_normal((n_out, rank), np.float32),
    }


def safetensors(tensors: dict[str, Any]) -> bytes:
    """Written by hand, so that it can be written wrongly."""
    header, data = {}, b""
    for name, array in tensors.items():
        raw = array.tobytes()
        kind = {"float32": "F32", "int64": "I64", "float16": "F16"}[array.dtype.name]
        header[name] = {
            "dtype": kind,
            "shape": array.shape,
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    return packed(header) + data


def packed(header: Any) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


def folder(path: Path, config: Any = None, weights: bytes | None = None, **change: Any) -> None:
    path.mkdir(parents=True)
    content = {**CONFIG, **change} if config is None else config
    text = content if isinstance(content, str) else json.dumps(content)
    (path / "adapter_config.json").write_text(text)
    (path / "adapter_model.safetensors").write_bytes(
        safetensors(pair()) if weights is None else weights
    )


def sparse(path: Path, size: int, head: bytes = b"") -> None:
    with path.open("wb") as file:
        file.write(head)
        file.truncate(size)
