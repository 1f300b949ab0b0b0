"""Which parameters of a model a replacement takes the place of."""

from __future__ import annotations

from lorakit.adapter import Site
from lorakit.architectures import HEAD


def uses(name: str, site: Site | None, table: str, *, tied: bool) -> list[str]:
    """A replaced parameter's own name, and its other use where the vocabulary's matrix is tied.

    table: the embedding's module; its parameter stands for the lookup, the head's for the
    projection.
    """
    lookup, head = f"{table}.weight", f"{HEAD}.weight"
    if name not in (lookup, head):
        return [name]
    if site in (Site.INPUT, Site.LINEAR):
        return [lookup]
    if site is Site.OUTPUT:
        return [head]
    return [lookup, head] if tied or site is Site.BOTH else [name]
