"""GGUF adapters of llama.cpp: one file with a low-rank pair for each tensor of the base.

llama.cpp adds ``user scale * alpha / r * B (A x)`` with one alpha for the whole file, where 0 means
``user scale`` alone (llama-adapter.h, llama-adapter.cpp). Tensors are `<base tensor>.lora_a` and
`.lora_b`; bases of the Llama family keep the rows of q and k in another order, and B follows them.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lorakit.adapter import Adapter, Array, Delta, Precondition, Site
from lorakit.architectures import ARCHITECTURES, Decoder, Layout
from lorakit.atomic import write_atomic
from lorakit.errors import AdapterError, FormatError, ParameterError, UnsupportedError, WriteError
from lorakit.formats.express import (
    Fault,
    bias_fault,
    delta_fault,
    invocation_fault,
    magnitude_fault,
    replacement_fault,
    require_expressible,
    whole_fault,
)
from lorakit.formats.folder import MAX_WEIGHTS
from lorakit.gguf import GgufFile, Value, open_gguf, write_gguf_file

ALPHA = "adapter.lora.alpha"
INVOCATION = "adapter.alora.invocation_tokens"
BASE = "general.base_model.0"
FINGERPRINT = "lorakit.base_fingerprint"
DTYPES: dict[str, np.dtype[np.generic]] = {"f32": np.dtype("<f4"), "f16": np.dtype("<f2")}
EMBEDDING, HEAD = "model.embed_tokens", "lm_head"
PERMUTED = ("self_attn.q_proj", "self_attn.k_proj")
MAX_INVOCATION = 4096
MAX_DEQUANTISED = 1 << 28  # values of all Q8_0 tensors, each of which takes 4 bytes when read
_LAYER = re.compile(r"blk\.(0|[1-9]\d{0,3})\.(\w+)", re.ASCII)
_NUMBER = re.compile(r"0|[1-9]\d{0,3}", re.ASCII)
_LAYOUTS = {row.gguf: row.layout for row in ARCHITECTURES.values()}
_PERMUTED = {row.gguf: row.gguf_permuted for row in ARCHITECTURES.values()}


def read_gguf(path: Path, decoder: Decoder | None = None) -> Adapter:
    """Read an adapter file as what llama.cpp computes from it; F32 and F16 values stay mapped.

    decoder: the base. Needed only where q or k of a Llama-family base are adapted and the file does
    not say how many heads that base has, as files that lorakit wrote do.

    Raises UnsupportedError for another kind of GGUF file or an architecture without a row, and
    where the heads are not known; FormatError where the file contradicts itself.
    """
    file = open_gguf(path)
    architecture = _architecture(file)
    alpha = _scalar(file, ALPHA, "f32", 0.0)
    if not math.isfinite(alpha):
        raise FormatError(f"{path}: {ALPHA} is {alpha}")
    pairs = _pairs(file, _LAYOUTS[architecture])
    heads = _heads(file, architecture, pairs, decoder) if _PERMUTED[architecture] else {}
    try:
        return Adapter(
            deltas=tuple(_delta(module, a, b, alpha, heads) for module, (a, b) in pairs.items()),
            invocation_tokens=_invocation(file),
            precondition=_precondition(file),
            metadata={"format": "gguf", "gguf": _plain(file)},
        )
    except AdapterError as error:
        raise FormatError(f"{path}: {error.message}", items=error.items) from error


def _architecture(file: GgufFile) -> str:
    kind = _text(file, "general.type")
    if kind != "adapter":
        raise UnsupportedError(
            f"{file.path} is a GGUF file of the type {kind or 'model'!r:.40}, not an adapter",
            hint="give the adapter's own file; the base is given apart",
        )
    if (found := _text(file, "adapter.type")) != "lora":
        raise UnsupportedError(f"{file.path} holds an adapter of the type {found!r:.40}, not lora")
    architecture = _text(file, "general.architecture")
    if architecture not in _PERMUTED:
        raise UnsupportedError(
            f"{file.path} is for the architecture {architecture!r:.40}, which is not supported",
            hint=f"supported: {', '.join(sorted(_PERMUTED))}",
        )
    return architecture


def _pairs(file: GgufFile, layout: Layout) -> dict[str, tuple[Array, Array]]:
    """A [r, in] and B [out, r] of each module, as the file has them; every fault at once."""
    size = sum(tensor.raw.nbytes for tensor in file.tensors.values())
    if size > MAX_WEIGHTS:
        raise FormatError(f"{file.path}: tensors of {size} bytes; {MAX_WEIGHTS} is the limit")
    quantised = sum(math.prod(t.shape) for t in file.tensors.values() if t.kind == "Q8_0")
    if quantised > MAX_DEQUANTISED:
        raise FormatError(
            f"{file.path}: {quantised} values in Q8_0; {MAX_DEQUANTISED} is the limit"
        )
    halves: dict[str, dict[str, Array]] = {}
    faults, unknown = [], []
    for name, tensor in file.tensors.items():
        base, _, half = name.rpartition(".lora_")
        module = _module(base.removesuffix(".weight"), layout) if base.endswith(".weight") else None
        if half not in ("a", "b") or module is None:
            unknown.append(f"{name:.80} {list(tensor.shape)}")
        elif len(tensor.shape) != 2:
            faults.append(f"{name:.80}: must be 2-D, found {list(tensor.shape)}")
        else:
            halves.setdefault(module, {})[half] = tensor.array()
    if unknown:
        raise UnsupportedError(
            f"{file.path} holds tensors that are no low-rank pair of a known module",
            items=unknown[:20],
            hint="llama.cpp ignores some such tensors (norms) in silence; lorakit does not",
        )
    for module, found in halves.items():
        if set(found) != {"a", "b"}:
            faults.append(f"{module}: lora_{next(iter(found))} without its other half")
        elif module == EMBEDDING:  # stored the other way round, for its rows are looked up
            found["a"] = found["a"].T
    faults += [
        f"{module}: A {list(f['a'].shape)} and B {list(f['b'].shape)} disagree on the rank"
        for module, f in halves.items()
        if len(f) == 2 and f["a"].shape[0] != f["b"].shape[1]
    ]
    if faults or not halves:
        raise FormatError(
            f"{file.path} is not a complete adapter", items=faults[:20] or ["it holds no pair"]
        )
    return {module: (found["a"], found["b"]) for module, found in halves.items()}


def _module(name: str, layout: Layout) -> str | None:
    """The module of a base tensor's name without its `.weight`; None where there is none."""
    for module, table in layout.gguf_tables.items():
        if name == table:
            return module
    layer = _LAYER.fullmatch(name)
    modules = {gguf: module for module, gguf in layout.gguf.items()}
    if layer is None or layer[2] not in modules:
        return None
    return f"{layout.blocks}.{layer[1]}.{modules[layer[2]]}"


