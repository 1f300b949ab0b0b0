"""Experts in PEFT's files: bare parameters (`target_parameters`), and a layer per expert before.

transformers 5 keeps the experts of a layer in two parameters, `gate_up_proj` [E, 2 I, H] (the rows
of gate, then those of up) and `down_proj` [E, H, I]. PEFT's ParamWrapper (tuners/lora/layer.py)
stores A as [E r, in], expert by expert, and B as [out, r E], rank by rank. Two parameters of one
module are told apart by nesting alone: the second, down_proj, wraps the first, gate_up_proj, whose
tensors are those of `<module>.base_layer`. Before PEFT 0.19 in and out were exchanged. transformers
4 had a linear layer for each expert, `experts.<K>.gate_proj`.

gate_up_proj is read as gate_proj and up_proj. Its factors may be the two side by side, with two
blocks in B: PEFT makes such files of a layer per expert, and lorakit writes them where gate and up
do not share A. Then they are read as the two that they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from lorakit.adapter import Adapter, Array, Delta, in_order
from lorakit.architectures import Decoder
from lorakit.errors import FormatError
from lorakit.formats.peft.config import LoraConfig, Resolver
from lorakit.formats.peft.expert_order import is_flipped
from lorakit.formats.peft.parts import Parts

GATE, UP, FUSED, DOWN = "gate_proj", "up_proj", "gate_up_proj", "down_proj"
NESTED = ".base_layer"
EXPERTS = ".experts"  # the module whose parameters these are
ROUTER = ".mlp.gate"  # a parameter `weight` [E, hidden] in transformers 5, no linear layer
RANKS = "lorakit.gate_up_ranks"  # in the weights' metadata: {module: [rank of gate, of up]}
MAX_EXPERTS = 4096
_EXPERT = re.compile(r"(.+\.experts)\.(0|[1-9]\d{0,3})\.(gate_proj|up_proj|down_proj)", re.ASCII)


def read_experts(
    config: LoraConfig,
    resolver: Resolver,
    parts: Parts,
    metadata: Mapping[str, str],
    decoder: Decoder | None,
) -> list[Delta]:
    """Every delta of experts and of bare parameters; their tensors are taken out of `parts`.

    What contradicts itself goes into `parts.faults`.
    """
    ranks = _recorded_ranks(metadata, parts)
    deltas: list[Delta] = []
    for delta in _parameters(config, resolver, parts, decoder):
        deltas += _split(delta, ranks, parts)
    counts: dict[str, set[int]] = {}
    for delta in deltas:
        if delta.a.ndim == 3:
            counts.setdefault(delta.module.rpartition(".")[0], set()).add(len(delta.a))
    parts.faults += [
        f"{module}: not all of its parameters have as many experts, but {sorted(found)}"
        for module, found in counts.items()
        if len(found) > 1
    ]
    return [*deltas, *_stacked(resolver, parts, decoder)]


def _parameters(
    config: LoraConfig, resolver: Resolver, parts: Parts, decoder: Decoder | None
) -> Iterator[Delta]:
    """One delta for each bare parameter that the config names."""
    if not config.target_parameters:
        return
    flipped = config.experts_flipped
    names = {name: _outermost(name) for name in (*parts.of("a"), *parts.of("b"))}
    if not any(
        resolver.targeted_parameter(f"{module}.{leaf}")
        for module in names.values()
        for leaf in ("weight", FUSED, DOWN)
    ):
        parts.faults.append("there are no tensors of the config's target_parameters")
    for module in in_order(set(names.values())):
        if resolver.targeted_parameter(f"{module}.weight"):
            pair = parts.take(module)
            if pair is not None:
                yield from _pair(f"{module}.weight", pair, resolver, parts, flipped=None)
            continue
        if not module.endswith(EXPERTS):
            continue  # all-linear targets gate_up_proj by its last step, which names any module's
        wanted = [p for p in (FUSED, DOWN) if resolver.targeted_parameter(f"{module}.{p}")]
        if flipped is None:
            nested = {p: module + NESTED * at for at, p in enumerate(reversed(wanted))}
            flipped = is_flipped(nested.get(FUSED), nested.get(DOWN), parts, decoder, config.raw)
        for depth, parameter in enumerate(reversed(wanted)):
            pair = parts.take(module + NESTED * depth)
            if pair is None:
                parts.faults.append(f"{module}.{parameter}: the config targets it, but has no pair")
            else:
                name = f"{module}.{parameter}"
                yield from _pair(name, pair, resolver, parts, flipped=flipped)


def _outermost(name: str) -> str:
    while name.endswith(NESTED):
        name = name.removesuffix(NESTED)
    return name


def _pair(
    name: str,
    pair: tuple[Array, Array],
    resolver: Resolver,
    parts: Parts,
    *,
    flipped: bool | None,
) -> Iterator[Delta]:
    """flipped: None for a matrix without experts."""
    (a, b), rank = pair, resolver.rank(name)
    experts, rest = divmod(a.shape[0], rank)
    if rest or b.shape[1] != a.shape[0] or not 0 < experts <= MAX_EXPERTS:
        parts.faults.append(
            f"{name}: the config gives rank {rank}, the tensors are A {list(a.shape)} and "
            f"B {list(b.shape)}"
        )
        return
    if flipped is None:
        if experts != 1:
            parts.faults.append(f"{name}: factors of {experts} experts for one matrix")
            return
        name = name.removesuffix(".weight")
    else:
        a = a.reshape(experts, rank, -1)
        b = b.reshape(-1, rank, experts).transpose(2, 0, 1)
        if flipped:
            a, b = b.transpose(0, 2, 1), a.transpose(0, 2, 1)
    key = name if flipped is not None else f"{name}.weight"
    yield Delta(module=name, a=a, b=b, scale=resolver.scale(key), alpha=resolver.alpha(key))


def _split(delta: Delta, ranks: Mapping[str, tuple[int, int]], parts: Parts) -> list[Delta]:
    """gate_proj and up_proj of a fused delta; any other delta as it is."""
    module, _, parameter = delta.module.rpartition(".")
    if parameter != FUSED:
        return [delta]
    if delta.out_features % 2:
        parts.faults.append(f"{delta.module}: {delta.out_features} rows are no two halves")
        return []
    half = delta.out_features // 2
    gate, up = delta.b[:, :half], delta.b[:, half:]
    first, second = ranks.get(module) or _blocks(gate, up)
    fits = max(first, second) <= delta.rank and first + second >= delta.rank
    shared = first == second == delta.rank
    if not fits or not (shared or (_zero(gate[..., first:]) and _zero(up[..., : -second or None]))):
        parts.faults.append(f"{delta.module}: its factors are not those of gate and up apart")
        return []
    found = []
    if first:
        a, b = delta.a[:, :first], gate[..., :first]
        found.append(replace(delta, module=f"{module}.{GATE}", a=a, b=b))
    if second:
        a, b = delta.a[:, -second:], up[..., -second:]
        found.append(replace(delta, module=f"{module}.{UP}", a=a, b=b))
    return found


def _blocks(gate: Array, up: Array) -> tuple[int, int]:
    """The ranks of gate and up that a B of two blocks shows, else the whole rank for both."""
    rank = gate.shape[-1]
    if _zero(gate) != _zero(up):
        return (0, rank) if _zero(gate) else (rank, 0)
    half, rest = divmod(rank, 2)
    apart = not rest and not _zero(gate) and _zero(gate[..., half:]) and _zero(up[..., :half])
    return (half, half) if apart else (rank, rank)


def _zero(array: Array) -> bool:
    return not np.any(array)


def _recorded_ranks(metadata: Mapping[str, str], parts: Parts) -> dict[str, tuple[int, int]]:
    text = metadata.get(RANKS)
    if text is None:
        return {}
    try:
        table = json.loads(text)
        pairs = {name: (first, second) for name, (first, second) in table.items()}
        valid = all(type(n) is int and n >= 0 for pair in pairs.values() for n in pair)
    except (ValueError, TypeError, AttributeError, RecursionError):
        pairs, valid = {}, False
    if not valid:
        parts.faults.append(f"the metadata {RANKS} is damaged")
    return pairs if valid else {}


def _stacked(resolver: Resolver, parts: Parts, decoder: Decoder | None) -> Iterator[Delta]:
    """Layers of single experts as one delta for each projection: ranks padded with zeros, zeros
    for experts that have no layer, scales that differ folded into B in float32."""
    found: dict[str, dict[int, str]] = {}
    for name in parts.of("a").keys() | parts.of("b").keys():
        if match := _EXPERT.fullmatch(name):
            found.setdefault(f"{match[1]}.{match[3]}", {})[int(match[2])] = name
    most = max((index for layers in found.values() for index in layers), default=-1) + 1
    for module in in_order(found):  # of names there are as many as experts
        layers = {index: found[module][index] for index in sorted(found[module])}
        shape = decoder.modules().get(module) if decoder else None
        experts = max(most, shape.experts or 0) if shape else most
        pairs = {index: _expert(name, resolver, parts) for index, name in layers.items()}
        deltas = {index: pair for index, pair in pairs.items() if pair is not None}
        if len(deltas) == len(pairs):
            yield from _stack(module, deltas, experts, parts)


def _expert(name: str, resolver: Resolver, parts: Parts) -> Delta | None:
    faults = [
        f"{name}: {what} of a single expert cannot be read"
        for kind, what in (("magnitude", "DoRA"), ("bias", "a bias of B"))
        if (part := parts.by_kind.get(kind, {}).pop(name, None)) is not None and np.any(part)
    ]
    if not resolver.targeted(name):
        faults.append(f"{name}: has LoRA tensors, but the config does not target it")
    pair, rank = parts.take(name), resolver.rank(name)
    if pair is None:
        faults.append(f"{name}: has only one of lora_A and lora_B")
    elif (pair[0].shape[0], pair[1].shape[1]) != (rank, rank):
        faults.append(
            f"{name}: the config gives rank {rank}, the tensors are A {list(pair[0].shape)} and "
            f"B {list(pair[1].shape)}"
        )
    parts.faults += faults
    if faults or pair is None:
        return None
    a, b = pair
    return Delta(module=name, a=a, b=b, scale=resolver.scale(name), alpha=resolver.alpha(name))


def _stack(module: str, deltas: Mapping[int, Delta], experts: int, parts: Parts) -> Iterator[Delta]:
    one = deltas[min(deltas)]
    rank = max(d.rank for d in deltas.values())
    if len({(d.in_features, d.out_features) for d in deltas.values()}) != 1:
        parts.faults.append(f"{module}: its experts differ in shape")
        return
    same = all(d.scale == one.scale for d in deltas.values())
    dtypes = [array.dtype for d in deltas.values() for array in (d.a, d.b)]
    dtype = np.result_type(*dtypes) if len(set(dtypes)) == 1 and same else np.dtype(np.float32)
    a = np.zeros((experts, rank, one.in_features), dtype)
    b = np.zeros((experts, one.out_features, rank), dtype)
    for index, d in deltas.items():
        a[index, : d.rank] = d.a
        factor = np.float32(1 if same else d.scale)
        b[index, :, : d.rank] = d.b if same else d.b.astype(np.float32) * factor
    yield Delta(
        module=module,
        a=a,
        b=b,
        scale=one.scale if same else 1.0,
        alpha=one.alpha if same and all(d.rank == rank for d in deltas.values()) else None,
    )


def with_common_scales(adapter: Adapter) -> Adapter:
    """The adapter as PEFT can hold it: gate and up of one module have one scale; where they differ
    that of up is folded into its B, in float32."""
    scales = {d.module: d.scale for d in adapter.deltas if d.a.ndim == 3}
    deltas = []
    for d in adapter.deltas:
        wanted = scales.get(f"{d.module.removesuffix(UP)}{GATE}") if _is_up(d) else None
        deltas.append(d if wanted in (None, d.scale) else _rescaled(d, float(wanted or 0.0)))
    return replace(adapter, deltas=tuple(deltas))


def _is_up(delta: Delta) -> bool:
    return delta.a.ndim == 3 and delta.module.endswith(f".{UP}")


def _rescaled(delta: Delta, scale: float) -> Delta:
    if scale == 0.0:
        raise FormatError(f"{delta.module}: its gate has the scale 0, which it would share")
    with np.errstate(over="ignore"):
        b = delta.b.astype(np.float32) * np.float32(delta.scale / scale)
    if not np.isfinite(b).all() and np.isfinite(delta.b.astype(np.float32)).all():
        raise FormatError(f"{delta.module}: B times its scale {delta.scale} is too large")
    return replace(delta, b=b, scale=scale, alpha=None)


def fuse(adapter: Adapter) -> tuple[list[Delta], dict[str, str]]:
    """Deltas of PEFT's parameters, and the metadata that says what gate_up_proj is made of.

    gate_proj and up_proj that share A become one pair of the same rank; others lie side by side,
    with two blocks in B and the sum of their ranks.
    """
    by_module = {d.module: d for d in adapter.deltas if d.a.ndim == 3}
    ranks: dict[str, tuple[int, int]] = {}
    found = []
    for d in adapter.deltas:
        module, _, leaf = d.module.rpartition(".")
        if d.a.ndim != 3 or leaf not in (GATE, UP):
            found.append(d)
        elif module not in ranks:
            gate, up = by_module.get(f"{module}.{GATE}"), by_module.get(f"{module}.{UP}")
            found.append(_fused(f"{module}.{FUSED}", gate, up))
            ranks[module] = (gate.rank if gate else 0, up.rank if up else 0)
    return found, ({RANKS: json.dumps(ranks, sort_keys=True)} if ranks else {})


def _fused(name: str, gate: Delta | None, up: Delta | None) -> Delta:
    known = gate or up
    assert known is not None
    if gate is not None and up is not None and np.array_equal(gate.a, up.a):
        return replace(gate, module=name, b=np.concatenate([gate.b, up.b], axis=1))
    halves = [d for d in (gate, up) if d is not None]
    dtype = np.result_type(*(d.b.dtype for d in halves))
    rank, rows = sum(d.rank for d in halves), known.out_features
    b = np.zeros((len(known.b), 2 * rows, rank), dtype)
    if gate is not None:
        b[:, :rows, : gate.rank] = gate.b
    if up is not None:
        b[:, rows:, rank - up.rank :] = up.b
    a = np.concatenate([d.a for d in halves], axis=1)
    alpha = known.alpha if len(halves) == 1 else None
    return replace(known, module=name, a=a, b=b, alpha=alpha)


def stored(delta: Delta) -> tuple[Array, Array]:
    """A and B of a parameter's delta as PEFT stores them."""
    if delta.a.ndim == 2:
        return delta.a, delta.b
    experts, rank, n_in = delta.a.shape
    b = delta.b.transpose(1, 2, 0).reshape(delta.out_features, rank * experts)
    return delta.a.reshape(experts * rank, n_in), b


def parameter(delta: Delta) -> str | None:
    """The bare parameter that PEFT targets for a delta, or None where it is a layer."""
    if delta.a.ndim == 3:
        return delta.module
    return f"{delta.module}.weight" if delta.module.endswith(ROUTER) else None


def tensor_module(delta: Delta, parameters: frozenset[str]) -> str:
    """The module whose name a delta's tensors carry, given all parameters that are targeted."""
    if delta.a.ndim == 2:
        return delta.module
    module, _, leaf = delta.module.rpartition(".")
    return module + NESTED if leaf == FUSED and f"{module}.{DOWN}" in parameters else module
