"""mlx-lm adapter folders: adapters.safetensors and adapter_config.json.

mlx-lm 0.32 computes ``y = W x + scale * (x A) B`` with A [in, r] and B [r, out]; `scale` is used as
it is, there is no alpha. One rank and one scale hold for the whole file, so that the writer pads
ranks with zeros and folds scales that differ into B. Embeddings and experts are refused here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lorakit.adapter import Adapter, Array, Delta, Magnitude, Precondition, Site
from lorakit.architectures import Decoder
from lorakit.atomic import new_folder, write_synced
from lorakit.errors import FormatError, ParameterError, SourceError, UnsupportedError, WriteError
from lorakit.formats.express import (
    Fault,
    bias_fault,
    delta_fault,
    dora_faults,
    invocation_fault,
    replacement_fault,
    require_expressible,
    whole_fault,
)
from lorakit.formats.folder import MAX_WEIGHTS, is_name, member, read_object
from lorakit.formats.peft.read import FINGERPRINT, FLOATS, SHOWN
from lorakit.formats.peft.write import convert_dtype
from lorakit.tensors import open_safetensors, write_safetensors

CONFIG = "adapter_config.json"
WEIGHTS = "adapters.safetensors"
PARTS = (".lora_a", ".lora_b", ".m")
MAX_RANK = 1 << 16
MAX_LAYERS = 1 << 16
TABLES = frozenset({"embed_tokens", "wte"})  # modules that are embeddings, by the end of the name
_LAYER = re.compile(r"(?:.*\.)?(?:layers|h)\.(\d{1,9})\.(.+)")


def is_mlx(folder: Path) -> bool:
    """Whether a folder holds an mlx-lm adapter: its config says how it was fine-tuned."""
    if not folder.is_dir() or member(folder, WEIGHTS) is None:
        return False
    file = member(folder, CONFIG)
    return file is not None and bool(
        {"fine_tune_type", "lora_parameters"} & read_object(file).keys()
    )


def read_mlx(path: Path) -> Adapter:
    """The adapter in an mlx-lm folder.

    Raises SourceError (a file missing), FormatError (broken, or its parts contradict each other:
    every fault listed) and UnsupportedError (full fine-tunes, embeddings, experts).
    """
    files = {name: member(path, name) for name in (CONFIG, WEIGHTS)}
    for name, found in files.items():
        if found is None:
            raise SourceError(f"{path} has no {name}")
    config = read_object(path / CONFIG)
    _require_readable(config, path)
    file = open_safetensors(path / WEIGHTS, max_size=MAX_WEIGHTS)
    return _assemble(config, file.tensors, file.metadata.get(FINGERPRINT), path)


def _require_readable(config: Mapping[str, Any], path: Path) -> None:
    kind = config.get("fine_tune_type", "lora")
    if kind == "full":
        raise UnsupportedError(
            f"{path} is a full fine-tune: whole weights, not low-rank deltas",
            hint="fuse it into its base with mlx_lm.fuse and use that model",
        )
    if kind not in ("lora", "dora"):
        raise UnsupportedError(f"{path}: fine_tune_type {kind!r:.80} cannot be read")


def _assemble(
    config: Mapping[str, Any], tensors: Mapping[str, Array], fingerprint: str | None, path: Path
) -> Adapter:
    faults: list[str] = []
    rank, scale, keys = _parameters(config, faults)
    dora = config.get("fine_tune_type") == "dora"
    modules = _sort(tensors, faults)
    refused = [fault for name, parts in modules.items() for fault in _unsupported(name, parts)]
    if refused:
        raise UnsupportedError(f"{path} holds what cannot be read", items=refused[:SHOWN])
    for name, parts in modules.items():
        faults += _faults(name, parts, rank, dora, keys)
    faults += _layer_faults(config.get("num_layers", -1), modules)
    if not modules and not faults:
        faults.append("no tensor at all: the adapter does nothing")
    if faults:
        more = len(faults) - SHOWN
        raise FormatError(
            f"the MLX adapter in {path} does not agree with itself",
            items=faults[:SHOWN] + ([f"and {more} more"] if more > 0 else []),
        )
    base = config.get("model")
    return Adapter(
        deltas=tuple(
            Delta(module=name, a=parts[".lora_a"].T, b=parts[".lora_b"].T, scale=scale)
            for name, parts in modules.items()
        ),
        magnitudes=tuple(
            Magnitude(module=name, value=parts[".m"])
            for name, parts in modules.items()
            if ".m" in parts
        ),
        precondition=Precondition(
            name=base if isinstance(base, str) and base else None, fingerprint=fingerprint
        ),
        metadata={"format": "mlx", "mlx": dict(config)},
    )


def _parameters(
    config: Mapping[str, Any], faults: list[str]
) -> tuple[int, float, frozenset[str] | None]:
    """Rank, scale and keys; what is wrong with them goes into `faults`."""
    table = config.get("lora_parameters")
    if not isinstance(table, Mapping):
        faults.append(f"{CONFIG}: lora_parameters must be an object")
        return 0, 0.0, None
    rank, scale, keys = table.get("rank"), table.get("scale"), table.get("keys")
    if not isinstance(rank, int) or isinstance(rank, bool) or not 0 < rank <= MAX_RANK:
        faults.append(f"{CONFIG}: rank must be a whole number from 1, found {rank!r:.80}")
    if not _is_finite(scale):
        faults.append(f"{CONFIG}: scale must be a finite number, found {scale!r:.80}")
        scale = 0.0
    if keys is not None and not (isinstance(keys, list) and all(isinstance(k, str) for k in keys)):
        faults.append(f"{CONFIG}: keys must be a list of names, found {keys!r:.80}")
        keys = None
    whole = rank if isinstance(rank, int) else 0
    return whole, float(scale or 0.0), None if keys is None else frozenset(keys)


def _is_finite(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) <= float(np.finfo(np.float32).max)


def _sort(tensors: Mapping[str, Array], faults: list[str]) -> dict[str, dict[str, Array]]:
    modules: dict[str, dict[str, Array]] = {}
    for name, array in sorted(tensors.items()):
        if not is_name(name):
            faults.append(f"{name[:80]!a}: not a tensor name")
            continue
        end = next((end for end in PARTS if name.endswith(end)), "")
        module = name.removesuffix(end)
        if not end or any(p in ("", "..") or "/" in p or "\\" in p for p in module.split(".")):
            faults.append(f"{name}: not part of any LoRA layer that lorakit knows")
        elif array.dtype.name not in FLOATS or 0 in array.shape:
            faults.append(f"{name}: {array.dtype.name} {list(array.shape)}, expected some floats")
        else:
            modules.setdefault(module, {})[end] = array
    return modules


def _unsupported(module: str, parts: Mapping[str, Array]) -> list[str]:
    if module.rpartition(".")[2] in TABLES:
        return [f"{module}: an embedding; which of its uses change depends on the base"]
    if any(array.ndim == 3 for array in parts.values()):
        return [f"{module}: experts (SwitchLinear) are not read yet"]
    return []


def _faults(
    module: str, parts: Mapping[str, Array], rank: int, dora: bool, keys: frozenset[str] | None
) -> list[str]:
    wanted = set(PARTS if dora else PARTS[:2])
    if parts.keys() != wanted:
        return [f"{module}: has {sorted(parts)}, expected {sorted(wanted)}"]
    a, b = parts[".lora_a"], parts[".lora_b"]
    faults = []
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != rank or b.shape[0] != rank:
        faults.append(
            f"{module}: the config gives rank {rank}, the tensors are lora_a {list(a.shape)} "
            f"and lora_b {list(b.shape)}"
        )
    elif dora and parts[".m"].shape != b.shape[1:]:
        faults.append(f"{module}: m is {list(parts['.m'].shape)}, expected {list(b.shape[1:])}")
    if keys is not None and not {module, relative(module)} & keys:
        faults.append(f"{module}: has LoRA tensors, but the config's keys do not name it")
    return faults


def _layer_faults(count: object, modules: Mapping[str, object]) -> list[str]:
    """mlx-lm adapts the last `num_layers` layers and ignores tensors of others in silence."""
    if not isinstance(count, int) or isinstance(count, bool) or not -1 <= count <= MAX_LAYERS:
        return [f"{CONFIG}: num_layers must be a whole number, found {count!r:.80}"]
    indices = [int(found[1]) for module in modules if (found := _LAYER.fullmatch(module))]
    span = max(indices) - min(indices) + 1 if indices else 0
    return [f"{CONFIG}: {count} layers, but tensors span {span}"] if 0 < count < span else []


def relative(module: str) -> str:
    """The name of a module within its block, which is how mlx-lm's keys name it."""
    found = _LAYER.fullmatch(module)
    return found[2] if found else module


