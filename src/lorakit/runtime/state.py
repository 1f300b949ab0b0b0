"""A saved KV cache as a file: tokens, the adapters and scales that it was computed under, bytes.

A state holds no adapter, only the digests of those that acted. It is reused only by requests with
the same adapters, scales and tokens.

The file: magic, the length of a JSON header as uint64, the header (what the state belongs to, its
tokens, its key, the length of the KV), the KV, and one SHA-256 over all that. Little-endian.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lorakit.errors import FormatError, MismatchError, SourceError, WriteError
from lorakit.files.atomic import write_atomic
from lorakit.files.bounded import open_regular, parse_json, read_up_to
from lorakit.runtime.prefix import Tokens
from lorakit.runtime.stages import Key

MAGIC = b"LKSTATE2"
LENGTH = struct.Struct("<Q")
DIGEST = 32  # bytes
MAX_TOKENS = 1 << 20  # default limit
MAX_KV = 1 << 36  # bytes, default limit
MAX_KEY_ITEMS = 10_000  # adapters that acted, several brackets and commas for each
HINT = "save the state again"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class State:
    """tokens: int64 [n]. key: which adapters acted on which of them. kv: the engine's own form."""

    tokens: Tokens
    key: Key
    kv: bytes = field(repr=False)


def write_state(path: Path, state: State, about: Mapping[str, str]) -> None:
    """Write a state atomically; `about` identifies its base and engine. Raises WriteError."""
    header = json.dumps(
        {
            "about": dict(about),
            "tokens": state.tokens.tolist(),
            "key": [[start, [[d, s.hex()] for d, s in acted]] for start, acted in state.key],
            "bytes": len(state.kv),
        }
    ).encode()
    parts = (MAGIC, LENGTH.pack(len(header)), header, state.kv)

    def write(file: BinaryIO) -> None:
        for part in (*parts, _digest(parts)):
            file.write(part)

    try:
        write_atomic(path, write)
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from error


def read_state(
    path: Path, about: Mapping[str, str], *, max_tokens: int = MAX_TOKENS, max_kv: int = MAX_KV
) -> State:
    """Read what `write_state` wrote; never allocates more memory than the file's size.

    max_tokens, max_kv (bytes): the most that the model could have written. Raises SourceError,
    FormatError (not a state, or a damaged one), MismatchError if its base or engine is not that
    of `about`.
    """
    try:
        with open_regular(path) as file:
            raw, kv = _parts(path, file, max_tokens, max_kv)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        header = parse_json(raw, items=8 * max_tokens + MAX_KEY_ITEMS)
        found, tokens = dict(header["about"]), _tokens(header["tokens"])
        key = _key(header["key"], len(tokens))
        if header["bytes"] != len(kv):
            raise ValueError(f"it names {header['bytes']!r:.40} bytes of KV, and has {len(kv)}")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise FormatError(
            f"{path}: the header cannot be read: {error!r:.200}", hint=HINT
        ) from error
    differs = [
        f"{name}: this model has {value[:200]}, the file {str(found.get(name))[:200]}"
        for name, value in about.items()
        if found.get(name) != value
    ]
    if differs:
        raise MismatchError(
            f"{path} was saved from another model, or from this one opened otherwise",
            items=differs,
            hint="open the model as it was when the state was saved (the same base, engine and "
            "quantize), or save the state again from this one",
        )
    return State(tokens=tokens, key=key, kv=kv)


def _parts(path: Path, file: BinaryIO, max_tokens: int, max_kv: int) -> tuple[bytes, bytes]:
    """Header and KV of an open file, once their lengths and their checksum are right."""
    start = len(MAGIC) + LENGTH.size
    head = read_up_to(file, start)
    if head[:7] != MAGIC[:7] or len(head) < start:
        raise FormatError(f"{path} is not a saved state")
    if head[:8] != MAGIC:
        raise FormatError(f"{path} was saved by another version of lorakit", hint=HINT)
    header = LENGTH.unpack(head[8:])[0]
    kv = os.fstat(file.fileno()).st_size - start - header - DIGEST
    most = 16 * max_tokens + (1 << 20)
    if header > most or not 0 <= kv <= max_kv:
        raise FormatError(
            f"{path} should have a header of {header} bytes, which leaves {kv} for the KV",
            hint=f"at most {most} and {max_kv} are read for this model; {HINT}",
        )
    parts = (head[:8], head[8:], read_up_to(file, header), read_up_to(file, kv))
    if read_up_to(file, DIGEST) != _digest(parts):
        raise FormatError(f"{path} is damaged: its checksum is wrong", hint=HINT)
    return parts[2], parts[3]


def _digest(parts: Iterable[bytes]) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()


def _tokens(listed: Any) -> Tokens:
    """Token ids as a list of integers that int32 holds. Raises ValueError and the like."""
    if not isinstance(listed, list) or not listed or {type(token) for token in listed} != {int}:
        raise ValueError("tokens must be a list of integers")
    if not 0 <= min(listed) <= max(listed) < 1 << 31:
        raise ValueError("a token id is out of range")
    return np.asarray(listed, np.int64)


def _key(stages: Any, count: int) -> Key:
    """Stages that begin at token 0 and go on in order. Raises ValueError and the like."""
    key = tuple(
        (start, tuple((str(digest), float.fromhex(scale)) for digest, scale in acted))
        for start, acted in stages
    )
    starts = [start for start, _ in key]
    ordered = starts[:1] == [0] and all(type(start) is int for start in starts)
    if not ordered or any(a >= b for a, b in zip(starts, [*starts[1:], count], strict=True)):
        raise ValueError("its key does not cover every token")
    if not all(math.isfinite(scale) for _, acted in key for _, scale in acted):
        raise ValueError("a scale is not finite")
    return key
