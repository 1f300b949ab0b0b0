"""Modules that a config asks for and a file has no tensors of, said in a line for each kind."""

from __future__ import annotations

import re
from collections.abc import Iterable

_LAYER = re.compile(r"(.+\.(?:layers|h))\.(\d{1,9})\.(.+)")
NAMED = 12  # layers named in one line


def by_kind(modules: Iterable[str], asked: str) -> list[str]:
    """One line for each kind of module, with the layers that lack it."""
    layers: dict[str, list[int]] = {}
    lines = []
    for module in modules:
        if found := _LAYER.fullmatch(module):
            layers.setdefault(found[3], []).append(int(found[2]))
        else:
            lines.append(f"{asked} {module}, of which the file has no tensors")
    for kind, indices in sorted(layers.items()):
        named = ", ".join(map(str, sorted(indices)[:NAMED])) + ", ..." * (len(indices) > NAMED)
        place = "layer" if len(indices) == 1 else f"{len(indices)} layers:"
        lines.append(f"{asked} {kind}, which the file lacks in {place} {named}")
    return lines
