"""GGUF adapters of llama.cpp: one file with a low-rank pair for each tensor of the base.

llama.cpp adds ``user scale * alpha / r * B (A x)`` with one alpha for the whole file, where 0 means
``user scale`` alone (llama-adapter.h, llama-adapter.cpp). Tensors are `<base tensor>.lora_a` and
`.lora_b`; bases of the Llama family keep the rows of q and k in another order, and B follows them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lorakit.adapter import Adapter, Array, Delta, Precondition, Site
from lorakit.architectures import Decoder, Layout
from lorakit.errors import AdapterError, FormatError, UnsupportedError
from lorakit.files.gguf import GgufFile, Value, open_gguf
from lorakit.formats.folder import MAX_WEIGHTS
from lorakit.formats.gguf.names import (
    LAYOUTS,
    PERMUTED,
    ROTATED,
    head_keys,
    heads_of,
    is_stacked,
    module_of,
    permuted,
)

ALPHA = "adapter.lora.alpha"
INVOCATION = "adapter.alora.invocation_tokens"
BASE = "general.base_model.0"
FINGERPRINT = "lorakit.base_fingerprint"
MAX_INVOCATION = 4096
MAX_STRINGS = 65_536  # items of string arrays: an adapter has no vocabulary, but may have tags
MAX_DEQUANTISED = 1 << 28  # values of all Q8_0 tensors, each of which takes 4 bytes when read


def read_gguf(path: Path, decoder: Decoder | None = None) -> Adapter:
    """Read an adapter file as what llama.cpp computes from it; F32 and F16 values stay mapped.

    decoder: the base. Needed only where q or k of a Llama-family base are adapted and the file does
    not say how many heads that base has, as files that lorakit wrote do; and for an architecture
    without a row, whose modules are what the base's own file calls its tensors.

    Raises UnsupportedError for another kind of GGUF file, an architecture that is neither in a row
    nor the base's, and where the heads are not known; FormatError where the file contradicts
    itself.
    """
    try:
        file = open_gguf(path, max_strings=MAX_STRINGS)
    except (FormatError, UnsupportedError):
        _require_adapter(open_gguf(path, model=True))  # a whole model's vocabulary, or its types
        raise
    architecture = _architecture(file, decoder)
    alpha = _scalar(file, ALPHA, "f32", 0.0)
    if not math.isfinite(alpha):
        raise FormatError(f"{path}: {ALPHA} is {alpha}")
    foreign = decoder if decoder is not None and decoder.is_foreign else None
    layout = foreign.architecture.layout if foreign else LAYOUTS[architecture]
    pairs = _pairs(file, layout, foreign)
    heads = {}
    if not foreign and PERMUTED[architecture]:
        heads = _heads(file, architecture, pairs, decoder)
    try:
        return Adapter(
            deltas=tuple(
                _delta(module, a, b, alpha, heads, layout) for module, (a, b) in pairs.items()
            ),
            invocation_tokens=_invocation(file),
            precondition=_precondition(file),
            metadata={"format": "gguf", "gguf": _plain(file)},
        )
    except AdapterError as error:
        raise FormatError(f"{path}: {error.message}", items=error.items) from error


def _require_adapter(file: GgufFile) -> None:
    kind = _text(file, "general.type")
    if kind != "adapter":
        raise UnsupportedError(
            f"{file.path} is a GGUF file of the type {kind or 'model'!r:.40}, not an adapter",
            hint="give the adapter's own file; the base is given apart",
        )


def _architecture(file: GgufFile, decoder: Decoder | None) -> str:
    _require_adapter(file)
    if (found := _text(file, "adapter.type")) != "lora":
        raise UnsupportedError(f"{file.path} holds an adapter of the type {found!r:.40}, not lora")
    architecture = _text(file, "general.architecture")
    if decoder is not None and architecture == decoder.architecture.gguf:
        return architecture
    if decoder is not None and (decoder.is_foreign or architecture not in LAYOUTS):
        raise UnsupportedError(
            f"{file.path} is for the architecture {architecture!r:.40}, which the base is not: "
            f"it is {decoder.architecture.gguf}",
            hint="open the base that the adapter was made for",
        )
    if architecture not in LAYOUTS:
        raise UnsupportedError(
            f"{file.path} is for the architecture {architecture!r:.40}, which is known by the GGUF "
            "file of its base alone",
            hint=f"give that file as the base; known without it: {', '.join(sorted(LAYOUTS))}",
        )
    return architecture


def _pairs(
    file: GgufFile, layout: Layout, foreign: Decoder | None
) -> dict[str, tuple[Array, Array]]:
    """A [r, in] and B [out, r] of each module, as the file has them; every fault at once."""
    size = sum(tensor.raw.nbytes for tensor in file.tensors.values())
    if size > MAX_WEIGHTS:
        raise FormatError(f"{file.path}: tensors of {size} bytes; {MAX_WEIGHTS} is the limit")
    quantised = sum(math.prod(t.shape) for t in file.tensors.values() if t.kind == "Q8_0")
    if quantised > MAX_DEQUANTISED:
        raise FormatError(
            f"{file.path}: {quantised} values in Q8_0 would take {4 * quantised >> 20} MiB of "
            f"memory; {MAX_DEQUANTISED} values are the limit",
            hint="convert the file to F16, which is read in place",
        )
    halves: dict[str, dict[str, Array]] = {}
    faults, unknown = [], []
    shapes = foreign.modules() if foreign else {}
    for name, tensor in file.tensors.items():
        base, _, half = name.rpartition(".lora_")
        module = (
            module_of(base.removesuffix(".weight"), layout) if base.endswith(".weight") else None
        )
        if half not in ("a", "b") or module is None or (foreign and module not in shapes):
            unknown.append(f"{name:.80} {list(tensor.shape)}")
            continue
        stacked = shapes[module].experts if foreign else is_stacked(module, layout)
        axes = 3 if stacked else 2
        if len(tensor.shape) != axes:
            faults.append(f"{name:.80}: must be {axes}-D, found {list(tensor.shape)}")
        else:
            halves.setdefault(module, {})[half] = tensor.array()
    if unknown:
        raise UnsupportedError(
            f"{file.path} holds tensors that are no low-rank pair of a known module",
            items=unknown[:20],
            hint="llama.cpp ignores some such tensors (norms) in silence; lorakit does not",
        )
    if layout.embedding in halves and "a" in halves[layout.embedding]:
        # stored the other way round, for its rows are looked up
        halves[layout.embedding]["a"] = halves[layout.embedding]["a"].T
    for module, found in halves.items():
        faults += _disagreements(module, found)
    if faults or not halves:
        raise FormatError(
            f"{file.path} is not a complete adapter", items=faults[:20] or ["it holds no pair"]
        )
    return {module: (found["a"], found["b"]) for module, found in halves.items()}


def _disagreements(module: str, found: Mapping[str, Array]) -> Iterable[str]:
    if len(found) != 2:
        yield f"{module}: lora_{next(iter(found))} without its other half"
        return
    a, b = found["a"], found["b"]
    if a.shape[-2] != b.shape[-1]:
        yield f"{module}: A {list(a.shape)} and B {list(b.shape)} disagree on the rank"
    if a.shape[:-2] != b.shape[:-2]:
        yield f"{module}: A {list(a.shape)} and B {list(b.shape)} disagree on the experts"


def _heads(
    file: GgufFile,
    architecture: str,
    pairs: Mapping[str, tuple[Array, Array]],
    decoder: Decoder | None,
) -> dict[str, int]:
    """How many heads q and k have, by the end of the module's name; the file's own word first."""
    rotated = [module for module in pairs if module.endswith(ROTATED)]
    if not rotated:
        return {}
    counts = [_scalar(file, key, "u32", 0) for key in head_keys(architecture)]
    if not all(counts) and decoder is not None:
        counts = [decoder.heads, decoder.kv_heads]
    if not all(counts):
        raise UnsupportedError(
            f"{file.path} adapts q or k of a base of the Llama family, whose rows GGUF keeps in an "
            "order that depends on the number of heads, and the file does not say how many",
            items=rotated[:20],
            hint="give the base that the adapter is for",
        )
    heads = {name: int(count) for name, count in zip(ROTATED, counts, strict=True)}
    uneven = [m for m in rotated if len(pairs[m][1]) % (2 * heads_of(m, heads))]
    if uneven:
        raise FormatError(
            f"{file.path} does not fit {' heads and '.join(map(str, heads.values()))} KV heads",
            items=[f"{m}: {len(pairs[m][1])} rows of B" for m in uneven[:20]],
        )
    return heads


def _delta(
    module: str, a: Array, b: Array, alpha: float, heads: Mapping[str, int], layout: Layout
) -> Delta:
    rank = a.shape[-2]
    if count := heads_of(module, heads):
        b = np.ascontiguousarray(permuted(b, count, 1))
    return Delta(
        module=module,
        a=a,
        b=b,
        scale=alpha / rank if alpha else 1.0,
        site=Site.INPUT if module == layout.embedding else Site.LINEAR,
        alpha=alpha or float(rank),
    )


def _invocation(file: GgufFile) -> tuple[int, ...]:
    value = file.values.get(INVOCATION)
    if value is None:
        return ()
    if not value.array or value.kind != "u32" or len(value.data) > MAX_INVOCATION:
        raise FormatError(f"{file.path}: {INVOCATION} must be an array of u32, a few tokens long")
    return tuple(value.data.tolist())


def _precondition(file: GgufFile) -> Precondition:
    url = _text(file, f"{BASE}.repo_url")
    name = url.removeprefix("https://huggingface.co/") if url else _text(file, f"{BASE}.name")
    return Precondition(name=name or None, fingerprint=_text(file, FINGERPRINT) or None)


def _plain(file: GgufFile) -> dict[str, Any]:
    """The values that are one text or finite number: what a report can show."""
    return {
        key: value.data
        for key, value in file.values.items()
        if not value.array and (isinstance(value.data, str) or math.isfinite(value.data))
    }


def _text(file: GgufFile, key: str) -> str:
    return str(_scalar(file, key, "str", ""))


def _scalar(file: GgufFile, key: str, kind: str, default: Any) -> Any:
    value = file.values.get(key, Value(kind, default))
    if value.array or value.kind != kind:
        found = f"an array of {value.kind}" if value.array else value.kind
        raise FormatError(
            f"{file.path}: {key} must be of the type {kind}, found {found}",
            hint="llama.cpp would abort on this file",
        )
    return value.data
