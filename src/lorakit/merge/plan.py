"""What a set of adapters changes of a checkpoint: which tensors, how, and whether it stays tied.

The rule is that of PEFT's forward pass before any merge: replacements first, of which each
parameter takes at most one; then every delta, all of them relative to the replaced weight. The
lookup and the head of a tied embedding are two uses of one tensor: where they are to differ, the
plan gives the head a tensor of its own. Nothing is read here but shapes and small arrays.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from lorakit.adapter import Adapter, Array, Delta, Replacement, Site
from lorakit.architectures import ModuleShape, describe
from lorakit.base import Base
from lorakit.errors import UnsupportedError
from lorakit.merge.change import Change, Factors, Term

EMBEDDING, HEAD = "model.embed_tokens", "lm_head"
Scaled = Sequence[tuple[Adapter, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a checkpoint holds a module's weight, or one expert's part of it.

    expert: which expert this tensor, or this part of it, belongs to. begin: the first row of it in
    the tensor as a matrix. transposed: the tensor is [in, out].
    """

    name: str
    expert: int | None = None
    begin: int = 0
    transposed: bool = False


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
    """The changes of one parameter, or of one use of a tied one, as they are gathered."""

    whole: list[Replacement] = field(default_factory=list)
    rows: list[Replacement] = field(default_factory=list)
    terms: list[Term] = field(default_factory=list)
    keys: list[object] = field(default_factory=list)  # what tells two uses' changes apart


@dataclass(slots=True)
class _Planner:
    base: Base
    adapters: Scaled
    plan: Plan = field(default_factory=Plan)
    faults: list[str] = field(default_factory=list)
    uses: dict[tuple[str, bool], _Uses] = field(default_factory=lambda: defaultdict(_Uses))
    shapes: dict[str, ModuleShape] = field(default_factory=dict)

    def run(self) -> None:
        self.shapes = self.base.decoder.modules()
        for adapter, scale in self.adapters:
            if adapter.invocation_tokens:
                self.faults.append(
                    "an aLoRA adapter acts only after its invocation tokens "
                    f"{list(adapter.invocation_tokens)}; weights act on every token"
                )
            for replacement in adapter.replacements:
                self.replacement(replacement)
            self.deltas(adapter, scale)
            self.biases(adapter, scale)
        if self.faults:
            return
        self.plan.replaced = tuple(
            sorted({r.name for a, _ in self.adapters for r in a.replacements})
        )
        self.untie()
        for (name, _), uses in self.uses.items():
            self.plan.changes[name] = self.change(uses)

    def replacement(self, replacement: Replacement) -> None:
        """Replacements of one use: equal ones count once, others exclude each other."""
        for use in self.replaced_uses(replacement):
            kept = self.uses[use].rows if replacement.rows is not None else self.uses[use].whole
            other = self.uses[use].whole + self.uses[use].rows
            if any(_same(replacement, before) for before in kept):
                continue
            if kept:
                self.faults.append(f"{replacement.name}: replaced more than once, by other values")
            elif other and not self.own(replacement, other[0]):
                self.faults.append(f"{replacement.name}: replaced by two adapters")
            kept.append(replacement)
            self.uses[use].keys.append(id(replacement))

    def own(self, one: Replacement, other: Replacement) -> bool:
        """Whether one adapter brings both: its rows then go over its whole."""
        return any(one in a.replacements and other in a.replacements for a, _ in self.adapters)

    def replaced_uses(self, replacement: Replacement) -> Iterator[tuple[str, bool]]:
        name, tied = replacement.name, self.base.decoder.tied
        if not tied or name not in (f"{EMBEDDING}.weight", f"{HEAD}.weight"):
            yield name, name == f"{HEAD}.weight"
            return
        if replacement.site in (None, Site.INPUT, Site.BOTH):
            yield f"{EMBEDDING}.weight", False
        if replacement.site in (None, Site.OUTPUT, Site.BOTH):
            yield f"{EMBEDDING}.weight", True

    def deltas(self, adapter: Adapter, scale: float) -> None:
        """One term for each use of a module: all that this adapter adds there."""
        magnitudes = {m.module: m.value for m in adapter.magnitudes}
        gathered: dict[tuple[str, bool], list[tuple[Delta, bool]]] = defaultdict(list)
        for delta in adapter.deltas:
            for module, at_head, flipped in _delta_uses(delta):
                gathered[module, at_head].append((delta, flipped))
        for (module, at_head), parts in gathered.items():
            own = {delta.module for delta, _ in parts} & magnitudes.keys()
            if len(own) and len({delta.module for delta, _ in parts}) > 1:
                self.faults.append(f"{module}: a DoRA delta and another at the same use")
                continue
            magnitude = magnitudes[own.pop()] if own else None
            for place in self.places(module):
                uses = self.uses[place.name, at_head]
                uses.terms.append(_term(place, parts, scale, magnitude))
                uses.keys.append((*(id(delta) for delta, _ in parts), scale))

    def places(self, module: str) -> tuple[Place, ...]:
        if module == HEAD and self.base.decoder.tied:
            return (Place(name=f"{EMBEDDING}.weight"),)
        shape = self.shapes[module]
        return (Place(name=f"{module}.weight", transposed=shape.transposed),)

    def biases(self, adapter: Adapter, scale: float) -> None:
        """What B's bias adds to the module's own, which a config may have to announce."""
        for delta in adapter.deltas:
            if delta.bias is None:
                continue
            name = f"{delta.module}.bias"
            if delta.site is not Site.LINEAR:
                self.faults.append(f"{delta.module}: a bias of B on an embedding")
            elif self.has(name) or self.announce(delta.module):
                self.uses[name, False].terms.append(_bias_term(delta.bias, delta.scale * scale))
            else:
                family = self.base.decoder.architecture.model_type
                self.faults.append(f"{delta.module}: a bias of B; {family} has none there")

    def has(self, name: str) -> bool:
        return name in self.base.tensors or name in self.plan.added

    def announce(self, module: str) -> bool:
        """Add the biases that one config key brings, all zeros but for the adapter's."""
        before = self.base.decoder.parameters()
        for key in sorted(self.base.decoder.architecture.bias_keys):
            config = {**self.base.config, **self.plan.config, key: True}
            after = describe(config).parameters()
            if f"{module}.bias" in after:
                self.plan.config[key] = True
                for name in after.keys() - before.keys() - self.plan.added.keys():
                    weight = f"{name.removesuffix('.bias')}.weight"
                    self.plan.added[name] = Added(shape=after[name], beside=weight)
                return True
        return False

    def untie(self) -> None:
        """Where lookup and head of a tied embedding change alike, they stay one tensor."""
        shared, head = f"{EMBEDDING}.weight", f"{HEAD}.weight"
        if not self.base.decoder.tied:
            return
        lookup, output = (self.uses.pop((shared, at_head), _Uses()) for at_head in (False, True))
        self.plan.untied = lookup.keys != output.keys
        if self.plan.untied:
            self.plan.config["tie_word_embeddings"] = False
            if head not in self.base.tensors:
                shape = self.base.decoder.parameters()[shared]
                self.plan.added[head] = Added(shape=shape, beside=shared)
        if lookup.keys:
            self.uses[shared, False] = lookup
        if self.plan.untied or (output.keys and head in self.base.tensors):  # a copy of the shared
            self.plan.sources[head] = shared
            self.uses[head, False] = output

    def change(self, uses: _Uses) -> Change:
        whole = uses.whole[0].value if uses.whole else None
        rows = tuple((r.rows, r.value) for r in uses.rows if r.rows is not None)
        return Change(whole=whole, rows=rows, terms=tuple(uses.terms))


