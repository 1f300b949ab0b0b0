"""Write an Adapter as a PEFT folder, exactly, or say what does not fit.

What PEFT can express was tried with peft 0.21: one flag each for DoRA, rsLoRA and biases of B in a
whole adapter, no replaced rows under a LoRA layer, at least one LoRA layer.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lorakit.adapter import Adapter, Array, Delta, Replacement, Site
from lorakit.atomic import new_folder, write_synced
from lorakit.errors import FormatError, ParameterError, UnsupportedError, WriteError
from lorakit.formats.express import require_expressible
from lorakit.formats.patterns import PatternTable
from lorakit.formats.peft.express import COPIED, cannot_express
from lorakit.formats.peft.read import CONFIG, FINGERPRINT, PREFIX, WEIGHTS, assemble
from lorakit.tensors import write_safetensors

# Taken over from the config that an adapter was read from: they say nothing of the arithmetic.
KEPT: dict[str, Any] = {
    "fan_in_fan_out": False,
    "lora_dropout": 0.0,
    "revision": None,
    "task_type": "CAUSAL_LM",
}
OWN_FILES = frozenset({CONFIG, WEIGHTS, "README.md", ".gitattributes"})


def write_peft(
    adapter: Adapter,
    folder: Path,
    *,
    dtype: npt.DTypeLike | None = None,
    replace: bool = False,
) -> None:
    """Write an adapter so that PEFT computes the same; all of the folder or nothing.

    dtype: what to store floating point as; None keeps each tensor's own. Equal arguments give
    equal bytes. `replace=True` overwrites a folder that holds a PEFT adapter and nothing else.

    Raises UnsupportedError listing every part that PEFT cannot express, FormatError for values
    that the dtype cannot hold, ParameterError for a folder that is in use, WriteError where the
    disk refuses.
    """
    require_expressible(cannot_express(adapter), "PEFT")
    metadata = {"format": "pt"}
    if adapter.precondition.fingerprint:
        metadata[FINGERPRINT] = adapter.precondition.fingerprint
    config, tensors = _config(adapter), _tensors(adapter)
    _require_same(adapter, assemble(config, tensors, metadata, where=str(folder)))
    tensors = convert_dtype(tensors, dtype)
    text = json.dumps(config, indent=2, allow_nan=False).encode() + b"\n"
    _check_target(folder, replace)
    try:
        with new_folder(folder, replace=replace) as temporary:
            write_synced(
                temporary / WEIGHTS, lambda file: write_safetensors(file, tensors, metadata)
            )
            write_synced(temporary / CONFIG, text)
    except FileExistsError as error:
        raise ParameterError(str(error), hint="choose a new folder") from error
    except OSError as error:
        raise WriteError(f"cannot write {folder}: {error.strerror or error}") from error


def _require_same(adapter: Adapter, read: Adapter) -> None:
    """What was prepared, read back before it is written, is the adapter: same parts, same arrays.

    Only names that collide with PEFT's own can fail here."""
    lost = sorted(set(_outline(adapter)) ^ set(_outline(read)))
    if lost:
        raise UnsupportedError("PEFT would read this adapter differently", items=lost[:20])


def _outline(adapter: Adapter) -> list[str]:
    """A line for each part: what it is, its scale as engines use it, and which arrays it holds."""

    def shown(array: Array | None) -> str:
        return "-" if array is None else f"{array.shape} at {array.ctypes.data:x}"

    lines = [
        f"{d.module} {d.site} x {np.float32(d.scale)!r}: {shown(d.a)} {shown(d.b)}"
        + (f" {shown(d.bias)}" if d.bias is not None and np.any(d.bias) else "")
        for d in adapter.deltas
    ]
    lines += [
        f"{r.name} {r.site or ''} {r.rows if r.rows is None else r.rows.tolist()}: {shown(r.value)}"
        for r in adapter.replacements
    ]
    lines += [f"{m.module} magnitude {shown(m.value)}" for m in adapter.magnitudes]
    return [*lines, f"invocation tokens {adapter.invocation_tokens}"]


def _check_target(folder: Path, replace: bool) -> None:
    if replace and folder.is_dir():
        others = sorted(file.name for file in folder.iterdir() if file.name not in OWN_FILES)
        if others:
            raise ParameterError(
                f"{folder} holds other files than a PEFT adapter and is not replaced",
                items=others[:20],
                hint="choose a new folder",
            )


def _tensors(adapter: Adapter) -> dict[str, Array]:
    found: dict[str, Array] = {}
    any_bias = any(delta.bias is not None for delta in adapter.deltas)
    for delta in adapter.deltas:
        found |= _delta_tensors(delta, any_bias)
    for magnitude in adapter.magnitudes:
        found[f"{magnitude.module}.lora_magnitude_vector"] = magnitude.value
    adapted = {delta.module for delta in adapter.deltas}
    for replacement in adapter.replacements:
        module, _, leaf = replacement.name.rpartition(".")
        if replacement.rows is not None:
            found[f"{module}.token_adapter.trainable_tokens_delta"] = replacement.value
        elif module in adapted:
            found[f"{module}.base_layer.{leaf}"] = replacement.value
        else:
            found[replacement.name] = replacement.value
    return {PREFIX + name: array for name, array in found.items()}


