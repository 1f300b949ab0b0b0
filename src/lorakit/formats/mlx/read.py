"""Read an mlx-lm folder into an Adapter; every tensor is accounted for or refused."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lorakit.adapter import Adapter, Array, Delta, Magnitude, Precondition, Site, in_order
from lorakit.architectures import Decoder
from lorakit.errors import FormatError, SourceError, UnsupportedError
from lorakit.files.safetensors import open_safetensors
from lorakit.formats.folder import MAX_WEIGHTS, is_name, member, read_object
from lorakit.formats.mlx.config import CONFIG, MlxConfig, is_config, parse
from lorakit.formats.mlx.names import HEAD, LAYER, canonical, is_table, relative
from lorakit.formats.mlx.promises import missing
from lorakit.formats.names import fitted
from lorakit.formats.peft.parts import FLOATS
from lorakit.formats.peft.read import FINGERPRINT, SHOWN

WEIGHTS = "adapters.safetensors"
CHECKPOINT = re.compile(r"\d{7}_adapters\.safetensors", re.ASCII)  # weights at a training step
PARTS = (".lora_a", ".lora_b", ".m")


def is_mlx(path: Path) -> bool:
    """Whether a folder, or a checkpoint in one, is an mlx-lm adapter: its config says so."""
    folder, name = _place(path)
    if not folder.is_dir() or member(folder, name) is None:
        return False
    file = member(folder, CONFIG)
    return file is not None and is_config(read_object(file))


def _place(path: Path) -> tuple[Path, str]:
    named = CHECKPOINT.fullmatch(path.name) and not path.is_dir()
    return (path.parent, path.name) if named else (path, WEIGHTS)


def read_mlx(
    path: Path,
    decoder: Decoder | None = None,
    *,
    alpha: float | None = None,
    mlx_version: str | None = None,
) -> Adapter:
    """The adapter in an mlx-lm folder, or a checkpoint of its training (0000100_adapters...).

    decoder: the base. Needed only where an embedding is adapted and no head: mlx-lm changes both
    uses of the embedding where the head is tied to it, and the lookup alone where it is not.
    alpha: for weights without a config, whose scale is alpha / rank, by the tensors' own rank.
    mlx_version: that trained it, for the configs whose scale depends on it (see config.py).

    Raises SourceError (a file missing), FormatError (broken, or its parts contradict each other:
    every fault listed) and UnsupportedError (full fine-tunes, an embedding without a base).
    """
    folder, name = _place(path)
    wanted = (name,) if alpha is not None else (CONFIG, name)
    for each in wanted:
        if member(folder, each) is None:
            raise SourceError(f"{folder} has no {each}")
    faults: list[str] = []
    raw = {} if alpha is not None else read_object(folder / CONFIG)
    config = (
        MlxConfig(rank=None, alpha=alpha)
        if alpha is not None
        else parse(raw, path, faults, mlx_version)
    )
    file = open_safetensors(folder / name, max_size=MAX_WEIGHTS)
    _refuse_vlm(file.tensors, path)
    return _assemble(
        config, raw, file.tensors, file.metadata.get(FINGERPRINT), path, decoder, faults
    )


def _refuse_vlm(tensors: Mapping[str, Array], path: Path) -> None:
    if tensors and all(name.endswith((".A", ".B")) for name in tensors):
        raise UnsupportedError(
            f"{path} is an adapter of mlx-vlm, a library of its own for vision models",
            hint="merge it with mlx_vlm, or train the language model with mlx-lm",
        )


def _assemble(
    config: MlxConfig,
    raw: Mapping[str, Any],
    tensors: Mapping[str, Array],
    fingerprint: str | None,
    path: Path,
    decoder: Decoder | None,
    faults: list[str],
) -> Adapter:
    modules = _sort(tensors, faults)
    dora = config.dora or (config.rank is None and any(".m" in parts for parts in modules.values()))
    for name, parts in modules.items():
        faults += _faults(name, parts, config.rank, dora, config.keys)
    faults += _layer_faults(config, modules.keys() - (config.keys or frozenset()))
    if not modules and not faults:
        faults.append("no tensor at all: the adapter does nothing")
    if faults:
        more = len(faults) - SHOWN
        raise FormatError(
            f"the MLX adapter in {path} does not agree with itself",
            items=faults[:SHOWN] + ([f"and {more} more"] if more > 0 else []),
        )
    site = _site(modules, path, decoder)
    base = raw.get("model")
    adapter = Adapter(
        deltas=tuple(_deltas(modules, config, site, decoder)),
        magnitudes=tuple(
            Magnitude(module=canonical(name), value=parts[".m"])
            for name, parts in modules.items()
            if ".m" in parts
        ),
        precondition=Precondition(
            name=base if isinstance(base, str) and base else None, fingerprint=fingerprint
        ),
        metadata={"format": "mlx", "mlx": dict(raw)},
    )
    adapter = fitted(adapter, decoder)
    lacking = missing(config, frozenset(modules), adapter, decoder)
    return replace(adapter, reading=replace(adapter.reading, missing=lacking))


def _deltas(
    modules: Mapping[str, Mapping[str, Array]],
    config: MlxConfig,
    site: Site,
    decoder: Decoder | None,
) -> Iterator[Delta]:
    for name, parts in modules.items():
        module, a, b = canonical(name), parts[".lora_a"], parts[".lora_b"]
        yield Delta(
            module=module,
            a=a if a.ndim == 3 else a.T,
            b=b if b.ndim == 3 else b.T,
            scale=config.scale_of(_rank(b)),
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


def _rank(b: Array) -> int:
    """Of B: [r, out], or [E, out, r]."""
    return int(b.shape[2] if b.ndim == 3 else b.shape[0])


def _sort(tensors: Mapping[str, Array], faults: list[str]) -> dict[str, dict[str, Array]]:
    modules: dict[str, dict[str, Array]] = {}
    for name in in_order(tensors):
        array = tensors[name]
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
    module: str,
    parts: Mapping[str, Array],
    rank: int | None,
    dora: bool,
    keys: frozenset[str] | None,
) -> list[str]:
    wanted = set(PARTS if dora else PARTS[:2])
    if parts.keys() != wanted:
        return [f"{module}: has {sorted(parts)}, expected {sorted(wanted)}"]
    a, b = parts[".lora_a"], parts[".lora_b"]
    faults = []
    if b.ndim not in (2, 3) or not _fit(a, b, rank or _rank(b)):
        said = "one rank is expected" if rank is None else f"the config gives rank {rank}"
        faults.append(
            f"{module}: {said}, the tensors are lora_a {list(a.shape)} and lora_b {list(b.shape)}"
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


def _layer_faults(config: MlxConfig, modules: Collection[str]) -> list[str]:
    """mlx-lm adapts the last `num_layers` layers, and modules that `keys` names in full anywhere;
    it ignores tensors of others in silence. modules: those that are not named in full."""
    indices = {int(found[1]) for module in modules if (found := LAYER.fullmatch(module))}
    if config.indices is not None:
        beyond = sorted(indices - config.indices)
        return [f"{CONFIG}: layers does not list {beyond}, which have tensors"] if beyond else []
    span = max(indices) - min(indices) + 1 if indices else 0
    if not 0 < config.layers < span:
        return []
    return [f"{CONFIG}: {config.layers} layers, but tensors span {span}"]
