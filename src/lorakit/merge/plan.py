"""What a set of adapters changes of a checkpoint: which tensors, how, and whether it stays tied.

The rule is that of PEFT's forward pass before any merge: replacements first, of which each
parameter takes at most one; then every delta, all of them relative to the replaced weight. The
lookup and the head of a tied embedding are two uses of one tensor: where they are to differ, the
plan gives the head a tensor of its own. Nothing is read here but shapes and small arrays.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lorakit.adapter import Adapter, Array, Delta, Replacement, Site, in_order
from lorakit.architectures import HEAD, describe, is_seeing, seeing_in_files
from lorakit.base.folder import Base
from lorakit.errors import UnsupportedError
from lorakit.merge.change import Change, Term
from lorakit.merge.places import Place, Use, bias_term, delta_uses, parameter_parts, places, term

Scaled = Sequence[tuple[Adapter, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """A tensor that the base lacks; beside: the tensor whose file and dtype it shares."""

    shape: tuple[int, ...]
    beside: str


@dataclass(slots=True, kw_only=True)
class Plan:
    """Changes by stored tensor name; tensors to add; what of config.json becomes another.

    A tensor begins as itself, but for those in `sources`, which begin as a copy of another, and
    for added ones that are not there: they begin as zeros.
    """

    changes: dict[str, Change] = field(default_factory=dict)
    added: dict[str, Added] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)  # of tensors that grow, from zeros
    sources: dict[str, str] = field(default_factory=dict)
    config: dict[str, object] = field(default_factory=dict)
    replaced: tuple[str, ...] = ()
    untied: bool = False


def plan(base: Base, adapters: Scaled) -> Plan:
    """The plan for adapters that fit the base; a user scale of 0 switches an adapter off.

    Raises UnsupportedError that lists everything that no weights of this base can express.
    """
    active = [(adapter, float(scale)) for adapter, scale in adapters if scale != 0]
    planner = _Planner(base, active)
    planner.run()
    if planner.faults:
        raise UnsupportedError(
            "these adapters cannot be merged into this base",
            items=planner.faults,
            hint="apply them at run time instead, or merge those that can be",
        )
    return planner.plan


@dataclass(slots=True)
class _Uses:
    """The changes of one stored tensor, or of one use of a tied one, as they are gathered."""

    whole: list[tuple[Adapter, Replacement]] = field(default_factory=list)
    rows: list[tuple[Adapter, Replacement]] = field(default_factory=list)
    terms: list[Term] = field(default_factory=list)
    keys: list[object] = field(default_factory=list)  # equal where two uses change alike

    def change(self) -> Change:
        rows = tuple((r.rows, r.value) for _, r in self.rows if r.rows is not None)
        whole = self.whole[0][1].value if self.whole else None
        return Change(whole=whole, rows=rows, terms=tuple(self.terms))


@dataclass(slots=True)
class _Planner:
    """`uses` by stored name; of a tied embedding the head's use stands under `head`."""

    base: Base
    adapters: Scaled
    plan: Plan = field(default_factory=Plan)
    faults: list[str] = field(default_factory=list)
    uses: dict[str, _Uses] = field(default_factory=lambda: defaultdict(_Uses))
    table: str = field(init=False)  # the embedding's stored name
    head: str = field(init=False)  # the head's, also where there is none yet

    def __post_init__(self) -> None:
        self.table = self.base.stored(self.base.decoder.embedding)[0].name
        self.head = self.base.file_name(f"{HEAD}.weight")

    def run(self) -> None:
        for adapter, scale in self.adapters:
            if adapter.invocation_tokens:
                self.faults.append(
                    "an aLoRA adapter acts only after its invocation tokens "
                    f"{list(adapter.invocation_tokens)}; weights act on every token"
                )
            for replacement in adapter.replacements:
                self.replacement(adapter, replacement)
            self.deltas(adapter, scale)
            self.biases(adapter, scale)
        if self.faults:
            return
        self.plan.replaced = tuple(
            in_order({r.name for a, _ in self.adapters for r in a.replacements})
        )
        if self.base.decoder.tied:
            self.untie()
        self.plan.changes = {name: uses.change() for name, uses in self.uses.items() if uses.keys}

    def replacement(self, adapter: Adapter, replacement: Replacement) -> None:
        """Equal replacements of one use count once, others exclude each other.

        Within one adapter, rows go over the whole.
        """
        for part, name in self.replaced(replacement):
            uses = self.uses[name]
            kept = uses.whole if replacement.rows is None else uses.rows
            if any(_same(part, before) for _, before in kept):
                continue
            if kept or any(owner is not adapter for owner, _ in uses.whole + uses.rows):
                self.faults.append(f"{replacement.name}: replaced more than once, by other values")
            kept.append((adapter, part))
            uses.keys.append(id(replacement))

    def replaced(self, replacement: Replacement) -> Iterator[tuple[Replacement, str]]:
        """The replacement and the use it is for; a tied table has two under either name."""
        table = f"{self.base.decoder.embedding}.weight"
        if is_seeing(replacement.name):
            if found := self.left_out(replacement.name, replacement.value.shape):
                yield replace(replacement, name=found), found
            return
        if not self.base.decoder.tied or replacement.name not in (table, f"{HEAD}.weight"):
            for part in parameter_parts(self.base, replacement):
                yield part, part.name
            return
        if replacement.site in (None, Site.INPUT, Site.BOTH):
            yield replacement, self.table
        if replacement.site in (None, Site.OUTPUT, Site.BOTH):
            yield replacement, self.head

    def deltas(self, adapter: Adapter, scale: float) -> None:
        """One term for each place of each use of a delta."""
        magnitudes = {m.module: m.value for m in adapter.magnitudes}
        for delta in adapter.deltas:
            if is_seeing(delta.module):
                self.seeing(delta, scale, magnitudes.get(delta.module))
                continue
            for use in delta_uses(delta, self.base.decoder.embedding):
                tied = use.module == HEAD and self.base.decoder.tied
                for place in places(self.base, use.module):
                    into = self.uses[self.head if tied else place.name]
                    into.terms.append(term(place, use, scale, magnitudes.get(delta.module)))
                    into.keys.append((id(delta), scale))

    def seeing(self, delta: Delta, scale: float, magnitude: Array | None) -> None:
        """What a delta does to a part that sees, which the base keeps beside its text."""
        shape = (delta.out_features, delta.in_features)
        if name := self.left_out(f"{delta.module}.weight", shape):
            use = Use(delta=delta, module=delta.module, flipped=False)
            self.uses[name].terms.append(term(Place(name=name), use, scale, magnitude))
            self.uses[name].keys.append((id(delta), scale))

    def left_out(self, parameter: str, shape: tuple[int, ...]) -> str | None:
        """The stored name of a parameter that the text model leaves out; a fault where it has no
        such one."""
        name = seeing_in_files(parameter, self.base.left_out)
        if name is not None and self.base.tensors[name].shape == shape:
            return name
        held = "none" if name is None else f"one of {list(self.base.tensors[name].shape)}"
        self.faults.append(f"{parameter}: {list(shape)}, of which the base has {held}")
        return None

    def biases(self, adapter: Adapter, scale: float) -> None:
        """What B's bias adds to the module's own, which a config may have to announce."""
        for delta in adapter.deltas:
            if delta.bias is None:
                continue
            name = f"{delta.module}.bias"
            stored = self.base.file_name(name)
            if is_seeing(name):
                if found := self.left_out(name, delta.bias.shape):
                    self.uses[found].terms.append(bias_term(delta.bias, delta.scale * scale))
                    self.uses[found].keys.append((id(delta), scale))
            elif delta.site is not Site.LINEAR:
                self.faults.append(f"{delta.module}: a bias of B on an embedding")
            elif name in self.base or stored in self.plan.added or self.announce(name):
                self.uses[stored].terms.append(bias_term(delta.bias, delta.scale * scale))
                self.uses[stored].keys.append((id(delta), scale))
            else:
                family = self.base.decoder.architecture.model_type
                self.faults.append(f"{delta.module}: a bias of B; {family} has none there")

    def announce(self, bias: str) -> bool:
        """Add the biases that one config key brings, all zeros but for the adapter's."""
        before = self.base.decoder.parameters()
        for key in sorted(self.base.decoder.architecture.bias_keys):
            after = describe({**self.base.config, **self.plan.config, key: True}).parameters()
            if bias not in after:
                continue
            self.plan.config[key] = True
            for name in after.keys() - before.keys():
                weight = self.base.stored(name.removesuffix(".bias"))[0].name
                added = Added(shape=after[name], beside=weight)
                self.plan.added.setdefault(self.base.file_name(name), added)
            return True
        return False

    def untie(self) -> None:
        """Where lookup and head change alike they stay one tensor; else the head gets its own."""
        lookup, output = self.uses[self.table], self.uses.pop(self.head, _Uses())
        self.plan.untied = lookup.keys != output.keys
        if self.plan.untied:
            self.plan.config["tie_word_embeddings"] = False
            if self.head not in self.base.tensors:
                shape = (self.base.decoder.vocabulary, self.base.decoder.hidden)
                self.plan.added[self.head] = Added(shape=shape, beside=self.table)
        copied = bool(lookup.keys) and self.head in self.base.tensors  # some files keep one
        if self.plan.untied or copied:
            self.plan.sources[self.head] = self.table
            self.uses[self.head] = output


def _same(one: Replacement, other: Replacement) -> bool:
    if one.value.shape != other.value.shape or (one.rows is None) != (other.rows is None):
        return False
    rows = one.rows is None or np.array_equal(one.rows, np.asarray(other.rows))
    return rows and np.array_equal(one.value, other.value)
