"""What a GGUF adapter cannot say, or what llama.cpp would ignore, refuse or abort on."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from lorakit.adapter import Adapter, Delta, Site
from lorakit.architectures import HEAD, Decoder, ModuleShape
from lorakit.formats.express import (
    Fault,
    bias_fault,
    delta_fault,
    invocation_fault,
    magnitude_fault,
    replacement_fault,
    whole_fault,
)
from lorakit.formats.gguf.names import LAYOUTS, is_stacked, tensor_of
from lorakit.formats.gguf.read import MAX_INVOCATION


def cannot_express(adapter: Adapter, decoder: Decoder | None) -> list[Fault]:
    """Everything that a GGUF adapter cannot say; without a base, what it can say of none."""
    modules = decoder.modules() if decoder else {}
    faults = [] if adapter.deltas else [whole_fault("no low-rank delta")]
    for delta in adapter.deltas:
        if nowhere := _nowhere(delta, decoder, modules):
            faults.append(delta_fault(delta, nowhere))
            continue
        if delta.bias is not None and np.any(delta.bias):
            faults.append(bias_fault(delta, "a bias of B"))
        found = [*_delta_faults(delta, decoder), *_shape_faults(delta, modules.get(delta.module))]
        faults += [delta_fault(delta, fault) for fault in found]
    faults += [magnitude_fault(m, "a DoRA magnitude") for m in adapter.magnitudes]
    faults += [replacement_fault(r, r.kind) for r in adapter.replacements]
    if any(not 0 <= token < 1 << 31 for token in adapter.invocation_tokens):
        faults.append(invocation_fault("no token ids"))
    if len(adapter.invocation_tokens) > MAX_INVOCATION:
        faults.append(invocation_fault(f"more than {MAX_INVOCATION}"))
    return faults


def alpha_of(delta: Delta) -> float:
    """The alpha that gives a delta its scale."""
    return delta.scale * delta.rank


def _nowhere(delta: Delta, decoder: Decoder | None, modules: dict[str, ModuleShape]) -> str | None:
    """Why no GGUF tensor stands for a module; None where one does."""
    layouts = [decoder.architecture.layout] if decoder else list(LAYOUTS.values())
    named = any(tensor_of(delta.module, layout) for layout in layouts)
    if decoder is None:
        return None if named else "no module of any base that lorakit knows"
    if delta.module not in modules:
        return f"no module of {decoder.architecture.model_type}"
    return None if named else "a module that llama.cpp does not adapt"


def _delta_faults(delta: Delta, decoder: Decoder | None) -> Iterable[str]:
    if not delta.a.size or not delta.b.size:
        yield "rank 0, or no features"
    if decoder is None:
        layouts = [layout for layout in LAYOUTS.values() if tensor_of(delta.module, layout)]
        if not any(is_stacked(delta.module, layout) == (delta.a.ndim == 3) for layout in layouts):
            yield "experts, where there is one matrix, or one matrix for experts"
    tables = {layout.embedding for layout in LAYOUTS.values()}
    lookup = delta.module in ({decoder.embedding} if decoder else tables)
    tied = decoder is not None and decoder.tied
    if tied and lookup:
        yield "an embedding that is tied to the head, on which llama.cpp aborts"
    elif tied and delta.module == HEAD:
        yield "a head that is tied to the embedding, which llama.cpp does not load"
    elif delta.site is not (Site.INPUT if lookup else Site.LINEAR):
        yield f"site {delta.site}; give the lookup and lm_head a delta each"
    if not abs(alpha_of(delta)) < float(np.finfo(np.float32).max):
        yield f"scale {delta.scale} is too large"


def _shape_faults(delta: Delta, shape: ModuleShape | None) -> Iterable[str]:
    if shape is None:
        return
    experts = len(delta.a) if delta.a.ndim == 3 else None
    if experts != shape.experts:
        yield f"{_counted(experts)}, where the base has {_counted(shape.experts)}"
    elif (delta.out_features, delta.in_features) != (shape.out_features, shape.in_features):
        yield (
            f"[{delta.out_features}, {delta.in_features}], where the base has "
            f"[{shape.out_features}, {shape.in_features}]"
        )


def _counted(experts: int | None) -> str:
    return "one matrix" if experts is None else f"{experts} experts"
