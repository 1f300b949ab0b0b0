"""What GGUF calls the modules of a family, and the order in which it keeps the rows of q and k."""

from __future__ import annotations

import re
from collections.abc import Mapping

from lorakit.adapter import Array
from lorakit.architectures import ARCHITECTURES, Layout

LAYOUTS = {row.gguf: row.layout for row in ARCHITECTURES.values()}
PERMUTED = {row.gguf: row.gguf_permuted for row in ARCHITECTURES.values()}
ROTATED = ("self_attn.q_proj", "self_attn.k_proj")  # whose rows a permuted base has in pairs
_LAYER = re.compile(r"blk\.(0|[1-9]\d{0,3})\.(\w+)", re.ASCII)
_NUMBER = re.compile(r"0|[1-9]\d{0,3}", re.ASCII)


def module_of(name: str, layout: Layout) -> str | None:
    """The module of a base tensor's name without its `.weight`; None where there is none."""
    if layout.verbatim:
        return name
    for module, table in layout.gguf_tables.items():
        if name == table:
            return module
    layer = _LAYER.fullmatch(name)
    modules = {gguf: module for module, gguf in layout.gguf.items()}
    if layer is None or layer[2] not in modules:
        return None
    return f"{layout.blocks}.{layer[1]}.{modules[layer[2]]}"


def tensor_of(module: str, layout: Layout) -> str | None:
    """The base tensor of a module without its `.weight`; None where llama.cpp adapts none."""
    if layout.verbatim:
        return module
    if module in layout.gguf_tables:
        return layout.gguf_tables[module]
    number, name = _split(module, layout)
    if not _NUMBER.fullmatch(number) or name not in layout.gguf:
        return None
    return f"blk.{number}.{layout.gguf[name]}"


def is_stacked(module: str, layout: Layout) -> bool:
    """Whether a module is a projection of experts, whose tensors have an axis for them."""
    return _split(module, layout)[1] in layout.stacked


def head_keys(architecture: str) -> tuple[str, str]:
    """The keys with the number of heads and of KV heads."""
    at = f"{architecture}.attention.head_count"
    return at, f"{at}_kv"


def heads_of(module: str, heads: Mapping[str, int]) -> int:
    """How many heads the rows of a module are; 0 for one whose rows stay in order."""
    return next((count for name, count in heads.items() if module.endswith(name)), 0)


def permuted(b: Array, heads: int, axis: int) -> Array:
    """B with the rows of each head [2, d/2] exchanged (axis 2), or those of [d/2, 2] (axis 1)."""
    out, rank = b.shape
    half = out // heads // 2
    shape = (heads, 2, half, rank) if axis == 2 else (heads, half, 2, rank)
    return b.reshape(shape).swapaxes(1, 2).reshape(out, rank)


def _split(module: str, layout: Layout) -> tuple[str, str]:
    number, _, name = module.removeprefix(f"{layout.blocks}.").partition(".")
    return number, name
