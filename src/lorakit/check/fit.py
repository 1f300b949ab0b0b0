"""Has each part of an adapter its place in a base, by name and shape?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from lorakit.adapter import Adapter, Delta, Magnitude, Replacement, Site
from lorakit.architectures import HEAD, Decoder, ModuleShape, is_seeing
from lorakit.check.mismatch import Mismatch

RESIZED = "the vocabulary was resized"
_LAYER = re.compile(r"\.(?:layers|h)\.(\d{1,9})\.")
_DIVERGED = "the training diverged, or the file is damaged"
_SEES = (
    "it is for a part that sees, and cannot act on text; lorakit merge takes it where the base "
    "has that part"
)


def names_and_shapes(adapter: Adapter, decoder: Decoder) -> list[Mismatch]:
    """All that has no place in a base, or another shape there; and values that are not finite."""
    modules, adapted = decoder.modules(), frozenset(adapter.modules)
    found = list(_deltas(adapter, decoder))
    for magnitude in adapter.magnitudes:
        found += _magnitude(magnitude, adapted, modules)
    parameters = decoder.parameters()
    for replacement in adapter.replacements:
        found += _replacement(replacement, parameters, decoder)
    found += [
        Mismatch(item=name, expected="finite values", found="NaN or infinity", advice=_DIVERGED)
        for name in adapter.non_finite()
    ]
    return [*found, *_tokens(adapter, decoder)]


def _deltas(adapter: Adapter, decoder: Decoder) -> Iterator[Mismatch]:
    modules = decoder.modules()
    missing = [delta for delta in adapter.deltas if delta.module not in modules]
    if missing and len(missing) == len(adapter.deltas):
        yield Mismatch(
            item="architecture",
            expected=f"modules of {decoder.architecture.model_type}, such as {_example(modules)}",
            found=f"none of them, but such as {missing[0].module}",
            advice=_prefix_advice(missing[0].module),
        )
        return
    for delta in missing:
        yield Mismatch(
            item=delta.module,
            expected=_expected_module(delta.module, decoder),
            found=f"a delta of rank {delta.rank}",
            advice=_module_advice(delta.module, modules),
        )
    for delta in adapter.deltas:
        if delta.module in modules:
            yield from _delta(delta, modules[delta.module], decoder)


def _example(modules: Mapping[str, ModuleShape]) -> str:
    return next(name for name, shape in modules.items() if not shape.embedding)


def _expected_module(module: str, decoder: Decoder) -> str:
    layer = _LAYER.search(module)
    if layer and int(layer[1]) >= len(decoder.layers):
        return f"one of the base's {len(decoder.layers)} layers"
    return f"a module of {decoder.architecture.model_type}"


def _module_advice(module: str, modules: Mapping[str, ModuleShape]) -> str:
    """Other models of the same family fuse projections, or have experts where this one has none."""
    parent = module.rpartition(".")[0]
    siblings = [name for name, shape in modules.items() if name.rpartition(".")[0] == parent]
    fused = [name for name in siblings if modules[name].parts]
    if fused:
        return f"the base keeps it in {' or '.join(fused)}"
    if is_seeing(module):
        return _SEES
    if any(name.startswith(f"{parent}.experts.") for name in modules):
        return f"the base has experts there, such as {parent}.experts.up_proj"
    return "the adapter was trained on another base"


def _prefix_advice(module: str) -> str:
    if is_seeing(module):
        return _SEES
    if ".language_model." in module:
        return "the adapter was trained on a multimodal model that contains this base's kind"
    return "the adapter was trained on another kind of model"


def _delta(delta: Delta, shape: ModuleShape, decoder: Decoder) -> Iterator[Mismatch]:
    experts = len(delta.a) if delta.a.ndim == 3 else None
    if experts != shape.experts:
        yield Mismatch(
            item=delta.module,
            expected=_matrices(shape.experts),
            found=_matrices(experts),
            advice=_experts_advice(experts, shape),
        )
    allowed = _sites(delta.module, shape, decoder)
    if delta.site not in allowed:
        yield Mismatch(
            item=delta.module,
            expected=f"a delta at site {' or '.join(sorted(allowed))}",
            found=f"site {delta.site}",
        )
    want = (shape.out_features, shape.in_features)
    if delta.site is Site.OUTPUT and shape.embedding:
        want = (shape.in_features, shape.out_features)
    have = (delta.out_features, delta.in_features)
    if have != want:
        yield Mismatch(
            item=delta.module,
            expected=f"a delta of {list(want)} (out, in)",
            found=str(list(have)),
            advice=_shape_advice(shape, have),
        )
    if delta.site is Site.BOTH and not decoder.tied:
        yield Mismatch(
            item=delta.module,
            expected="a base with tied embeddings",
            found="one with a head of its own",
            advice="the delta acts on both",
            severity="warning",
        )
    if delta.site is Site.INPUT and shape.embedding and decoder.tied:
        yield Mismatch(
            item=delta.module,
            expected="a head of its own, as the delta acts on the lookup only",
            found="a head tied to the embedding",
            advice="lorakit and PEFT leave the head alone; a merge must untie it, and llama.cpp "
            "cannot run it",
            severity="warning",
        )


def _matrices(experts: int | None) -> str:
    return "one weight matrix" if experts is None else f"deltas of {experts} experts"


def _sites(module: str, shape: ModuleShape, decoder: Decoder) -> set[Site]:
    if module == HEAD:
        return {Site.LINEAR, Site.OUTPUT}
    if not shape.embedding:
        return {Site.LINEAR}
    return {Site.INPUT, Site.OUTPUT, Site.BOTH} if module == decoder.embedding else {Site.INPUT}


def _experts_advice(experts: int | None, shape: ModuleShape) -> str:
    if shape.experts is None:
        return "the adapter was trained on a mixture-of-experts model"
    if experts is None:
        return "a delta of experts has an axis for them"
    return "the adapter was trained on a base with another number of experts"


def _shape_advice(shape: ModuleShape, have: tuple[int, int]) -> str:
    if shape.embedding:
        return "was the vocabulary extended when the adapter was trained?"
    if have == (shape.in_features, shape.out_features):
        return "the delta is the wrong way round: A must be [rank, in], B [out, rank]"
    if have[0] in shape.parts and have[1] == shape.in_features:
        return "the base keeps several projections in this module, the delta has one of them"
    return "the adapter was trained on a base of another size"


def _magnitude(
    magnitude: Magnitude, adapted: frozenset[str], modules: Mapping[str, ModuleShape]
) -> Iterator[Mismatch]:
    if magnitude.module not in adapted:
        yield Mismatch(
            item=f"{magnitude.module}.magnitude",
            expected="a delta of the same module",
            found="none",
            advice="the file lacks a part of its DoRA layer",
        )
    shape = modules.get(magnitude.module)
    if shape is None:
        return
    sizes = [shape.out_features]
    if shape.embedding:  # PEFT has one for each feature, MLX for each token
        sizes.append(shape.in_features)
    axes = () if shape.experts is None else (shape.experts,)
    if magnitude.value.shape not in [(*axes, size) for size in sizes]:
        yield Mismatch(
            item=f"{magnitude.module}.magnitude",
            expected=" or ".join(str([*axes, size]) for size in sizes),
            found=str(list(magnitude.value.shape)),
        )


def _replacement(
    replacement: Replacement, parameters: Mapping[str, tuple[int, ...]], decoder: Decoder
) -> Iterator[Mismatch]:
    tied = replacement.name == f"{HEAD}.weight" and decoder.tied
    name = f"{decoder.embedding}.weight" if tied else replacement.name
    found = f"{list(replacement.value.shape)}"
    if name not in parameters:
        yield Mismatch(
            item=replacement.name,
            expected=f"a parameter of {decoder.architecture.model_type}",
            found=f"a {replacement.kind} of {found}",
            advice="the adapter was trained on another base, or brings a head of its own",
        )
        return
    want, rows = parameters[name], replacement.rows
    if rows is None:
        if replacement.value.shape != want:
            advice = _resized(replacement, want, name == f"{decoder.embedding}.weight")
            yield Mismatch(
                item=replacement.name, expected=str(list(want)), found=found, advice=advice
            )
        return
    if len(want) != 2 or replacement.value.shape[1:] != want[1:]:
        yield Mismatch(item=replacement.name, expected=f"rows of {list(want)}", found=found)
    elif rows.size and (rows[0] < 0 or rows[-1] >= want[0]):
        yield Mismatch(
            item=replacement.name,
            expected=f"row numbers below {want[0]}",
            found=str(int(rows[-1] if rows[0] >= 0 else rows[0])),
            advice="was the vocabulary extended when the adapter was trained?",
        )


def _resized(replacement: Replacement, want: tuple[int, ...], is_table: bool) -> str:
    """What to do where a vocabulary has other rows than the base's."""
    shape = replacement.value.shape
    if not (is_table or replacement.name == f"{HEAD}.weight") or shape[1:] != want[1:]:
        return ""
    more = shape[0] - want[0]
    if more < 0:
        return f"{RESIZED} to {-more} rows fewer in training"
    return f"{RESIZED} by {more} in training"


def _tokens(adapter: Adapter, decoder: Decoder) -> Iterator[Mismatch]:
    beyond = [token for token in adapter.invocation_tokens if not 0 <= token < decoder.vocabulary]
    if beyond:
        yield Mismatch(
            item="invocation tokens",
            expected=f"token ids below {decoder.vocabulary}",
            found=str(beyond[:8]),
            advice="the adapter was trained with another tokenizer",
        )
