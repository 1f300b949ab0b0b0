"""Adapters for the browser: one safetensors file whose tensors are the inputs of an exported graph.

A is ``<module>.lora_A`` [in, r], B is ``<module>.lora_B`` [r, out] with the scale in it, all of one
dtype. The file's metadata says its base, its largest rank, its name, and a digest of its tensors'
bytes, by which a page keeps it. The page has no more to do than to hand the tensors on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import numpy.typing as npt

from lorakit.adapter import Adapter, Array, Delta, Precondition
from lorakit.architectures import HEAD, Decoder
from lorakit.base.folder import Base
from lorakit.errors import FormatError, ParameterError, SourceError, UnsupportedError, WriteError
from lorakit.files.atomic import write_atomic
from lorakit.files.bounded import load, open_regular
from lorakit.files.safetensors import MAX_HEADER, open_safetensors, write_safetensors
from lorakit.formats.express import Fault, delta_fault, linear_faults, require_expressible
from lorakit.formats.folder import is_name
from lorakit.formats.folding import folded
from lorakit.formats.readback import as_dtype, require_same

FORMAT, VERSION = "lorakit-web", "1"
DIGEST = "sha256:"
END_A, END_B = ".lora_A", ".lora_B"
MAX_SIZE = (1 << 31) - 1  # bytes that a page can hold in one buffer
SHOWN = 20
DTYPES = {np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)}


def is_web(path: Path) -> bool:
    """Whether a file is of this kind, by its safetensors header."""
    try:
        with open_regular(path) as file:
            length = int.from_bytes(file.read(8), "little")
            return length <= MAX_HEADER and f'"{FORMAT}"'.encode() in file.read(length)
    except (OSError, SourceError):
        return False


def read_web(path: Path) -> Adapter:
    """The adapter in a web file; its scale is 1, in B already.

    Raises SourceError (no such file), FormatError (broken, or parts that contradict each other)
    and UnsupportedError (a later version, or tensors of another kind).
    """
    file = open_safetensors(path, max_size=MAX_SIZE)
    about = file.metadata
    if about.get("format") != FORMAT:
        raise UnsupportedError(f"{path} is a safetensors file, but no {FORMAT}")
    if about.get("version") != VERSION:
        raise UnsupportedError(
            f"{path} is of version {about.get('version')!a:.40} of {FORMAT}",
            hint=f"this lorakit reads version {VERSION}",
        )
    halves: dict[str, dict[str, Array]] = {}
    for name, array in file.tensors.items():
        end = next((end for end in (END_A, END_B) if name.endswith(end)), None)
        module = name.removesuffix(end or "")
        if end is None or not _is_module(module):
            raise UnsupportedError(
                f"{path} names a graph input {name!a:.120}, no part of a linear LoRA layer",
                hint=f"expected <module>{END_A} and <module>{END_B}",
            )
        halves.setdefault(module, {})[end] = array
    faults = [fault for module, pair in halves.items() for fault in _faults(module, pair)]
    faults = faults or list(_contradictions(path, about, halves))
    if faults:
        raise FormatError(
            f"the web adapter {path} does not agree with itself",
            items=faults[:SHOWN],
            hint="download it again, or convert what it was made of again",
        )
    return Adapter(
        deltas=tuple(
            Delta(module=module, a=pair[END_A].T, b=pair[END_B].T, scale=1.0)
            for module, pair in halves.items()
        ),
        precondition=Precondition(
            name=about.get("base_name") or None, fingerprint=about.get("base") or None
        ),
        metadata={"format": "web", "name": about.get("adapter", "")},
    )


def _is_module(name: str) -> bool:
    return is_name(name) and not any(
        part in ("", "..") or "/" in part or "\\" in part for part in name.split(".")
    )


def _faults(module: str, pair: Mapping[str, Array]) -> list[str]:
    if len(pair) != 2:
        return [f"{module}: has only {next(iter(pair)).strip('.')}"]
    a, b = pair[END_A], pair[END_B]
    if odd := {array.dtype for array in (a, b)} - DTYPES:
        return [f"{module}: dtype {odd.pop().name}, expected float32, float16 or bfloat16"]
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0] or 0 in (*a.shape, *b.shape):
        return [f"{module}: A {list(a.shape)} and B {list(b.shape)}, expected [in, r], [r, out]"]
    return []


def _contradictions(
    path: Path, about: Mapping[str, str], halves: Mapping[str, Mapping[str, Array]]
) -> Iterator[str]:
    """What the metadata says and the tensors do not bear out."""
    if not halves:
        yield "no tensor at all: the adapter does nothing"
        return
    rank = str(max(pair[END_A].shape[1] for pair in halves.values()))
    if about.get("rank") != rank:
        yield f"rank: expected {rank}, by its tensors, found {about.get('rank')!a:.40}"
    content = load(path)
    begin = 8 + int(content[:8].view("<u8")[0])
    digest = DIGEST + hashlib.sha256(content[begin:].data).hexdigest()
    if about.get("digest") != digest:
        yield f"digest: expected {digest}, by its tensors, found {about.get('digest')!a:.90}"


def write_web(
    adapter: Adapter,
    path: Path,
    *,
    decoder: Decoder | None = None,
    dtype: npt.DTypeLike | None = None,
) -> None:
    """Write a web file, named in it as the file is; scales are folded into B in float32.

    dtype: of all tensors, float32 where None. Equal arguments give equal bytes; the file is read
    back before it is put in place. Raises UnsupportedError listing every part that the format
    cannot express, FormatError for values that the dtype cannot hold, ParameterError where there is
    a file already, WriteError where the disk refuses.
    """
    require_expressible(cannot_express(adapter, decoder), "a web adapter")
    if path.exists():
        raise ParameterError(f"{path} exists", hint="choose a new file")
    stored = as_dtype(folded(adapter), dtype or np.float32)
    tensors = {d.module + END_A: np.ascontiguousarray(d.a.T) for d in stored.deltas}
    tensors |= {d.module + END_B: np.ascontiguousarray(d.b.T) for d in stored.deltas}
    size = sum(array.nbytes for array in tensors.values())
    if size > MAX_SIZE - MAX_HEADER:
        raise UnsupportedError(
            f"{size} bytes of tensors; a page holds at most {MAX_SIZE - MAX_HEADER} in a file",
            hint="store it as float16, or give it a smaller rank: lorakit resize",
        )
    digest = hashlib.sha256()
    for name in sorted(tensors):  # of one dtype: the order of the file
        digest.update(tensors[name].reshape(-1).view(np.uint8).data)
    origin = adapter.precondition
    about = {
        "format": FORMAT,
        "version": VERSION,
        "adapter": path.stem,
        "rank": str(stored.max_rank),
        "digest": DIGEST + digest.hexdigest(),
    }
    about |= {"base": origin.fingerprint} if origin.fingerprint else {}
    about |= {"base_name": origin.name} if origin.name else {}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(
            path,
            lambda file: write_safetensors(file, tensors, about),
            lambda file: require_same(stored, read_web(file), "a web adapter"),
        )
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from error


def for_base(adapter: Adapter, base: Base) -> tuple[Adapter, tuple[str, ...]]:
    """The adapter with the fingerprint of the base that it was found to fit, for the page to
    compare."""
    name = adapter.precondition.name or base.name
    return replace(adapter, precondition=Precondition(name=name, fingerprint=base.fingerprint)), ()


def cannot_express(adapter: Adapter, decoder: Decoder | None = None) -> list[Fault]:
    """Everything that the inputs of an exported graph cannot say. It has none for the vocabulary's
    projection, where even adding zeros would cost every step."""
    faults = linear_faults(
        adapter,
        others="are no inputs of an exported graph",
        alone="an exported graph adds an adapter to all tokens",
    )
    return faults + [
        delta_fault(d, "the head, which has no inputs in an exported graph")
        for d in adapter.deltas
        if d.module == HEAD
    ]
