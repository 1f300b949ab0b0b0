"""Which tensor of a model's GGUF file holds which parameter, whatever order its rows have there.

Names and shapes are those of llama.cpp's converter (ggml-org/llama.cpp, conversion/), which renames
parameters, stacks the matrices of experts and turns GPT-2's over.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from lorakit.architectures import HEAD, Decoder
from lorakit.formats.gguf.names import ROTATED, heads_of, tensor_of

LLAMA3_FACTORS = "rope_freqs.weight"
LONG_FACTORS, SHORT_FACTORS = "rope_factors_long.weight", "rope_factors_short.weight"
FREQUENCIES = (LLAMA3_FACTORS, LONG_FACTORS, SHORT_FACTORS)
_POSITIONS, _FINAL_NORM = "position_embd", "output_norm"


class Place(NamedTuple):
    """A parameter and its tensor, of this shape there; one with an axis for experts holds many."""

    module: str
    kind: str  # weight or bias
    tensor: str
    shape: tuple[int, ...]
    turned: bool = False
    is_norm: bool = False
    heads: int = 0  # rows of so many heads are in GGUF's order

    @property
    def parameter(self) -> str:
        """Its name in the model class; of experts, which have others, the module's and the kind."""
        return f"{self.module}.{self.kind}"


def places(decoder: Decoder) -> Iterator[Place]:
    """Where every parameter is. A dense layer beside those with experts has no place."""
    names, modules = _names(decoder), decoder.modules()
    permuted = decoder.architecture.gguf_permuted
    heads = dict(zip(ROTATED, (decoder.heads, decoder.kv_heads), strict=True)) if permuted else {}
    for parameter, shape in decoder.parameters().items():
        module, _, kind = parameter.rpartition(".")
        if module not in names:
            continue  # fused experts, which follow by module
        turned = kind == "weight" and module in modules and modules[module].transposed
        kept = shape[::-1] if turned else shape
        yield Place(
            module=module,
            kind=kind,
            tensor=f"{names[module]}.{kind}",
            shape=kept,
            turned=turned,
            is_norm=module not in modules,
            heads=heads_of(module, heads),
        )
    for module, found in modules.items():
        if found.experts is not None:
            whole = (found.experts, found.out_features, found.in_features)
            yield Place(module, "weight", f"{names[module]}.weight", whole)


def _names(decoder: Decoder) -> dict[str, str]:
    """GGUF's name of each module and norm."""
    layout = decoder.architecture.layout
    names = {layout.final_norm: _FINAL_NORM}
    if layout.positions is not None:
        names[layout.positions] = _POSITIONS
    for module in decoder.modules():
        found = tensor_of(module, layout)
        if found is not None and not (module == HEAD and decoder.tied):
            names[module] = found
    norms = dict(zip(layout.norms, layout.gguf_norms, strict=True))
    if decoder.architecture.qk_norm:
        norms |= {f"self_attn.{n}_norm": f"attn_{n}_norm" for n in "qk"}
    for index in range(len(decoder.layers)):
        at = f"{layout.blocks}.{index}"
        names |= {f"{at}.{norm}": f"blk.{index}.{found}" for norm, found in norms.items()}
    return names
