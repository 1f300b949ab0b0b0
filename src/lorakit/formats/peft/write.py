"""Write an Adapter as a PEFT folder, exactly, or say what does not fit (see express.py)."""

from __future__ import annotations

import dataclasses
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
from lorakit.architectures import Decoder
from lorakit.errors import ParameterError, WriteError
from lorakit.files.atomic import new_folder, write_synced
from lorakit.files.safetensors import write_safetensors
from lorakit.formats.express import require_expressible
from lorakit.formats.folding import made_uniform, padded
from lorakit.formats.patterns import PatternTable
from lorakit.formats.peft.experts import (
    GATE,
    UP,
    fuse,
    parameter,
    stored,
    tensor_module,
    with_common_scales,
)
from lorakit.formats.peft.express import COPIED, cannot_express
from lorakit.formats.peft.parts import PREFIX
from lorakit.formats.peft.read import CONFIG, FINGERPRINT, WEIGHTS, read_peft
from lorakit.formats.readback import as_dtype, require_same

# Taken over from the config that an adapter was read from: they say nothing of the arithmetic.
KEPT: dict[str, Any] = {
    "fan_in_fan_out": False,
    "lora_dropout": 0.0,
    "revision": None,
    "task_type": "CAUSAL_LM",
}
LAYOUT = "0.21.0"  # the PEFT whose order of an expert's dimensions is written; it changed with 0.19
OWN_FILES = frozenset({CONFIG, WEIGHTS, "README.md", ".gitattributes"})


def write_peft(
    adapter: Adapter,
    folder: Path,
    *,
    decoder: Decoder | None = None,
    dtype: npt.DTypeLike | None = None,
    replace: bool = False,
    uniform: bool = False,
    along: Sequence[tuple[str, bytes]] = (),
) -> None:
    """Write an adapter so that PEFT computes the same; all of the folder or nothing.

    Experts are written for transformers 5: `gate_up_proj` and `down_proj` as bare parameters; gate
    and up as one pair where they share A, else side by side with two blocks in B and the sum of
    their ranks. Where only the scales of gate and up differ, that of up is folded into its B.

    decoder: the base; it says which layers are Conv1D. dtype: what to store floating point as; None
    keeps each tensor's own. Equal arguments give equal bytes. `replace=True` overwrites a folder
    that holds a PEFT adapter and nothing else. `uniform=True` writes one rank and one alpha and no
    patterns: ranks padded with zeros, scales that differ folded into B in float32. along: names and
    contents of files that come beside it. What was written is read back before it is put in place.

    Raises UnsupportedError listing every part that PEFT cannot express, FormatError for values
    that the dtype cannot hold, ParameterError for a folder that is in use, WriteError where the
    disk refuses.
    """
    require_expressible(cannot_express(adapter, decoder), "PEFT")
    adapter = _evened(made_uniform(adapter)) if uniform else adapter
    adapter = as_dtype(with_common_scales(adapter), dtype)
    deltas, metadata = fuse(adapter)
    metadata |= {"format": "pt"}
    if adapter.precondition.fingerprint:
        metadata[FINGERPRINT] = adapter.precondition.fingerprint
    config, tensors = _config(adapter, deltas, decoder), _tensors(adapter, deltas)
    text = json.dumps(config, indent=2, allow_nan=False).encode() + b"\n"
    _check_target(folder, replace)
    try:
        with new_folder(folder, replace=replace) as temporary:
            write_synced(
                temporary / WEIGHTS, lambda file: write_safetensors(file, tensors, metadata)
            )
            write_synced(temporary / CONFIG, text)
            for name, content in along:
                write_synced(temporary / name, content)
            require_same(adapter, read_peft(temporary, decoder), "PEFT")
    except FileExistsError as error:
        raise ParameterError(str(error), hint="choose a new folder") from error
    except OSError as error:
        raise WriteError(f"cannot write {folder}: {error.strerror or error}") from error


def _evened(adapter: Adapter) -> Adapter:
    """Of one rank in PEFT's parameters, too, where gate and up side by side have twice as much."""
    fused, _ = fuse(adapter)
    most = max((d.rank for d in fused), default=0)
    apart = {
        d.module.rpartition(".")[0] for d in fused if d.a.ndim == 3 and d.rank > adapter.max_rank
    }
    deltas = tuple(
        d if _is_half(d) and d.module.rpartition(".")[0] in apart else padded(d, most)
        for d in adapter.deltas
    )
    return dataclasses.replace(adapter, deltas=deltas)


def _is_half(delta: Delta) -> bool:
    return delta.a.ndim == 3 and delta.module.rpartition(".")[2] in (GATE, UP)


def patterns_note(adapter: Adapter, decoder: Decoder | None = None) -> str:
    """What a PEFT folder of this adapter says beside one alpha and one r, in a sentence; or "".

    Readers that take one alpha / r for a whole file would run it at other strengths.
    """
    deltas, _ = fuse(with_common_scales(adapter))
    config = _config(adapter, deltas, decoder)
    names = [name for name in ("rank_pattern", "alpha_pattern", "use_rslora") if config[name]]
    if not names:
        return ""
    return (
        f"its config has {' and '.join(names)}: readers that take one alpha / r for the whole file "
        "(vLLM, llama.cpp's converter) run it at another strength; --uniform writes one for all "
        "(of convert --to peft, combine, resize, extract)"
    )