def _delta_tensors(delta: Delta, any_bias: bool) -> dict[str, Array]:
    module = delta.module
    if delta.site is Site.LINEAR:
        found = {f"{module}.lora_A.weight": delta.a, f"{module}.lora_B.weight": delta.b}
        if any_bias:
            zeros = np.zeros(delta.out_features, delta.b.dtype)
            found[f"{module}.lora_B.bias"] = zeros if delta.bias is None else delta.bias
        return found
    found = {f"{module}.lora_embedding_A": delta.a, f"{module}.lora_embedding_B": delta.b}
    if delta.site is Site.BOTH:  # the head holds the same factors, exchanged and transposed
        found |= {"lm_head.lora_A.weight": delta.b.T, "lm_head.lora_B.weight": delta.a.T}
    return found


def convert_dtype(tensors: Mapping[str, Array], dtype: npt.DTypeLike | None) -> dict[str, Array]:
    if dtype is None:
        return dict(tensors)
    target = np.dtype(dtype)
    converted = {}
    for name, array in tensors.items():
        with np.errstate(over="ignore"):
            converted[name] = array.astype(target, copy=False)
    lost = [
        name
        for name, array in converted.items()
        if array is not tensors[name] and _overflows(tensors[name], array)
    ]
    if lost:
        raise FormatError(
            f"values are too large for {target.name}", items=lost, hint="choose another dtype"
        )
    return converted


def _overflows(before: Array, after: Array) -> bool:
    return bool(
        (np.isfinite(before.astype(np.float32)) & ~np.isfinite(after.astype(np.float32))).any()
    )


def _config(adapter: Adapter) -> dict[str, Any]:
    deltas = adapter.deltas
    rslora, alphas = _alphas(deltas)
    ranks = {delta.module: delta.rank for delta in deltas}
    tables = [d for d in deltas if d.site is Site.BOTH]
    for table in tables:
        ranks["lm_head"], alphas["lm_head"] = table.rank, alphas[table.module]
    rank, alpha = _most_common(ranks.values()), _most_common(alphas.values())
    rows = [r for r in adapter.replacements if r.rows is not None]
    saved, biases = _saved(adapter)
    return {
        **_kept(adapter.metadata.get("peft")),
        "peft_type": "LORA",
        "base_model_name_or_path": adapter.precondition.name,
        "inference_mode": True,
        "init_lora_weights": True,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": _pattern(ranks, rank),
        "alpha_pattern": _pattern(alphas, alpha),
        "use_rslora": rslora,
        "use_dora": bool(adapter.magnitudes),
        "lora_bias": any(delta.bias is not None for delta in deltas),
        "bias": "all" if biases else "none",
        "target_modules": sorted(ranks),
        "modules_to_save": saved or None,
        "trainable_token_indices": {
            r.name.rpartition(".")[0]: [int(row) for row in np.asarray(r.rows)] for r in rows
        }
        or None,
        "alora_invocation_tokens": list(adapter.invocation_tokens) or None,
    }


def _kept(original: object) -> dict[str, Any]:
    kept = dict(KEPT)
    for name, default in KEPT.items():
        value = original.get(name) if isinstance(original, Mapping) else None
        if isinstance(value, type(default) if default is not None else str):
            finite = not isinstance(value, float) or math.isfinite(value)
            kept[name] = value if finite else default
    return kept


def _saved(adapter: Adapter) -> tuple[list[str], list[str]]:
    """Modules that PEFT keeps a trained copy of, and biases that it assigns to the base."""
    adapted = {delta.module for delta in adapter.deltas}
    saved, biases = set(), []
    for replacement in adapter.replacements:
        module, _, leaf = replacement.name.rpartition(".")
        if replacement.rows is not None:
            continue
        if leaf == "bias":
            biases.append(module)
        elif module not in adapted and not _assigned(replacement):
            saved.add(module)
    return sorted(saved), biases


def _assigned(replacement: Replacement) -> bool:
    """Whether it goes to the parameter itself: an embedding or head at all its uses."""
    leaf = replacement.name.split(".")[-2]
    return replacement.site is None and leaf in COPIED.values()


def _alphas(deltas: Sequence[Delta]) -> tuple[bool, dict[str, float]]:
    """use_rslora, and an alpha for each module that gives its scale: its own where that does."""
    for rslora in (False, True):
        if all(
            delta.alpha is not None and delta.alpha / _divisor(delta, rslora) == delta.scale
            for delta in deltas
        ):
            return rslora, {d.module: _plain(float(d.alpha or 0.0)) for d in deltas}
    return False, {delta.module: _plain(_alpha(delta)) for delta in deltas}


def _divisor(delta: Delta, rslora: bool) -> float:
    return math.sqrt(delta.rank) if rslora else delta.rank


def _alpha(delta: Delta) -> float:
    """alpha such that alpha / r is the scale; where no float64 gives it, the same in float32."""
    near = delta.scale * delta.rank
    around = (near, math.nextafter(near, math.inf), math.nextafter(near, -math.inf))
    found = [alpha for alpha in around if alpha / delta.rank == delta.scale] or [
        alpha for alpha in around if np.float32(alpha / delta.rank) == np.float32(delta.scale)
    ]
    return found[0] if found else near


def _plain(value: float) -> float:
    """Whole numbers without a fraction, as people write them."""
    return int(value) if value.is_integer() and abs(value) < 1 << 53 else value


def _most_common(values: Any) -> Any:
    counts = Counter(values)
    return max(counts, key=lambda value: (counts[value], -value))


def _pattern(values: Mapping[str, Any], default: Any) -> dict[str, Any]:
    """Exceptions by module name. PEFT takes a key as the end of a name, and as a regular
    expression; where plain names would be ambiguous, they are anchored and escaped."""
    exceptions = {name: value for name, value in values.items() if value != default}
    table = PatternTable(tuple(exceptions))
    if all(table.first(name) == (name if name in exceptions else None) for name in values):
        return exceptions
    return {f"^{re.escape(name)}": value for name, value in exceptions.items()}
