"""Names of modules that differ from the base's only by what wrapped the model: one table.

Training wraps a model: torch.compile, FSDP, DDP, activation checkpointing, a class with a head, a
model that also sees. Each puts a step into the path of every module, and a save that does not take
it out again names modules that no base has. Steps that nothing else is called are taken out
wherever they are. Others are, where the result is a module of the base, and one alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Set
from dataclasses import replace

from lorakit.adapter import Adapter, Delta, Magnitude, Replacement
from lorakit.architectures import Decoder, is_seeing

# Steps that are of a wrapper whatever follows, by what makes them.
WRAPPERS = {
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FSDP",
    "_fpw_module": "FSDP of earlier torch",
    "_checkpoint_wrapped_module": "activation checkpointing",
    "_forward_module": "Lightning",
    "_module": "a gradient sampler",
}
# What a name may begin with before the model itself does; the base says where that is.
BEFORE = frozenset(
    {
        "base_model",  # PEFT, doubled
        "model",
        "module",  # DDP, DeepSpeed
        "language_model",  # the text part of a model that sees or hears
        "text_model",
        "pretrained_model",  # trl's models with a value head
        "policy",
        "actor",
        "transformer",
        "llm",
    }
)
_OUTSIDE = ("module.", "base_model.model.")
_WRAPPED = re.compile(rf"(?:^|\.)(?:{'|'.join(WRAPPERS)})(?:\.|$)")
_IN_PATTERN = re.compile(rf"(?<![\w-])(?:{'|'.join(WRAPPERS)})\\?\.")  # with the dot escaped or not
_MARK = "_mod"  # in every wrapper's step: the searches are slow, and most names need none
assert all(_MARK in step for step in WRAPPERS)
_BLOCK = re.compile(r"(?:layers|h|blocks)\.\d+\..+")
_WRAPPING = WRAPPERS.keys() | {"module"}
_NO_ROOT = frozenset({"module", "base_model", "language_model", "text_model", "pretrained_model"})


def unwrapped(name: str) -> str:
    """A tensor's name without wrappers and without PEFT's own beginning, however often it is there.

    Exact without a base: no model's module has such a name.
    """
    while name.startswith(_OUTSIDE):
        name = name.removeprefix("module.").removeprefix("base_model.model.")
    if _MARK not in name or not _WRAPPED.search(name):
        return name
    return unwrapped(".".join(step for step in name.split(".") if step not in WRAPPERS))


def asking_unwrapped(pattern: str) -> str:
    """A name of modules, or a regular expression for names, that asks for no wrapper's steps."""
    plain = _IN_PATTERN.sub("", pattern) if _MARK in pattern else pattern
    return plain.removeprefix("module.").removeprefix("base_model.model.")


def is_canonical(module: str) -> bool:
    """Whether a name is the path of a module in a model of text, as far as the name alone tells."""
    steps = module.split(".")
    if is_seeing(module) or set(steps) & _WRAPPING:
        return False
    if steps[0] in _NO_ROOT or _BLOCK.fullmatch(module):
        return False
    return not (steps[0] in BEFORE and len(steps) > 1 and steps[1] in BEFORE - {"transformer"})


def fitted(adapter: Adapter, decoder: Decoder | None) -> Adapter:
    """The adapter with its modules called as the base calls them, where only a wrapper is between.

    A name is changed where one module of the base, and only one, is what remains of it, and where
    no other part has that name; what was changed stands in `reading.renamed`. Without a base the
    adapter is as it was.
    """
    if decoder is None:
        return adapter
    known = {*decoder.modules(), *(name.rpartition(".")[0] for name in decoder.parameters())}
    held = {_module(part) for part in _parts(adapter)}
    strange = held - known
    table = {name: found for name in strange if (found := _in_base(name, decoder, known))}
    if not table or len(set(table.values()) | (held - table.keys())) < len(held):
        return adapter  # two names would become one

    def renamed(module: str) -> str:
        return table.get(module, module)

    changed = replace(
        adapter,
        deltas=tuple(replace(d, module=renamed(d.module)) for d in adapter.deltas),
        magnitudes=tuple(replace(m, module=renamed(m.module)) for m in adapter.magnitudes),
        replacements=tuple(
            replace(r, name=f"{renamed(_module(r))}.{r.name.rpartition('.')[2]}")
            for r in adapter.replacements
        ),
    )
    beginnings = beginnings_of(table.items())
    return replace(changed, reading=replace(adapter.reading, renamed=beginnings))


def beginnings_of(pairs: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """In what the beginnings of names differ, each once: ("model.language_model.", "model.")."""
    found = set()
    for before, after in pairs:
        a, b = before.split("."), after.split(".")
        while a and b and a[-1] == b[-1]:
            a, b = a[:-1], b[:-1]
        found.add(("".join(f"{step}." for step in a), "".join(f"{step}." for step in b)))
    return tuple(sorted(found))


def as_in_file(module: str, renamed: Iterable[tuple[str, str]]) -> str:
    """What a module of the base is called in a file whose names were changed so."""
    for before, after in renamed:
        if module.startswith(after):
            return before + module.removeprefix(after)
    return module


def _in_base(name: str, decoder: Decoder, known: Set[str]) -> str | None:
    """The one module of the base that a name is of, or None."""
    steps = [step for step in name.split(".") if step != "module"]  # DDP, around any part
    root = decoder.architecture.layout.root
    found: set[str] = set()
    for start in range(len(steps)):
        rest = ".".join(steps[start:])
        found |= {rest, root + rest} & known
        if steps[start] not in BEFORE:
            break
    return found.pop() if len(found) == 1 else None


def _parts(adapter: Adapter) -> tuple[Delta | Magnitude | Replacement, ...]:
    return (*adapter.deltas, *adapter.magnitudes, *adapter.replacements)


def _module(part: Delta | Magnitude | Replacement) -> str:
    return part.name.rpartition(".")[0] if isinstance(part, Replacement) else part.module
