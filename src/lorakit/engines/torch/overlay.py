"""One set of adapters laid over a model: built once for a set, put on and taken off by forward.

A change of scale builds only small lists anew, except for DoRA's norms and for modules that are
neither linear nor an embedding, such as a router. The model's own weights are never written.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch.func import functional_call

from lorakit.adapter import in_order
from lorakit.architectures import HEAD
from lorakit.engines.protocol import AdapterSet
from lorakit.engines.torch import layers
from lorakit.engines.torch.layers import Change, Hook
from lorakit.engines.torch.parts import Attached, AttachedSet, Places, Term
from lorakit.errors import AdapterError

KEPT = 16  # overlays kept for their sets


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Overlay:
    """Forward hooks by module, forwards of their own, and parameters that take another's place."""

    hooks: tuple[tuple[Any, Hook], ...] = ()
    forwards: tuple[tuple[Any, Callable[..., Any]], ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)


class Overlays:
    """The overlays of one model. At most one is on; with none on, the model is as it was loaded."""

    def __init__(self, places: Places, attached: AttachedSet) -> None:
        self.places = places
        self._attached = attached
        self._kept: OrderedDict[AdapterSet, Overlay] = OrderedDict()
        self._on: Overlay | None = None
        self._undo: list[Callable[[], None]] = []

    def run(self, held: AdapterSet, **arguments: Any) -> Any:
        """The model's output under an adapter set. Raises AdapterError for sets that contradict."""
        overlay = self._of(held) if held else None
        if overlay is not self._on:
            self._take_off()
            self._put_on(overlay)
        model = self.places.model
        if overlay is None or not overlay.parameters:
            return model(**arguments)
        return functional_call(
            model, overlay.parameters, kwargs=arguments, tie_weights=False, strict=False
        )

    def drop(self, handle: int) -> None:
        """Forget the sets that a detached adapter was in."""
        for held in [held for held in self._kept if handle in dict(held)]:
            if self._kept.pop(held) is self._on:
                self._take_off()

    def _of(self, held: AdapterSet) -> Overlay:
        overlay = self._kept.get(held) or build(held, self.places, self._attached)
        self._kept[held] = overlay
        self._kept.move_to_end(held)
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return overlay

    def _put_on(self, overlay: Overlay | None) -> None:
        self._on = overlay
        if overlay is None:
            return
        for module, hook in overlay.hooks:
            self._undo.append(module.register_forward_hook(hook).remove)
        for module, forward in overlay.forwards:
            module.forward = forward
            self._undo.append(partial(delattr, module, "forward"))

    def _take_off(self) -> None:
        self._on = None
        while self._undo:
            self._undo.pop()()


def build(held: AdapterSet, places: Places, attached: AttachedSet) -> Overlay:
    """The overlay of an adapter set."""
    return _Builder(places, [(attached[handle], scale) for handle, scale in held]).overlay()


class _Builder:
    """Gathers what several adapters change in the same module."""

    def __init__(self, places: Places, parts: list[tuple[Attached, float]]) -> None:
        self.places = places
        self.parts = parts
        self.values: dict[str, Any] = {}
        self.rows: dict[str, tuple[Any, Any]] = {}
        self._replace()

    def overlay(self) -> Overlay:
        linears = self._gather(lambda part: part.linears)
        matrices = self._gather(lambda part: part.matrices)
        changed = {
            f"{name}.weight": layers.changed(self._weight(name), changes)
            for name, changes in matrices.items()
        }
        return Overlay(
            hooks=(
                *(
                    (self.places.module(n), layers.linear(changes))
                    for n, changes in linears.items()
                ),
                *self._vocabulary(),
            ),
            forwards=tuple(self._experts()),
            parameters={**self.values, **changed},
        )

    def _vocabulary(self) -> Iterator[tuple[Any, Hook]]:
        """Hooks of the lookups and of the head, where anything changes them."""
        lookups = {name for part, _ in self.parts for name in part.tables}
        lookups |= {name.removesuffix(".weight") for name in self.rows}
        for name in sorted(lookups - {HEAD}):
            changes = self._changes(name, [(p.tables.get(name, []), u) for p, u in self.parts])
            hook = layers.table(changes, self.rows.get(f"{name}.weight"))
            yield self.places.module(name), hook
        changes = self._changes(HEAD, [(part.heads, scale) for part, scale in self.parts])
        rows = self.rows.get(f"{HEAD}.weight")
        if changes or rows is not None:
            yield self.places.module(HEAD), layers.head(changes, rows)

    def _replace(self) -> None:
        """Raises AdapterError where two adapters replace the same parameter."""
        twice: set[str] = set()
        seen: dict[str, Attached] = {}
        for part, _ in self.parts:
            twice |= {name for name in part.replaced if seen.setdefault(name, part) is not part}
            self.values |= part.values
            self.rows |= part.rows
        if twice:
            raise AdapterError(
                "two adapters replace the same parameters",
                items=in_order(twice),
                hint="only one of them can be active at a time",
            )

    def _gather(self, of: Callable[[Attached], dict[str, Term]]) -> dict[str, list[Change]]:
        found: dict[str, list[Change]] = {}
        for part, scale in self.parts:
            for name, term in of(part).items():
                found.setdefault(name, []).append(self._change(name, term, scale))
        return found

    def _changes(self, name: str, terms: list[tuple[list[Term], float]]) -> list[Change]:
        return [self._change(name, term, scale) for found, scale in terms for term in found]

    def _change(self, name: str, term: Term, scale: float) -> Change:
        scale *= term.scale
        gain = None
        if term.magnitude is not None:
            gain = layers.gain(self._weight(name), term, scale)
        return Change(term=term, scale=scale, gain=gain)

    def _weight(self, name: str) -> Any:
        """W0 [out, in] of a module: the base's weight, or what takes its place."""
        parameter, module = f"{name}.weight", self.places.module(name)
        weight = self.values.get(parameter, module.weight)
        if parameter in self.rows:
            ids, values = self.rows[parameter]
            weight = weight.index_copy(0, ids, values)
        return layers.oriented(module, weight)

    def _experts(self) -> list[tuple[Any, Callable[..., Any]]]:
        found: dict[str, dict[str, list[Change]]] = {}
        for part, scale in self.parts:
            for name, terms in part.experts.items():
                for leaf, term in terms.items():
                    change = Change(term=term, scale=scale * term.scale)
                    found.setdefault(name, {}).setdefault(leaf, []).append(change)
        stacks = ((self.places.module(name), changes) for name, changes in found.items())
        return [(module, layers.experts(module, changes)) for module, changes in stacks]