def _delta_uses(delta: Delta) -> Iterator[tuple[str, bool, bool]]:
    """(module whose stored weight changes, whether as the head, whether A and B change places).

    A stored embedding is [vocabulary, hidden], which is a head's [out, in]: a delta that is written
    for the lookup acts there transposed.
    """
    embedding = delta.module == EMBEDDING
    if delta.site in (Site.INPUT, Site.BOTH):
        yield delta.module, False, True
    if delta.site is Site.BOTH:
        yield HEAD, True, True
    elif delta.site is Site.OUTPUT or delta.module == HEAD:
        yield HEAD, True, False
    elif delta.site is Site.LINEAR and not embedding:
        yield delta.module, False, False


def _term(
    place: Place, parts: Sequence[tuple[Delta, bool]], scale: float, magnitude: Array | None
) -> Term:
    factors = []
    for delta, flipped in parts:
        a, b = (
            (delta.a, delta.b)
            if place.expert is None
            else (delta.a[place.expert], delta.b[place.expert])
        )
        if flipped != place.transposed:
            a, b = b.T, a.T
        factors.append(Factors(a=a, b=b, scale=delta.scale * scale))
    by_column = parts[0][1] != place.transposed
    return Term(
        begin=place.begin,
        end=place.begin + len(factors[0].b),
        factors=tuple(factors),
        magnitude=magnitude,
        by_column=by_column,
    )


def _bias_term(bias: Array, scale: float) -> Term:
    """A vector is a matrix of one column, so a bias is a delta of rank one."""
    factors = Factors(a=np.ones((1, 1), np.float32), b=bias[:, None], scale=scale)
    return Term(begin=0, end=len(bias), factors=(factors,))


def _same(one: Replacement, other: Replacement) -> bool:
    if one.value.shape != other.value.shape or (one.rows is None) != (other.rows is None):
        return False
    rows = one.rows is None or np.array_equal(one.rows, np.asarray(other.rows))
    return rows and np.array_equal(one.value, other.value)
