"""The numbers of an adapter's modules in a grid: a row for each kind of module, a column for each
layer. A picture and the terminal's heat map both start from it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lorakit.inspect.report import ModuleReport

_LAYER = re.compile(r"^(?P<before>(?:.*\.)?(?:layers|h|blocks))\.(?P<layer>\d{1,9})\.(?P<rest>.+)$")
_LOG = 20.0  # a larger span of numbers is shown by its logarithm
Place = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Numbers by kind of module and layer, each with its place between the least and the largest.

    cells: (kind, layer) -> (number, share); share is 0 to 1, or NaN where the number is.
    outside: of the modules that are in no layer.
    """

    kinds: tuple[str, ...]
    layers: int
    low: float
    high: float
    logarithmic: bool
    cells: Mapping[Place, tuple[float, float]]
    outside: Mapping[str, float]

    def value(self, share: float) -> float:
        """The number at a share of the way from the least to the largest."""
        if self.logarithmic and self.low > 0:
            return float(self.low * (self.high / self.low) ** share)
        return self.low + share * (self.high - self.low)


def norms(module: ModuleReport) -> float | None:
    """Of a module: the Frobenius norm of its change."""
    return module.norm


def grid(
    modules: Sequence[ModuleReport], number: Callable[[ModuleReport], float | None] = norms
) -> Grid | None:
    """A number of each module that lies in a layer; None where there is none."""
    places = places_of([m.module for m in modules])
    found: dict[Place, float] = {}
    outside: dict[str, float] = {}
    for m in modules:
        value, place = number(m), places.get(m.module)
        if value is not None and place is not None:
            found[place] = value
        elif value is not None:
            outside[m.module] = value
    if not found:
        return None
    finite = [value for value in found.values() if math.isfinite(value)]
    above = [value for value in finite if value > 0]
    high = max(finite, default=0.0)
    logarithmic = bool(above) and high > _LOG * min(above)
    low = min(above) if logarithmic else min(finite, default=0.0)
    return Grid(
        kinds=tuple(dict.fromkeys(kind for kind, _ in found)),
        layers=1 + max(layer for _, layer in found),
        low=low,
        high=high,
        logarithmic=logarithmic,
        cells={place: (v, _share(v, low, high, logarithmic)) for place, v in found.items()},
        outside=outside,
    )


def places_of(modules: Sequence[str]) -> dict[str, Place]:
    """("q_proj", 3) of "model.layers.3.self_attn.q_proj", of those that are in layers.

    Where that names two modules alike, the kind is as much of the path as tells them apart.
    """
    parts = {name: found for name in dict.fromkeys(modules) if (found := _LAYER.match(name))}
    kinds: tuple[Callable[[re.Match[str]], str], ...] = (
        lambda found: found["rest"].rpartition(".")[2],
        lambda found: found["rest"],
        lambda found: f"{found['before']}.*.{found['rest']}",
    )
    places: dict[str, Place] = {}
    for kind in kinds:
        places = {name: (kind(found), int(found["layer"])) for name, found in parts.items()}
        if len(set(places.values())) == len(places):
            break
    return places


def _share(value: float, low: float, high: float, logarithmic: bool) -> float:
    if not math.isfinite(value):
        return math.nan
    if not logarithmic:
        return (value - low) / (high - low) if high > low else float(high > 0)
    return math.log(value / low) / math.log(high / low) if value > 0 else 0.0
