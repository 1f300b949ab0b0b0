"""What PEFT's files cannot say, tried with peft 0.21: one flag each for DoRA, rsLoRA and biases of
B in a whole adapter, no replaced rows under a LoRA layer, at least one LoRA layer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from lorakit.adapter import Adapter, Delta, Magnitude, Replacement, Site
from lorakit.architectures import Decoder
from lorakit.formats.express import (
    Fault,
    bias_fault,
    delta_fault,
    dora_faults,
    magnitude_fault,
    replacement_fault,
    whole_fault,
)
from lorakit.formats.peft.experts import DOWN, GATE, UP, parameter

COPIED = {Site.INPUT: ("embed_tokens", "wte"), Site.OUTPUT: ("lm_head",)}


def cannot_express(adapter: Adapter, decoder: Decoder | None = None) -> list[Fault]:
    """Everything that a PEFT adapter cannot say."""
    adapted = set(adapter.modules)
    faults = [fault for delta in adapter.deltas for fault in _delta_faults(delta)]
    for replacement in adapter.replacements:
        reasons = _replacement_faults(replacement, adapted)
        faults += [replacement_fault(replacement, reason) for reason in reasons]
    if not adapter.deltas:
        faults.append(whole_fault("no low-rank delta: PEFT needs at least one LoRA layer"))
    faults += dora_faults(adapter)
    biased = [delta for delta in adapter.deltas if delta.bias is not None]
    if adapter.magnitudes:
        faults += [bias_fault(d, "a bias of B beside DoRA") for d in biased]
    if adapter.invocation_tokens:
        tables = [d for d in adapter.deltas if d.site is not Site.LINEAR]
        faults += [delta_fault(d, "an embedding delta with invocation tokens") for d in tables]
        faults += [magnitude_fault(m, "DoRA with invocation tokens") for m in adapter.magnitudes]
        faults += [bias_fault(d, "a bias of B with invocation tokens") for d in biased]
    heads = [d for d in adapter.deltas if d.site is Site.BOTH]
    if heads and ("lm_head" in adapted or len(heads) > 1 or adapter.magnitudes):
        faults += [delta_fault(d, "on both sides beside another, or with DoRA") for d in heads]
    by_module = {d.module: d for d in adapter.deltas}
    faults += [f for m in adapter.magnitudes for f in _magnitude_faults(m, by_module.get(m.module))]
    return faults + _parameter_faults(adapter, decoder)


def _magnitude_faults(magnitude: Magnitude, delta: Delta | None) -> Iterable[Fault]:
    """PEFT's DoRA of an embedding has a magnitude for each feature; MLX's for each token."""
    if delta is None or delta.site is Site.LINEAR:
        return
    if delta.in_features == delta.out_features:
        yield magnitude_fault(magnitude, "DoRA of a square embedding, by rows or by columns")
    elif magnitude.value.shape != (delta.out_features,):
        yield magnitude_fault(
            magnitude, "a magnitude for each token; PEFT has one for each feature"
        )


def _parameter_faults(adapter: Adapter, decoder: Decoder | None) -> list[Fault]:
    """What PEFT cannot combine with bare parameters, as experts and routers are targeted."""
    bare = [d for d in adapter.deltas if parameter(d)]
    faults = []
    if adapter.magnitudes:
        faults += [delta_fault(d, "experts or a router beside DoRA") for d in bare]
    elif any(d.bias is not None for d in adapter.deltas):
        faults += [delta_fault(d, "experts or a router beside a bias of B") for d in bare]
    elif adapter.invocation_tokens:
        faults += [delta_fault(d, "experts or a router with invocation tokens") for d in bare]
    shapes = decoder.modules().values() if decoder else ()
    if bare or any(shape.experts for shape in shapes):
        dense = [d for d in adapter.deltas if d.a.ndim == 2 and _DENSE.fullmatch(d.module)]
        faults += [delta_fault(d, "a layer that PEFT takes for an expert's") for d in dense]
    return faults


_DENSE = re.compile(rf".*\.mlp\.({GATE}|{UP}|{DOWN})")


def _delta_faults(delta: Delta) -> Iterable[Fault]:
    if delta.a.ndim == 3 and delta.module.rpartition(".")[2] not in (GATE, UP, DOWN):
        yield delta_fault(delta, f"experts other than {GATE}, {UP} and {DOWN}")
    if delta.site is Site.OUTPUT:
        yield delta_fault(delta, "site output; give it as a linear delta of lm_head")
    if delta.bias is not None and delta.site is not Site.LINEAR:
        yield bias_fault(delta, "a bias of B on an embedding")
    if not math.isfinite(delta.scale * delta.rank):
        yield delta_fault(delta, f"scale {delta.scale} is too large")


def _replacement_faults(replacement: Replacement, adapted: set[str]) -> Iterable[str]:
    module, _, leaf = replacement.name.rpartition(".")
    if leaf not in ("weight", "bias") or not module:
        yield "neither a weight nor a bias"
    elif replacement.rows is not None:
        if module in adapted:
            yield "replaced rows under a delta of the same module"
        elif leaf != "weight" or replacement.site is not None:
            yield "replaced rows of one use only"
    elif replacement.site is None:
        return
    elif module.rpartition(".")[2] not in COPIED.get(replacement.site, ()):
        yield f"replaced at site {replacement.site} only"
    elif module in adapted:
        yield "replaced at one site only, under a delta"