def write_mlx(adapter: Adapter, folder: Path, *, dtype: npt.DTypeLike | None = None) -> None:
    """Write an adapter so that mlx-lm computes the same; all of the folder or nothing.

    Scales that differ between modules are folded into B in float32; ranks are padded with zeros.
    Modules are named by their full paths, so that nothing depends on the base's layer count. Equal
    arguments give equal bytes. dtype: what to store A and B as; None keeps each tensor's own.

    Raises UnsupportedError listing every part that MLX cannot express, FormatError for values that
    the dtype cannot hold, ParameterError for a folder that is in use, WriteError for a full disk.
    """
    require_expressible([*cannot_express(adapter), *_doubles(adapter, dtype)], "MLX")
    scale, tensors = _tensors(adapter, dtype)
    config = json.dumps(_config(adapter, scale), indent=4, allow_nan=False).encode() + b"\n"
    print_ = adapter.precondition.fingerprint
    metadata = {"format": "mlx"} | ({FINGERPRINT: print_} if print_ else {})
    try:
        with new_folder(folder) as temporary:
            write_synced(
                temporary / WEIGHTS, lambda file: write_safetensors(file, tensors, metadata)
            )
            write_synced(temporary / CONFIG, config)
    except FileExistsError as error:
        raise ParameterError(str(error), hint="choose a new folder") from error
    except OSError as error:
        raise WriteError(f"cannot write {folder}: {error.strerror or error}") from error


