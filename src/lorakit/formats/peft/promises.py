"""What a PEFT config promises and the file lacks: an incomplete save.

PEFT itself loads such a file with a warning about missing keys, or none, and computes something
else than was trained. What a list of names promises must all be there. A pattern, and "all-linear",
promise each kind of module that the file has in every layer that they match: what else they match
may be no layer that PEFT adapts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lorakit.adapter import Adapter, Site
from lorakit.architectures import HEAD, Decoder, ModuleShape
from lorakit.formats.lacking import by_kind
from lorakit.formats.names import as_in_file
from lorakit.formats.peft.config import LoraConfig, Resolver

# PEFT names both for every classifier, whichever of them the model has.
CLASSIFIERS = frozenset({"classifier", "score"})
VOCABULARY = frozenset({"embed_tokens", "wte", "lm_head"})  # one matrix under two names, where tied
ASKED = "the config targets"


def missing(
    config: LoraConfig, resolver: Resolver, adapter: Adapter, decoder: Decoder | None
) -> tuple[str, ...]:
    """In sentences; empty where the file holds all that its config says."""
    lines = [
        *_saved(config, adapter, decoder),
        *_rows(config, adapter, decoder),
        *_biases(config, adapter, decoder),
    ]
    if decoder is not None:
        lines += by_kind(_untargeted(config, resolver, adapter, decoder), ASKED)
    return tuple(lines)


def remarks(
    config: LoraConfig, resolver: Resolver, adapter: Adapter, decoder: Decoder | None
) -> tuple[str, ...]:
    """What cannot be decided: names and kinds that the config targets and the file lacks whole."""
    targets = config.target_modules
    held = [name.split(".") for name in adapter.modules]
    if decoder is None:
        ends = {".".join(steps[at:]) for steps in held for at in range(len(steps))}
        names = targets if isinstance(targets, frozenset) else frozenset[str]()
        lacking = [name for name in names if name not in ends and not resolver.saved(name)]
        lacking = [name for name in lacking if name not in VOCABULARY]
        about = "; whether its base has such modules, only the base tells (--base)"
    elif isinstance(targets, str) and resolver.readable and targets != "all-linear":
        kinds = {_kind(name) for name in adapter.modules}
        lacking = sorted({_kind(name) for name in _targeted(resolver, adapter, decoder)} - kinds)
        about = ", which its pattern matches"
    else:
        return ()
    if not lacking:
        return ()
    return (f"the file has no tensors of {', '.join(sorted(lacking)[:12])}{about}",)


def _saved(config: LoraConfig, adapter: Adapter, decoder: Decoder | None) -> Iterator[str]:
    held = {replacement.name.rpartition(".")[0] for replacement in adapter.replacements}
    for name in config.modules_to_save:
        names = CLASSIFIERS if name in CLASSIFIERS else (name,)
        if any(_named(each, held) for each in names):
            continue
        if decoder is not None and not _named(name, _parts_of(decoder)):
            continue  # PEFT saves what there is
        if name in VOCABULARY and _partner(config, held, decoder):
            continue
        yield f"modules_to_save names {name}, of which the file has no tensors"


def _parts_of(decoder: Decoder) -> set[str]:
    return {name.rpartition(".")[0] for name in decoder.parameters()} | {HEAD}


def _partner(config: LoraConfig, held: Iterable[str], decoder: Decoder | None) -> bool:
    """Whether the other name of a tied matrix is there, which then says it all."""
    tied = decoder.tied if decoder is not None else bool(config.raw.get("ensure_weight_tying"))
    return tied and any(name.rpartition(".")[2] in VOCABULARY for name in held)


def _named(name: str, modules: Iterable[str]) -> bool:
    return any(is_saved(module, name) for module in modules)


def is_saved(module: str, name: str) -> bool:
    """PEFT's rule of modules_to_save: a module whose path ends so, and what lies within it."""
    return f"{name}." in f"{module}."


def _rows(config: LoraConfig, adapter: Adapter, decoder: Decoder | None) -> Iterator[str]:
    held = {r.name.rpartition(".")[0] for r in adapter.replacements}
    for name, ids in config.token_indices.items():
        if not ids or _named(name, held) or (name == "embed_tokens" and _named("wte", held)):
            continue
        if name.rpartition(".")[2] in VOCABULARY and _partner(config, held, decoder):
            continue
        yield (
            f"trainable_token_indices names {len(ids)} tokens of {name}, of which the file has "
            "no rows"
        )


def _biases(config: LoraConfig, adapter: Adapter, decoder: Decoder | None) -> Iterator[str]:
    kind = config.raw.get("bias", "none")
    if decoder is None or kind not in ("all", "lora_only"):
        return
    shapes, adapted = decoder.modules(), set(adapter.modules)
    biased = [m for m, s in shapes.items() if s.bias and (kind == "all" or m in adapted)]
    if biased and not any(r.name.endswith(".bias") for r in adapter.replacements):
        yield f"bias = {kind!r}, but the file has no biases, and the base has {len(biased)}"


def _untargeted(
    config: LoraConfig, resolver: Resolver, adapter: Adapter, decoder: Decoder
) -> list[str]:
    """Modules of the base that the config targets and the file has no tensors of."""
    held = frozenset(adapter.modules)
    if any(delta.site is Site.BOTH for delta in adapter.deltas):
        held |= {HEAD}  # the delta of the embedding is that of the head, too
    lacking = [name for name in _targeted(resolver, adapter, decoder) if name not in held]
    if not isinstance(config.target_modules, frozenset):
        kinds = {_kind(name) for name in held}
        lacking = [name for name in lacking if _kind(name) in kinds]
    return lacking + list(_experts(resolver, adapter, decoder, held))


def _targeted(resolver: Resolver, adapter: Adapter, decoder: Decoder) -> list[str]:
    """Modules of the base, experts aside, that the config targets, by what the file calls them."""
    if not resolver.readable:
        return []
    names = adapter.reading.renamed
    replaced = {r.name.rpartition(".")[0] for r in adapter.replacements if r.rows is not None}
    return [
        module
        for module, shape in decoder.modules().items()
        if _is_layer(module, shape)
        and module not in replaced
        and resolver.targeted(as_in_file(module, names))
    ]


def _is_layer(module: str, shape: ModuleShape) -> bool:
    """Whether PEFT puts a LoRA layer on it when its name is targeted; a router is a parameter."""
    return shape.experts is None and not module.endswith(".mlp.gate")


def _experts(
    resolver: Resolver, adapter: Adapter, decoder: Decoder, held: frozenset[str]
) -> Iterator[str]:
    names = adapter.reading.renamed
    for module, shape in decoder.modules().items():
        parameter = decoder.fused(module) if shape.experts is not None else None
        if parameter is None or not resolver.targeted_parameter(as_in_file(parameter, names)):
            continue
        partners = {m for m in held if decoder.fused(m) == parameter}
        if not partners:
            yield module


def _kind(module: str) -> str:
    """What a module is in its layer: its path without the layer."""
    steps = module.split(".")
    at = max((n for n, step in enumerate(steps) if step.isdecimal()), default=-1)
    return ".".join(steps[at + 1 :])
