"""Read an mlx-lm folder into an Adapter; every tensor is accounted for or refused."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lorakit.adapter import Adapter, Array, Delta, Magnitude, Precondition, Site
from lorakit.architectures import Decoder
from lorakit.errors import FormatError, SourceError, UnsupportedError
from lorakit.files.safetensors import open_safetensors
from lorakit.formats.folder import MAX_WEIGHTS, is_name, member, read_object
from lorakit.formats.mlx.names import HEAD, LAYER, canonical, is_table, relative
from lorakit.formats.peft.parts import FLOATS
from lorakit.formats.peft.read import FINGERPRINT, SHOWN

CONFIG = "adapter_config.json"
WEIGHTS = "adapters.safetensors"
PARTS = (".lora_a", ".lora_b", ".m")
MAX_RANK = 1 << 16
MAX_LAYERS = 1 << 16


def is_mlx(folder: Path) -> bool:
    """Whether a folder holds an mlx-lm adapter: its config says how it was fine-tuned."""
    if not folder.is_dir() or member(folder, WEIGHTS) is None:
        return False
    file = member(folder, CONFIG)
    return file is not None and bool(
        {"fine_tune_type", "lora_parameters"} & read_object(file).keys()
    )


def read_mlx(path: Path, decoder: Decoder | None = None) -> Adapter:
    """The adapter in an mlx-lm folder.

    decoder: the base. Needed only where an embedding is adapted and no head: mlx-lm changes both
    uses of the embedding where the head is tied to it, and the lookup alone where it is not.

    Raises SourceError (a file missing), FormatError (broken, or its parts contradict each other:
    every fault listed) and UnsupportedError (full fine-tunes, an embedding without a base).
    """
    files = {name: member(path, name) for name in (CONFIG, WEIGHTS)}
    for name, found in files.items():
        if found is None:
            raise SourceError(f"{path} has no {name}")
    config = read_object(path / CONFIG)
    _require_readable(config, path)
    file = open_safetensors(path / WEIGHTS, max_size=MAX_WEIGHTS)
    return _assemble(config, file.tensors, file.metadata.get(FINGERPRINT), path, decoder)


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
    config: Mapping[str, Any],
    tensors: Mapping[str, Array],
    fingerprint: str | None,
    path: Path,
    decoder: Decoder | None,
) -> Adapter:
    faults: list[str] = []
    rank, scale, keys = _parameters(config, faults)
    dora = config.get("fine_tune_type") == "dora"
    modules = _sort(tensors, faults)
    for name, parts in modules.items():
        faults += _faults(name, parts, rank, dora, keys)
    faults += _layer_faults(config.get("num_layers", -1), modules.keys() - (keys or frozenset()))
    if not modules and not faults:
        faults.append("no tensor at all: the adapter does nothing")
    if faults:
        more = len(faults) - SHOWN
        raise FormatError(
            f"the MLX adapter in {path} does not agree with itself",
            items=faults[:SHOWN] + ([f"and {more} more"] if more > 0 else []),
        )
    site = _site(modules, path, decoder)
    base = config.get("model")
    return Adapter(
        deltas=tuple(_deltas(modules, scale, site, decoder)),
        magnitudes=tuple(
            Magnitude(module=canonical(name), value=parts[".m"])
            for name, parts in modules.items()
            if ".m" in parts
        ),
        precondition=Precondition(
            name=base if isinstance(base, str) and base else None, fingerprint=fingerprint
        ),
        metadata={"format": "mlx", "mlx": dict(config)},
    )


def _deltas(
    modules: Mapping[str, Mapping[str, Array]], scale: float, site: Site, decoder: Decoder | None
) -> Iterator[Delta]:
    for name, parts in modules.items():
        module, a, b = canonical(name), parts[".lora_a"], parts[".lora_b"]
        yield Delta(
            module=module,
            a=a if a.ndim == 3 else a.T,
            b=b if b.ndim == 3 else b.T,
            scale=scale,
            site=site if is_table(module, decoder) else Site.LINEAR,
        )


def _site(modules: Mapping[str, Mapping[str, Array]], path: Path, decoder: Decoder | None) -> Site:
    """Where the delta of an embedding acts: at both uses of a tied one, else at the lookup."""
    tables = [name for name in modules if is_table(canonical(name), decoder)]
    for name in tables:
        parts = modules[name]
        if ".m" in parts and parts[".lora_a"].shape[0] == parts[".lora_b"].shape[1]:
            raise UnsupportedError(
                f"{path}: DoRA of a square embedding, {name}, cannot be told from PEFT's"
            )
    if decoder is not None:
        return Site.BOTH if decoder.tied else Site.INPUT
    if tables and HEAD not in modules:
        raise UnsupportedError(
            f"{path} changes the embedding: which of its uses change depends on the base",
            items=tables,
            hint="name the base as well: mlx-lm changes both uses of a tied embedding, else one",
        )
    return Site.INPUT


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


def _faults(
    module: str, parts: Mapping[str, Array], rank: int, dora: bool, keys: frozenset[str] | None
) -> list[str]:
    wanted = set(PARTS if dora else PARTS[:2])
    if parts.keys() != wanted:
        return [f"{module}: has {sorted(parts)}, expected {sorted(wanted)}"]
    a, b = parts[".lora_a"], parts[".lora_b"]
    faults = []
    if not _fit(a, b, rank):
        faults.append(
            f"{module}: the config gives rank {rank}, the tensors are lora_a {list(a.shape)} "
            f"and lora_b {list(b.shape)}"
        )
    elif dora and (fault := _magnitude_fault(module, parts)):
        faults.append(fault)
    if keys is not None and not {module, relative(module)} & keys:
        faults.append(f"{module}: has LoRA tensors, but the config's keys do not name it")
    return faults


def _fit(a: Array, b: Array, rank: int) -> bool:
    """A [in, r] and B [r, out]; for experts A [E, r, in] and B [E, out, r]."""
    if a.ndim == b.ndim == 2:
        return bool(a.shape[1] == b.shape[0] == rank)
    return a.ndim == b.ndim == 3 and bool(
        a.shape[1] == b.shape[2] == rank and a.shape[0] == b.shape[0]
    )


def _magnitude_fault(module: str, parts: Mapping[str, Array]) -> str:
    """m is [out]; [vocab] for an embedding."""
    a, b, m = (parts[part] for part in (".lora_a", ".lora_b", ".m"))
    if a.ndim == 3:
        return f"{module}: DoRA of experts, which MLX lacks"
    table = is_table(canonical(module), None)
    wanted = a.shape[:1] if table else b.shape[1:]
    return "" if m.shape == wanted else f"{module}: m is {list(m.shape)}, expected {list(wanted)}"


def _layer_faults(count: object, modules: Collection[str]) -> list[str]:
    """mlx-lm adapts the last `num_layers` layers, and modules that `keys` names in full anywhere;
    it ignores tensors of others in silence. modules: those that are not named in full."""
    if not isinstance(count, int) or isinstance(count, bool) or not -1 <= count <= MAX_LAYERS:
        return [f"{CONFIG}: num_layers must be a whole number, found {count!r:.80}"]
    indices = [int(found[1]) for module in modules if (found := LAYER.fullmatch(module))]
    span = max(indices) - min(indices) + 1 if indices else 0
    return [f"{CONFIG}: {count} layers, but tensors span {span}"] if 0 < count < span else []