def cannot_express(adapter: Adapter, decoder: Decoder | None = None) -> list[Fault]:
    """Everything that an mlx-lm adapter cannot say."""
    faults = [] if adapter.deltas else [whole_fault("no low-rank delta: MLX needs at least one")]
    for d in adapter.deltas:
        if d.site is not Site.LINEAR or d.module.rpartition(".")[2] in TABLES:
            faults.append(delta_fault(d, "an embedding (not written yet)"))
        elif d.a.ndim == 3:
            faults.append(delta_fault(d, "experts (not written yet)"))
        elif d.bias is not None:
            faults.append(bias_fault(d, "a bias of B"))
    faults += [replacement_fault(r, f"a {r.kind}") for r in adapter.replacements]
    faults += dora_faults(adapter)
    if adapter.invocation_tokens:
        faults.append(invocation_fault("MLX applies an adapter to every token"))
    return faults


def _doubles(adapter: Adapter, dtype: npt.DTypeLike | None) -> list[Fault]:
    if dtype is not None:
        return []
    names = [d.module for d in adapter.deltas if np.float64 in (d.a.dtype, d.b.dtype)]
    return [Fault(item=name, reason="float64, which MLX lacks; give a dtype") for name in names]


def _tensors(adapter: Adapter, dtype: npt.DTypeLike | None) -> tuple[float, dict[str, Array]]:
    """The scale of the file and its tensors; magnitudes stay float32, as mlx-lm keeps them."""
    scales = {delta.scale for delta in adapter.deltas}
    scale = scales.pop() if len(scales) == 1 else 1.0
    tensors: dict[str, Array] = {}
    for d in adapter.deltas:
        missing = adapter.max_rank - d.rank
        b = d.b if d.scale == scale else _folded(d)
        tensors[f"{d.module}.lora_a"] = np.pad(d.a.T, ((0, 0), (0, missing)))
        tensors[f"{d.module}.lora_b"] = np.pad(b.T, ((0, missing), (0, 0)))
    tensors = convert_dtype(tensors, dtype)
    magnitudes = {f"{m.module}.m": m.value for m in adapter.magnitudes}
    return scale, tensors | convert_dtype(magnitudes, np.float32)


def _folded(delta: Delta) -> Array:
    with np.errstate(over="ignore"):
        b = delta.b.astype(np.float32) * np.float32(delta.scale)
    if not np.isfinite(b).all() and np.isfinite(delta.b.astype(np.float32)).all():
        raise FormatError(f"{delta.module}: B times its scale {delta.scale} is too large")
    return b


def _config(adapter: Adapter, scale: float) -> dict[str, Any]:
    return {
        "fine_tune_type": "dora" if adapter.magnitudes else "lora",
        "model": adapter.precondition.name,
        "num_layers": -1,
        "lora_parameters": {
            "rank": adapter.max_rank,
            "scale": scale,
            "dropout": 0.0,
            "keys": sorted(adapter.modules),
        },
    }
