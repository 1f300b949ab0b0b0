"""What an mlx-lm adapter cannot say."""

from __future__ import annotations

from collections.abc import Iterable

from lorakit.adapter import Adapter, Delta, Magnitude, Site
from lorakit.architectures import Decoder
from lorakit.formats.express import (
    Fault,
    bias_fault,
    delta_fault,
    dora_faults,
    invocation_fault,
    magnitude_fault,
    replacement_fault,
    whole_fault,
)
from lorakit.formats.mlx.names import HEAD, canonical, is_table, native

NEEDS_BASE = "which uses of an embedding MLX changes depends on the base: name the base"


def cannot_express(adapter: Adapter, decoder: Decoder | None = None) -> list[Fault]:
    """Everything that an mlx-lm adapter cannot say; a base decides about embeddings and heads."""
    faults = [] if adapter.deltas else [whole_fault("no low-rank delta: MLX needs at least one")]
    untied = is_untied(adapter, decoder)
    for d in adapter.deltas:
        faults += _delta_faults(d, untied, decoder)
        if d.a.ndim == 3 and adapter.magnitudes:
            faults.append(delta_fault(d, "experts beside DoRA"))
    faults += [replacement_fault(r, r.kind) for r in adapter.replacements]
    faults += dora_faults(adapter)
    by_module = {d.module: d for d in adapter.deltas}
    for m in adapter.magnitudes:
        faults += _magnitude_faults(m, by_module.get(m.module))
    if adapter.invocation_tokens:
        faults.append(invocation_fault("MLX applies an adapter to every token"))
    return faults


def is_untied(adapter: Adapter, decoder: Decoder | None) -> bool | None:
    """Whether the base has a head of its own; None where nothing says so. A delta of the head does:
    on a tied base mlx-lm has no such module."""
    if decoder is not None:
        return not decoder.tied
    return True if HEAD in adapter.modules else None


def _delta_faults(delta: Delta, untied: bool | None, decoder: Decoder | None) -> Iterable[Fault]:
    if delta.site is Site.LINEAR and not is_table(delta.module, decoder):
        if delta.module == HEAD and untied is False:
            yield delta_fault(delta, "a head that is tied to the embedding, which MLX lacks")
    elif delta.site is Site.LINEAR:
        yield delta_fault(delta, "a linear delta of an embedding")
    elif untied is None:
        yield Fault(item=delta.module, reason=NEEDS_BASE)
    elif delta.site is not (Site.INPUT if untied else Site.BOTH):
        uses = "both uses" if untied is False else "the lookup alone"
        yield delta_fault(delta, f"site {delta.site}, where MLX changes {uses}")
    if canonical(native(delta.module)) != delta.module:
        yield delta_fault(delta, "a name that MLX gives to another module")
    if delta.bias is not None:
        yield bias_fault(delta, "a bias of B")
    if 0 in delta.a.shape or 0 in delta.b.shape:
        yield delta_fault(delta, "rank 0, or no features")


def _magnitude_faults(magnitude: Magnitude, delta: Delta | None) -> Iterable[Fault]:
    """mlx-lm's DoRA of an embedding has a magnitude for each token; PEFT's for each feature."""
    if delta is None or delta.site is Site.LINEAR:
        return
    if delta.in_features == delta.out_features:
        yield magnitude_fault(magnitude, "DoRA of a square embedding, by rows or by columns")
    elif magnitude.value.shape != (delta.in_features,):
        yield magnitude_fault(magnitude, "a magnitude for each feature; MLX has one for each token")
