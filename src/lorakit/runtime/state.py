"""A saved KV cache as a file: tokens, the adapters and scales that it was computed under, bytes.

A state carries no adapter, only the digests of those that acted. Whoever asks with other adapters,
other scales or other tokens does not meet it.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lorakit.atomic import write_atomic
from lorakit.errors import FormatError, MismatchError, SourceError, WriteError
from lorakit.runtime.plan import Key
from lorakit.runtime.prefix import Tokens

MAGIC = b"LKSTATE1"
MAX_HEADER = 64 << 20  # bytes
MAX_KV = 1 << 36  # bytes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class State:
    """tokens: int64 [n]. key: which adapters acted on which of them. kv: the engine's own form."""

    tokens: Tokens
    key: Key
    kv: bytes


def write_state(path: Path, state: State, about: Mapping[str, str]) -> None:
    """Write a state, whole or not at all; `about` says of which base and engine. WriteError."""
    header = json.dumps(
        {
            "about": dict(about),
            "tokens": state.tokens.tolist(),
            "key": [[n, [[d, s.hex()] for d, s in chosen]] for n, chosen in state.key],
            "bytes": len(state.kv),
            "sha256": hashlib.sha256(state.kv).hexdigest(),
        }
    ).encode()
    try:
        write_atomic(path, MAGIC + struct.pack("<Q", len(header)) + header + state.kv)
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from error


def read_state(path: Path, about: Mapping[str, str]) -> State:
    """Read what `write_state` wrote.

    Raises SourceError, FormatError (no state, or a broken one), and MismatchError where it is of
    another base or engine than `about` says.
    """
    try:
        with path.open("rb") as file:
            head = file.read(16)
            if head[:8] != MAGIC or len(head) < 16:
                raise FormatError(f"{path} is not a saved state")
            size = struct.unpack("<Q", head[8:])[0]
            if size > MAX_HEADER:
                raise FormatError(f"{path} has a header of {size} bytes")
            header = _header(path, file.read(size))
            if not 0 <= header["bytes"] <= MAX_KV:
                raise FormatError(f"{path} claims {header['bytes']} bytes of KV")
            kv = file.read(header["bytes"] + 1)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    if len(kv) != header["bytes"] or hashlib.sha256(kv).hexdigest() != header["sha256"]:
        raise FormatError(f"{path} is damaged", hint="save the state again")
    differs = [
        f"{name}: expected {value[:60]}, found {str(header['about'].get(name))[:60]}"
        for name, value in about.items()
        if header["about"].get(name) != value
    ]
    if differs:
        raise MismatchError(f"{path} was saved from another model", items=differs)
    return State(tokens=header["tokens"], key=header["key"], kv=kv)


def _header(path: Path, raw: bytes) -> dict[str, Any]:
    """The header, its parts as a State has them."""
    try:
        header = json.loads(raw)
        return {
            "about": dict(header["about"]),
            "tokens": np.asarray(header["tokens"], np.int64).reshape(-1),
            "key": tuple(
                (int(n), tuple((str(d), float.fromhex(s)) for d, s in chosen))
                for n, chosen in header["key"]
            ),
            "bytes": int(header["bytes"]),
            "sha256": str(header["sha256"]),
        }
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        OverflowError,
    ) as error:
        raise FormatError(f"{path} is damaged: its header cannot be read") from error