def _tensor(module: str, layout: Layout) -> str | None:
    """The reverse of `_module`."""
    if module in layout.gguf_tables:
        return layout.gguf_tables[module]
    number, _, name = module.removeprefix(f"{layout.blocks}.").partition(".")
    if not _NUMBER.fullmatch(number) or name not in layout.gguf:
        return None
    return f"blk.{number}.{layout.gguf[name]}"


def _heads(
    file: GgufFile,
    architecture: str,
    pairs: Mapping[str, tuple[Array, Array]],
    decoder: Decoder | None,
) -> dict[str, int]:
    """How many heads q and k have, by the end of the module's name; the file's own word first."""
    permuted = [module for module in pairs if module.endswith(PERMUTED)]
    if not permuted:
        return {}
    counts = [_scalar(file, key, "u32", 0) for key in _head_keys(architecture)]
    if not all(counts) and decoder is not None:
        counts = [decoder.heads, decoder.kv_heads]
    if not all(counts):
        raise UnsupportedError(
            f"{file.path} adapts q or k of a base of the Llama family, whose rows GGUF keeps in an "
            "order that depends on the number of heads, and the file does not say how many",
            items=permuted[:20],
            hint="give the base that the adapter is for",
        )
    heads = {name: int(count) for name, count in zip(PERMUTED, counts, strict=True)}
    uneven = [m for m in permuted if len(pairs[m][1]) % (2 * _of(m, heads))]
    if uneven:
        raise FormatError(
            f"{file.path} does not fit {' heads and '.join(map(str, heads.values()))} KV heads",
            items=[f"{m}: {len(pairs[m][1])} rows of B" for m in uneven[:20]],
        )
    return heads


