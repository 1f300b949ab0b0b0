"""Read a PEFT adapter folder into an Adapter; every tensor is accounted for or refused.

Tensor names are ``base_model.model.<module>.<suffix>``; the suffixes are those that peft 0.21
writes (peft/utils/save_and_load.py). Arrays are mapped from the file, not copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lorakit.adapter import Adapter, Array, Delta, Magnitude, Precondition, Replacement, Site
from lorakit.errors import FormatError, LorakitError, SourceError, UnsupportedError
from lorakit.formats.folder import MAX_WEIGHTS, is_name, member, read_object
from lorakit.formats.patterns import PatternError
from lorakit.formats.peft.config import LoraConfig, Resolver, parse
from lorakit.tensors import open_safetensors

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
PREFIX = "base_model.model."
FINGERPRINT = "lorakit.base_fingerprint"  # in the weights' metadata, written by lorakit
SHOWN = 20  # faults named in one error

# What a tensor is, by the end of its name; the first that fits counts.
PARTS = {
    ".lora_A.weight": "a",
    ".lora_A.default.weight": "a",
    ".lora_B.weight": "b",
    ".lora_B.default.weight": "b",
    ".lora_B.bias": "bias",
    ".lora_B.default.bias": "bias",
    ".lora_embedding_A": "embedding a",
    ".lora_embedding_A.default": "embedding a",
    ".lora_embedding_B": "embedding b",
    ".lora_embedding_B.default": "embedding b",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
    ".lora_magnitude_vector.default.weight": "magnitude",
    ".token_adapter.trainable_tokens_delta": "rows",
    ".token_adapter.trainable_tokens_delta.default": "rows",
    ".base_layer.weight": "base weight",
    ".base_layer.bias": "base bias",
    ".modules_to_save.weight": "saved weight",
    ".modules_to_save.bias": "saved bias",
    ".modules_to_save.default.weight": "saved weight",
    ".modules_to_save.default.bias": "saved bias",
}
UNREADABLE = {
    ".lora_diag": "KaSA's diagonal",
    ".lora_E": "AdaLoRA's singular values",
    ".lora_ranknum": "AdaLoRA's rank",
}
FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})


def read_peft(path: Path) -> Adapter:
    """The adapter in a PEFT folder.

    Raises SourceError (no such folder, a file missing), FormatError (broken, or its parts
    contradict each other: every fault listed) and UnsupportedError (beyond an Adapter).
    """
    raw = read_object(_config_file(path))
    weights = _weights_file(path)
    parse(raw, where=str(path))  # first: why it is refused matters more than broken weights
    file = open_safetensors(weights, max_size=MAX_WEIGHTS)
    return assemble(raw, file.tensors, file.metadata, where=str(path))


def assemble(
    raw: Mapping[str, Any],
    tensors: Mapping[str, Array],
    metadata: Mapping[str, str],
    *,
    where: str,
) -> Adapter:
    """The adapter that a config and tensors describe; errors as in `read_peft`."""
    parts = _sort(tensors)
    try:
        adapter = _build(parse(raw, where=where), parts, metadata.get(FINGERPRINT))
    except PatternError as error:
        raise UnsupportedError(
            f"{where}: {CONFIG} has a pattern for module names that cannot be used: {error}"
        ) from error
    if adapter is None:
        more = len(parts.faults) - SHOWN
        raise FormatError(
            f"the PEFT adapter in {where} does not agree with itself",
            items=parts.faults[:SHOWN] + ([f"and {more} more"] if more > 0 else []),
            hint="save it again with PEFT's save_pretrained",
        )
    return adapter


def _config_file(path: Path) -> Path:
    if not path.is_dir():
        raise SourceError(f"there is no PEFT adapter folder at {path}")
    file = member(path, CONFIG)
    if file is not None:
        return file
    raise SourceError(f"{path} has no {CONFIG}")


def _weights_file(path: Path) -> Path:
    file = member(path, WEIGHTS)
    if file is not None:
        return file
    if (path / PICKLE).exists():
        raise UnsupportedError(
            f"{path} holds {PICKLE}: a pickle can run code when it is opened, so it is not read",
            hint="load it with PEFT where you trust it and save it again: it writes safetensors",
        )
    raise SourceError(f"{path} has {CONFIG} but no {WEIGHTS}")


@dataclass(slots=True)
class _Parts:
    """Tensors by what they are and the module they belong to."""

    by_kind: dict[str, dict[str, Array]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def of(self, kind: str) -> Mapping[str, Array]:
        return self.by_kind.get(kind, {})

    def put(self, kind: str, module: str, key: str, array: Array) -> None:
        if module in self.by_kind.setdefault(kind, {}):
            self.faults.append(f"{key}: a second tensor for the same part of {module}")
        self.by_kind[kind][module] = array


def _sort(tensors: Mapping[str, Array]) -> _Parts:
    parts = _Parts()
    for key, array in tensors.items():
        if not is_name(key):
            parts.faults.append(f"{key[:80]!a}: not a tensor name")
            continue
        kind, module = _classify(key.removeprefix(PREFIX))
        fault = _fault(kind, module, array)
        if fault:
            parts.faults.append(f"{key}: {fault}")
        else:
            parts.put(kind, module, key, array)
    return parts


def _classify(name: str) -> tuple[str, str]:
    """What a tensor is and its module, or ("", reason) for one that cannot be read."""
    for end, kind in PARTS.items():
        if name.endswith(end) and len(name) > len(end):
            return kind, name[: -len(end)]
    for end, reason in UNREADABLE.items():
        if end in name:
            return "", f"{reason} cannot be read"
    if ".lora_" in name or ".base_layer." in name:
        return "", "a part that lorakit does not know"
    for end, kind in ((".weight", "saved weight"), (".bias", "saved bias")):
        if name.endswith(end) and len(name) > len(end):
            return kind, name[: -len(end)]
    return "", "not part of any LoRA layer that lorakit knows"


def _fault(kind: str, module: str, array: Array) -> str:
    if not kind:
        return module
    if any(part in ("", "..") or "/" in part or "\\" in part for part in module.split(".")):
        return "not a module name"
    if array.dtype.name not in FLOATS:
        return f"dtype {array.dtype.name} where floating point is expected"
    if 0 in array.shape:
        return f"an empty tensor {list(array.shape)}; sharded weights that were not gathered?"
    dims = 1 if kind in ("bias", "magnitude", "base bias", "saved bias") else 2
    if array.ndim != dims and not kind.endswith(" weight"):
        return f"expected {dims} dimensions, found {list(array.shape)}"
    return ""


def _build(config: LoraConfig, parts: _Parts, fingerprint: str | None) -> Adapter | None:
    resolver = Resolver(config)
    linear = _pairs(parts, "a", "b", Site.LINEAR, resolver)
    embedding = _pairs(parts, "embedding a", "embedding b", Site.INPUT, resolver)
    _check_targets(config, resolver, [*linear, *embedding], parts)
    _check_rows([*linear, *embedding], parts)
    replacements = [*_replacements(config, resolver, parts), *_rows(config, parts)]
    magnitudes = [Magnitude(module=m, value=v) for m, v in parts.of("magnitude").items()]
    _check_dora(config, {d.module for d in (*linear, *embedding)}, magnitudes, parts)
    if not (linear or embedding or replacements or parts.faults):
        parts.faults.append("no tensor at all: the adapter does nothing")
    if parts.faults:
        return None
    try:
        return Adapter(
            deltas=tuple(_tie([*linear, *embedding], parts)),
            replacements=tuple(replacements),
            magnitudes=tuple(magnitudes),
            invocation_tokens=config.invocation_tokens,
            precondition=Precondition(name=_base_name(config), fingerprint=fingerprint),
            metadata={"format": "peft", "peft": dict(config.raw)},
        )
    except LorakitError as error:
        parts.faults += [error.message, *error.items]
        return None


def _pairs(parts: _Parts, a: str, b: str, site: Site, resolver: Resolver) -> list[Delta]:
    tops, bottoms, biases = parts.of(a), parts.of(b), parts.of("bias")
    for module in sorted(tops.keys() ^ bottoms.keys()):
        have, lack = ("A", "B") if module in tops else ("B", "A")
        parts.faults.append(f"{module}: has lora_{have} but no lora_{lack}")
    if site is Site.LINEAR:
        orphans = sorted(biases.keys() - (tops.keys() & bottoms.keys()))
        parts.faults += [f"{module}: has a bias of lora_B but no pair" for module in orphans]
    deltas = []
    for module in sorted(tops.keys() & bottoms.keys()):
        rank, found = resolver.rank(module), (tops[module].shape[0], bottoms[module].shape[1])
        if found != (rank, rank):
            parts.faults.append(
                f"{module}: the config gives rank {rank}, the tensors are "
                f"A {list(tops[module].shape)} and B {list(bottoms[module].shape)}"
            )
            continue
        bias = biases.get(module) if site is Site.LINEAR else None
        if bias is not None and not np.any(bias):
            bias = None  # PEFT gives every layer one where any layer has one
        if bias is not None and bias.shape != bottoms[module].shape[:1]:
            parts.faults.append(f"{module}: the bias of lora_B is {list(bias.shape)}")
            continue
        deltas.append(
            Delta(
                module=module,
                a=tops[module],
                b=bottoms[module],
                scale=resolver.scale(module),
                site=site,
                bias=bias,
                alpha=resolver.alpha(module),
            )
        )
    return deltas


def _check_targets(
    config: LoraConfig, resolver: Resolver, deltas: list[Delta], parts: _Parts
) -> None:
    """PEFT ignores, in silence, tensors of modules that its config does not target."""
    tied = bool(config.raw.get("ensure_weight_tying")) and bool(parts.of("embedding a"))
    for delta in deltas:
        follows = tied and delta.module.rpartition(".")[2] == "lm_head"  # the embedding's partner
        if not follows and not resolver.targeted(delta.module):
            parts.faults.append(
                f"{delta.module}: has LoRA tensors, but the config does not target it"
            )


def _check_dora(
    config: LoraConfig, adapted: set[str], magnitudes: list[Magnitude], parts: _Parts
) -> None:
    have = {magnitude.module for magnitude in magnitudes}
    if have and not config.use_dora:
        parts.faults.append("there are DoRA magnitudes, but the config has use_dora = false")
    parts.faults += [f"{m}: a DoRA magnitude without LoRA tensors" for m in sorted(have - adapted)]
    if config.use_dora:
        lack = sorted(adapted - have)
        parts.faults += [f"{m}: use_dora = true, but it has no magnitude" for m in lack]


def _replacements(config: LoraConfig, resolver: Resolver, parts: _Parts) -> list[Replacement]:
    """Full tensors. A saved module is a copy of the module, so that a saved embedding does not
    reach a tied head; everything else is assigned to the parameter itself, wherever it is used."""
    tied = bool(config.raw.get("ensure_weight_tying"))
    found = []
    for kind in ("base weight", "base bias", "saved weight", "saved bias"):
        for module, value in parts.of(kind).items():
            copied = kind.startswith("saved") and (tied or resolver.saved(module))
            site = _COPIES.get(module.rpartition(".")[2]) if copied else None
            name = f"{module}.{kind.rpartition(' ')[2]}"
            found.append(Replacement(name=name, value=value, site=site))
    return found


_COPIES = {"embed_tokens": Site.INPUT, "lm_head": Site.OUTPUT}


def _rows(config: LoraConfig, parts: _Parts) -> list[Replacement]:
    found = []
    for module, value in parts.of("rows").items():
        named = [ids for name, ids in config.token_indices.items() if _same(module, name)]
        if len(named) != 1 or len(named[0]) != len(value) or len(set(named[0])) != len(value):
            listed = ", ".join(f"{k}: {len(v)} ids" for k, v in config.token_indices.items())
            parts.faults.append(
                f"{module}: {len(value)} replaced rows, but trainable_token_indices has "
                f"{listed or 'nothing'}; each row needs one id"
            )
            continue
        rows = np.asarray(named[0], np.int64)
        order = np.argsort(rows)
        in_order = bool((order == np.arange(len(order))).all())
        value = value if in_order else value[order]
        found.append(Replacement(name=f"{module}.weight", value=value, rows=rows[order]))
    return found


def _check_rows(deltas: list[Delta], parts: _Parts) -> None:
    both = sorted({delta.module for delta in deltas} & parts.of("rows").keys())
    parts.faults += [f"{module}: replaced rows and LoRA on one module" for module in both]


def _same(module: str, name: str) -> bool:
    return module == name or module.endswith(f".{name}")


def _tie(deltas: list[Delta], parts: _Parts) -> list[Delta]:
    """An embedding whose head holds the same factors, exchanged and transposed, is one delta that
    acts on both sides; so that it equals the same adapter from a format that can only say that."""
    heads = {d.module: d for d in deltas if d.module.rpartition(".")[2] == "lm_head"}
    tables = [d for d in deltas if d.site is Site.INPUT and d.module.endswith("embed_tokens")]
    if len(heads) != 1 or len(tables) != 1 or parts.of("magnitude"):
        return deltas
    (head,), (table,) = heads.values(), tables
    same = (
        head.scale == table.scale
        and head.bias is None
        and np.array_equal(head.a, table.b.T)
        and np.array_equal(head.b, table.a.T)
    )
    if not same:
        return deltas
    both = Delta(
        module=table.module,
        a=table.a,
        b=table.b,
        scale=table.scale,
        site=Site.BOTH,
        alpha=table.alpha,
    )
    return [d for d in deltas if d is not head and d is not table] + [both]


def _base_name(config: LoraConfig) -> str | None:
    name = config.raw.get("base_model_name_or_path")
    return name if isinstance(name, str) and name else None