def _check_target(folder: Path, replace: bool) -> None:
    if replace and folder.is_dir():
        others = sorted(file.name for file in folder.iterdir() if file.name not in OWN_FILES)
        if others:
            raise ParameterError(
                f"{folder} holds other files than a PEFT adapter and is not replaced",
                items=others[:20],
                hint="choose a new folder",
            )


def _tensors(adapter: Adapter, deltas: Sequence[Delta]) -> dict[str, Array]:
    found: dict[str, Array] = {}
    any_bias = any(delta.bias is not None for delta in deltas)
    parameters = frozenset(filter(None, map(parameter, deltas)))
    for delta in deltas:
        found |= _delta_tensors(delta, any_bias, parameters)
    for magnitude in adapter.magnitudes:
        found[f"{magnitude.module}.lora_magnitude_vector"] = magnitude.value
    adapted = {delta.module for delta in deltas}
    rows = {r.name for r in adapter.replacements if r.rows is not None}
    for replacement in adapter.replacements:
        module, _, leaf = replacement.name.rpartition(".")
        if replacement.rows is not None:
            found[f"{module}.token_adapter.trainable_tokens_delta"] = replacement.value
        elif replacement.name in rows:  # PEFT ignores it under the module's own name
            found[f"{module}.token_adapter.base_layer.{leaf}"] = replacement.value
        elif module in adapted:
            found[f"{module}.base_layer.{leaf}"] = replacement.value
        else:
            found[replacement.name] = replacement.value
    return {PREFIX + name: array for name, array in found.items()}


def _delta_tensors(delta: Delta, any_bias: bool, parameters: frozenset[str]) -> dict[str, Array]:
    module = tensor_module(delta, parameters)
    if delta.site is Site.LINEAR:
        a, b = stored(delta)
        found = {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
        if any_bias:
            zeros = np.zeros(delta.out_features, delta.b.dtype)
            found[f"{module}.lora_B.bias"] = zeros if delta.bias is None else delta.bias
        return found
    found = {f"{module}.lora_embedding_A": delta.a, f"{module}.lora_embedding_B": delta.b}
    if delta.site is Site.BOTH:  # the head holds the same factors, exchanged and transposed
        found |= {"lm_head.lora_A.weight": delta.b.T, "lm_head.lora_B.weight": delta.a.T}
    return found


def _config(adapter: Adapter, deltas: Sequence[Delta], decoder: Decoder | None) -> dict[str, Any]:
    rslora, alphas = _alphas(deltas)
    ranks = {_key(delta): delta.rank for delta in deltas}
    parameters = sorted(filter(None, map(parameter, deltas)))
    tables = [d for d in deltas if d.site is Site.BOTH]
    for table in tables:
        ranks["lm_head"], alphas["lm_head"] = table.rank, alphas[table.module]
    rank, alpha = _most_common(ranks.values()), _most_common(alphas.values())
    rows = [r for r in adapter.replacements if r.rows is not None]
    saved, biases = _saved(adapter)
    kept = _kept(adapter.metadata.get("peft"))
    if parameters:  # PEFT refuses both for bare parameters
        kept |= {"fan_in_fan_out": False, "lora_dropout": 0.0}
    elif decoder is not None:
        kept["fan_in_fan_out"] = _any_transposed(adapter, decoder)
    return {
        **kept,
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
        "target_modules": sorted(ranks.keys() - set(parameters)),
        "target_parameters": parameters or None,
        **({"peft_version": LAYOUT} if parameters else {}),
        "modules_to_save": saved or None,
        "trainable_token_indices": {
            r.name.rpartition(".")[0]: [int(row) for row in np.asarray(r.rows)] for r in rows
        }
        or None,
        "alora_invocation_tokens": list(adapter.invocation_tokens) or None,
    }


def _any_transposed(adapter: Adapter, decoder: Decoder) -> bool:
    """Whether a delta is for a Conv1D. PEFT corrects the flag itself, layer by layer, and warns."""
    shapes = decoder.modules()
    return any(name in shapes and shapes[name].transposed for name in adapter.modules)


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
    return replacement.site is None and leaf in [
        name for names in COPIED.values() for name in names
    ]


def _alphas(deltas: Sequence[Delta]) -> tuple[bool, dict[str, float]]:
    """use_rslora, and an alpha for each module that gives its scale: its own where that does."""
    for rslora in (False, True):
        if all(
            delta.alpha is not None and delta.alpha / _divisor(delta, rslora) == delta.scale
            for delta in deltas
        ):
            return rslora, {_key(d): _plain(float(d.alpha or 0.0)) for d in deltas}
    return False, {_key(delta): _plain(_alpha(delta)) for delta in deltas}


def _key(delta: Delta) -> str:
    """What PEFT matches patterns with."""
    return parameter(delta) or delta.module


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