def _head_keys(architecture: str) -> tuple[str, str]:
    at = f"{architecture}.attention.head_count"
    return at, f"{at}_kv"


def _of(module: str, heads: Mapping[str, int]) -> int:
    return next((count for name, count in heads.items() if module.endswith(name)), 0)


def _delta(module: str, a: Array, b: Array, alpha: float, heads: Mapping[str, int]) -> Delta:
    if count := _of(module, heads):
        b = np.ascontiguousarray(_rows(b, count, 1))
    return Delta(
        module=module,
        a=a,
        b=b,
        scale=alpha / len(a) if alpha else 1.0,
        site=Site.INPUT if module == EMBEDDING else Site.LINEAR,
        alpha=alpha or float(len(a)),
    )


def _rows(b: Array, heads: int, axis: int) -> Array:
    """B with the rows of each head [2, d/2] exchanged (axis 2), or those of [d/2, 2] (axis 1)."""
    out, rank = b.shape
    half = out // heads // 2
    shape = (heads, 2, half, rank) if axis == 2 else (heads, half, 2, rank)
    return b.reshape(shape).swapaxes(1, 2).reshape(out, rank)


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


def write_gguf(
    adapter: Adapter, path: Path, decoder: Decoder, *, dtype: Literal["f32", "f16"] = "f32"
) -> None:
    """Write an adapter so that llama.cpp computes the same on the base that `decoder` describes.

    The file has one alpha, the most frequent one of the adapter's; where a module's own differs,
    the quotient is folded into its B. Equal arguments give equal bytes.

    Raises UnsupportedError listing every part that GGUF cannot express, FormatError for values that
    the dtype cannot hold, ParameterError for another dtype, WriteError where the disk refuses.
    """
    if dtype not in DTYPES:
        raise ParameterError(f"dtype must be one of {', '.join(DTYPES)}, found {dtype!r:.40}")
    require_expressible(cannot_express(adapter, decoder), "GGUF")
    alpha = _common_alpha(adapter.deltas)
    tensors: dict[str, Array] = {}
    lost: list[str] = []
    for delta in adapter.deltas:
        name = f"{_tensor(delta.module, decoder.architecture.layout)}.weight.lora_"
        for half, array in zip("ab", _stored(delta, alpha, decoder), strict=True):
            with np.errstate(over="ignore"):
                tensors[name + half] = array.astype(DTYPES[dtype])
            if (np.isfinite(array) & ~np.isfinite(tensors[name + half])).any():
                lost.append(f"{delta.module}: {half.upper()}")
    if lost:
        raise FormatError(
            f"values are too large for {dtype}", items=lost[:20], hint="choose another dtype"
        )
    values = _values(adapter, decoder, alpha)
    try:
        write_atomic(path, lambda file: write_gguf_file(file, values, tensors))
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from error


