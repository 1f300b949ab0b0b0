"""Read a PEFT adapter folder into an Adapter; every tensor is accounted for or refused.

Arrays are mapped from the file, not copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lorakit.adapter import (
    Adapter,
    Array,
    Delta,
    Magnitude,
    Precondition,
    Reading,
    Replacement,
    Site,
    in_order,
)
from lorakit.architectures import Decoder
from lorakit.errors import FormatError, LorakitError, SourceError, UnsupportedError
from lorakit.files.safetensors import open_safetensors
from lorakit.formats.folder import MAX_WEIGHTS, member, read_object
from lorakit.formats.names import fitted
from lorakit.formats.pattern_parser import PatternError
from lorakit.formats.peft.config import LoraConfig, Resolver, parse
from lorakit.formats.peft.expert_order import version_of_card
from lorakit.formats.peft.experts import read_experts
from lorakit.formats.peft.initial import find_initial, since_initial
from lorakit.formats.peft.parts import Parts, sort
from lorakit.formats.peft.pickled import PICKLE, read_pickle, refuse_pickle
from lorakit.formats.peft.promises import is_saved, missing, remarks

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PLAIN = {"init_lora_weights": True}
FINGERPRINT = "lorakit.base_fingerprint"  # in the weights' metadata, written by lorakit
SHOWN = 20  # faults named in one error


def read_peft(
    path: Path,
    decoder: Decoder | None = None,
    *,
    allow_pickle: bool = False,
    init: Path | None = None,
    alpha: float | None = None,
    name: str | None = None,
    mend: bool = False,
) -> Adapter:
    """The adapter in a PEFT folder.

    decoder: the base, which says how many experts it has where a file names only some of them, what
    a module is called there, and which modules a config promises.
    allow_pickle: read adapter_model.bin where there are no safetensors; needs torch.
    init: the initial adapter of PiSSA, OLoRA, CorDA or LoRA-GA, with which it becomes a plain one.
    alpha: for weights without a config; the rank of each module is that of its tensors.
    name: which adapter is meant, where the file holds several. mend: read names that PEFT cut.

    Raises SourceError (no such folder, a file missing), FormatError (broken, or its parts
    contradict each other: every fault listed) and UnsupportedError (beyond an Adapter).
    """
    options = _Options(decoder=decoder, allow_pickle=allow_pickle, name=name, mend=mend)
    if alpha is not None:
        return _read(path, None, options, alpha)
    raw = read_object(_config_file(path))
    initial = find_initial(path, raw, init)
    if initial is None:
        return _read(path, raw, options)
    trained = _read(path, raw | PLAIN, options)
    start = read_object(_config_file(initial)) | PLAIN
    return since_initial(trained, _read(initial, start, options), path)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """As in `read_peft`."""

    decoder: Decoder | None = None
    allow_pickle: bool = False
    name: str | None = None
    mend: bool = False


def _read(
    path: Path, raw: Mapping[str, Any] | None, options: _Options, alpha: float | None = None
) -> Adapter:
    # first: why it is refused matters more than broken weights
    config = None if raw is None else parse(raw, where=str(path))
    weights = _weights_file(path, options.allow_pickle)
    tensors: Mapping[str, Array]
    metadata: Mapping[str, str]
    if weights.name == PICKLE:
        tensors, metadata = read_pickle(weights), {}
    else:
        file = open_safetensors(weights, max_size=MAX_WEIGHTS)
        tensors, metadata = file.tensors, file.metadata
    parts = sort(tensors, where=str(path), name=options.name, mend=options.mend)
    config = config or parse(config_of(parts, alpha or 0.0), where=str(path))
    if config.target_parameters:
        parts.written_by = version_of_card(path)
    return _assembled(config, parts, metadata, options.decoder)


def assemble(
    raw: Mapping[str, Any],
    tensors: Mapping[str, Array],
    metadata: Mapping[str, str],
    *,
    where: str,
    decoder: Decoder | None = None,
) -> Adapter:
    """The adapter that a config and tensors describe; errors as in `read_peft`."""
    parts = sort(tensors, where=where)
    return _assembled(parse(raw, where=where), parts, metadata, decoder)


def _assembled(
    config: LoraConfig, parts: Parts, metadata: Mapping[str, str], decoder: Decoder | None
) -> Adapter:
    where = parts.where
    try:
        adapter = _build(config, parts, metadata, decoder)
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


def config_of(parts: Parts, alpha: float) -> dict[str, Any]:
    """A config for tensors that have none: alpha as given, ranks as they are."""
    ranks = {name: len(a) for name, a in {**parts.of("a"), **parts.of("embedding a")}.items()}
    return {
        "peft_type": "LORA",
        "r": max(ranks.values(), default=1),
        "lora_alpha": alpha,
        "rank_pattern": {f"^{name}": rank for name, rank in ranks.items()},
        "modules_to_save": [m for m in parts.of("saved weight") if not m.endswith(_VOCABULARY)],
        "use_dora": bool(parts.of("magnitude")),
        "lora_bias": bool(parts.of("bias")),
    }


def _config_file(path: Path) -> Path:
    if not path.is_dir():
        raise SourceError(f"there is no PEFT adapter folder at {path}")
    file = member(path, CONFIG)
    if file is not None:
        return file
    raise SourceError(f"{path} has no {CONFIG}")


def _weights_file(path: Path, allow_pickle: bool) -> Path:
    file = member(path, WEIGHTS)
    if file is not None:
        return file
    pickle = member(path, PICKLE)
    if pickle is None and member(path, f"{WEIGHTS}.index.json") is not None:
        raise UnsupportedError(
            f"{path} holds an adapter in several files, which PEFT does not load either",
            hint=f"put all tensors into one {WEIGHTS}: safetensors' load_file and save_file",
        )
    if pickle is None:
        raise SourceError(f"{path} has {CONFIG} but no {WEIGHTS}")
    if not allow_pickle:
        raise refuse_pickle(path)
    return pickle


def _build(
    config: LoraConfig, parts: Parts, metadata: Mapping[str, str], decoder: Decoder | None
) -> Adapter | None:
    resolver = Resolver(config)
    experts = read_experts(config, resolver, parts, metadata, decoder)
    linear = _pairs(parts, "a", "b", Site.LINEAR, resolver)
    embedding = _pairs(parts, "embedding a", "embedding b", Site.INPUT, resolver)
    _check_targets(config, resolver, [*linear, *embedding], parts)
    _check_rows([*linear, *embedding], parts)
    replacements = [*_replacements(config, resolver, parts), *_rows(config, parts)]
    magnitudes = [Magnitude(module=m, value=v) for m, v in parts.of("magnitude").items()]
    _check_dora(config, {d.module for d in (*linear, *embedding)}, magnitudes, parts)
    if not (linear or embedding or experts or replacements or parts.faults):
        parts.faults.append("no tensor at all: the adapter does nothing")
    _check_saved(config, parts)
    if parts.faults:
        return None
    try:
        adapter = Adapter(
            deltas=(*_tie([*linear, *embedding], parts), *experts),
            replacements=tuple(replacements),
            magnitudes=tuple(magnitudes),
            invocation_tokens=config.invocation_tokens,
            precondition=Precondition(
                name=_base_name(config), fingerprint=metadata.get(FINGERPRINT)
            ),
            metadata={"format": "peft", "peft": dict(config.raw)},
        )
    except LorakitError as error:
        parts.faults += [error.message, *error.items]
        return None
    adapter = fitted(adapter, decoder)
    reading = Reading(
        missing=missing(config, resolver, adapter, decoder),
        notes=(*resolver.notes, *remarks(config, resolver, adapter, decoder)),
        renamed=(*parts.renamed, *adapter.reading.renamed),
    )
    return replace(adapter, reading=reading)


def _check_saved(config: LoraConfig, parts: Parts) -> None:
    """A whole weight is of a module that the config says is saved, or of the vocabulary."""
    for module in parts.of("saved weight"):
        kept = module.endswith(_VOCABULARY)
        if not kept and not any(is_saved(module, name) for name in config.modules_to_save):
            parts.faults.append(
                f"{module}.weight: neither part of a LoRA layer nor in the config's modules_to_save"
            )
    for name in parts.of("saved parameter"):
        if not any(is_saved(name, saved) for saved in config.modules_to_save):
            parts.faults.append(f"{name}: not in the config's modules_to_save")


def _pairs(parts: Parts, a: str, b: str, site: Site, resolver: Resolver) -> list[Delta]:
    tops, bottoms, biases = parts.of(a), parts.of(b), parts.of("bias")
    for module in in_order(tops.keys() ^ bottoms.keys()):
        have, lack = ("A", "B") if module in tops else ("B", "A")
        parts.faults.append(f"{module}: has lora_{have} but no lora_{lack}")
    if site is Site.LINEAR:
        orphans = in_order(biases.keys() - (tops.keys() & bottoms.keys()))
        parts.faults += [f"{module}: has a bias of lora_B but no pair" for module in orphans]
    deltas = []
    for module in in_order(tops.keys() & bottoms.keys()):
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
    config: LoraConfig, resolver: Resolver, deltas: list[Delta], parts: Parts
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
    config: LoraConfig, adapted: set[str], magnitudes: list[Magnitude], parts: Parts
) -> None:
    have = {magnitude.module for magnitude in magnitudes}
    if have and not config.use_dora:
        parts.faults.append("there are DoRA magnitudes, but the config has use_dora = false")
    alone = in_order(have - adapted)
    parts.faults += [f"{m}: a DoRA magnitude without LoRA tensors" for m in alone]
    if config.use_dora:
        lack = in_order(adapted - have)
        parts.faults += [f"{m}: use_dora = true, but it has no magnitude" for m in lack]


def _replacements(config: LoraConfig, resolver: Resolver, parts: Parts) -> list[Replacement]:
    """Full tensors. A saved module is a copy of the module, so that a saved embedding does not
    reach a tied head; everything else is assigned to the parameter itself, wherever it is used."""
    tied = bool(config.raw.get("ensure_weight_tying"))
    vocabulary = [m for m in parts.of("saved weight") if m.endswith(_VOCABULARY)]
    apart = any(resolver.saved(m) for m in vocabulary)  # then the other one is no partner of it
    found = []
    for kind in ("base weight", "base bias", "saved weight", "saved bias"):
        for module, value in parts.of(kind).items():
            saved = tied or resolver.saved(module) or (apart and module in vocabulary)
            copied = kind.startswith("saved") and saved
            site = _COPIES.get(module.rpartition(".")[2]) if copied else None
            name = f"{module}.{kind.rpartition(' ')[2]}"
            found.append(Replacement(name=name, value=value, site=site))
    bare = parts.of("saved parameter").items()
    return [*found, *(Replacement(name=name, value=value) for name, value in bare)]


_COPIES = {"embed_tokens": Site.INPUT, "wte": Site.INPUT, "lm_head": Site.OUTPUT}
TABLES = ("embed_tokens", "wte")  # token embeddings, by the end of the name
_VOCABULARY = (*TABLES, "lm_head")


def _rows(config: LoraConfig, parts: Parts) -> list[Replacement]:
    found = []
    for module, value in parts.of("rows").items():
        named = [ids for name, ids in config.token_indices.items() if _same(module, name)]
        if not named and module.endswith(_VOCABULARY):  # a list names none; a head that was tied
            named = [ids for name, ids in config.token_indices.items() if name.endswith(TABLES)]
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


def _check_rows(deltas: list[Delta], parts: Parts) -> None:
    both = in_order({delta.module for delta in deltas} & parts.of("rows").keys())
    parts.faults += [f"{module}: replaced rows and LoRA on one module" for module in both]


def _same(module: str, name: str) -> bool:
    return module == name or module.endswith(f".{name}")


def _tie(deltas: list[Delta], parts: Parts) -> list[Delta]:
    """An embedding whose head holds the same factors, exchanged and transposed, is one delta that
    acts on both sides; so that it equals the same adapter from a format that can only say that."""
    heads = {d.module: d for d in deltas if d.module.rpartition(".")[2] == "lm_head"}
    tables = [d for d in deltas if d.site is Site.INPUT and d.module.endswith(TABLES)]
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