def cannot_express(adapter: Adapter, decoder: Decoder | None) -> list[Fault]:
    """Everything that a GGUF adapter cannot say; without a base, what it can say of none."""
    modules = decoder.modules() if decoder else {}
    layouts = [decoder.architecture.layout] if decoder else list(_LAYOUTS.values())
    faults = [] if adapter.deltas else [whole_fault("no low-rank delta")]
    for delta in adapter.deltas:
        shape = modules.get(delta.module)
        if not any(_tensor(delta.module, layout) for layout in layouts) or (decoder and not shape):
            kind = decoder.architecture.model_type if decoder else "any base that lorakit knows"
            faults.append(delta_fault(delta, f"no module of {kind}"))
            continue
        if delta.bias is not None and np.any(delta.bias):
            faults.append(bias_fault(delta, "a bias of B"))
        faults += [delta_fault(delta, fault) for fault in _delta_faults(delta, decoder)]
        if (
            shape
            and delta.a.ndim == 2
            and (delta.out_features, delta.in_features)
            != (
                shape.out_features,
                shape.in_features,
            )
        ):
            reason = (
                f"[{delta.out_features}, {delta.in_features}], where the base has "
                f"[{shape.out_features}, {shape.in_features}]"
            )
            faults.append(delta_fault(delta, reason))
    faults += [magnitude_fault(m, "a DoRA magnitude") for m in adapter.magnitudes]
    faults += [replacement_fault(r, r.kind) for r in adapter.replacements]
    if any(not 0 <= token < 1 << 31 for token in adapter.invocation_tokens):
        faults.append(invocation_fault("no token ids"))
    if len(adapter.invocation_tokens) > MAX_INVOCATION:
        faults.append(invocation_fault(f"more than {MAX_INVOCATION}"))
    return faults


def _delta_faults(delta: Delta, decoder: Decoder | None) -> Iterable[str]:
    if delta.a.ndim == 3:
        yield "experts, which its base does not have"
    if not delta.a.size or not delta.b.size:
        yield "rank 0, or no features"
    tied = decoder is not None and decoder.tied
    if tied and delta.module == EMBEDDING:
        yield "an embedding that is tied to the head, on which llama.cpp aborts"
    elif tied and delta.module == HEAD:
        yield "a head that is tied to the embedding, which llama.cpp does not load"
    elif delta.site is not (Site.INPUT if delta.module == EMBEDDING else Site.LINEAR):
        yield f"site {delta.site}; give the lookup and lm_head a delta each"
    if not abs(_alpha(delta)) < float(np.finfo(np.float32).max):
        yield f"scale {delta.scale} is too large"


def _alpha(delta: Delta) -> float:
    return delta.scale * delta.rank


def _common_alpha(deltas: Iterable[Delta]) -> float:
    """The most frequent alpha at float32, the smaller of equals; 0 is not one: it means 1 there."""
    counts = Counter(float(np.float32(_alpha(delta))) for delta in deltas)
    counts.pop(0.0, None)
    return max(counts, key=lambda alpha: (counts[alpha], -alpha), default=1.0)


def _stored(delta: Delta, alpha: float, decoder: Decoder) -> tuple[Array, Array]:
    """A and B as GGUF keeps them, at the precision that the folding needs."""
    a, b = delta.a, delta.b
    if float(np.float32(_alpha(delta))) != alpha:
        b = b.astype(np.float64) * (_alpha(delta) / alpha)
    if decoder.architecture.gguf_permuted:
        heads = dict(zip(PERMUTED, (decoder.heads, decoder.kv_heads), strict=True))
        if count := _of(delta.module, heads):
            b = _rows(b, count, 2)
    return (a.T if delta.module == EMBEDDING else a), b


def _values(adapter: Adapter, decoder: Decoder, alpha: float) -> dict[str, Value]:
    architecture, asked = decoder.architecture.gguf, adapter.precondition
    values = {
        "general.architecture": Value("str", architecture),
        "general.type": Value("str", "adapter"),
        "adapter.type": Value("str", "lora"),
        ALPHA: Value("f32", alpha),
    }
    if adapter.invocation_tokens:
        values[INVOCATION] = Value("u32", adapter.invocation_tokens, array=True)
    if decoder.architecture.gguf_permuted:
        counts = (decoder.heads, decoder.kv_heads)
        keys = _head_keys(architecture)
        values |= {key: Value("u32", count) for key, count in zip(keys, counts, strict=True)}
    if asked.name:
        values |= {
            "general.base_model.count": Value("u32", 1),
            f"{BASE}.name": Value("str", asked.name),
        }
    if asked.fingerprint:
        values[FINGERPRINT] = Value("str", asked.fingerprint)
    return values
