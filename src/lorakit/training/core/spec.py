"""What is trained: the adapter's shape. Plain values; imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from lorakit.errors import ParameterError


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSpec:
    """A LoRA adapter to be trained.

    targets: module names or their ends (`q_proj`, `layers.3.mlp.up_proj`); empty: every linear
    layer of the blocks. rslora: the scale is alpha / sqrt(rank) (Kalajdzievski 2023). dora: Liu et
    al. 2024, its norms without a gradient, as PEFT has it. pissa: A and B begin with the weights'
    principal part (Meng et al. 2024); what is saved is a plain adapter of twice the rank.
    embeddings: a low-rank change of the token lookup too. tokens: ids whose embedding rows are
    trained whole, at both uses of a tied matrix. There is no dropout.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ()
    rslora: bool = False
    dora: bool = False
    pissa: bool = False
    embeddings: bool = False
    tokens: tuple[int, ...] = field(default=())

    def __post_init__(self) -> None:
        faults = []
        if self.rank < 1:
            faults.append(f"rank: expected 1 or more, found {self.rank}")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            faults.append(f"alpha: expected a finite number above 0, found {self.alpha}")
        if self.dora and self.pissa:
            faults.append("pissa: it changes the base, over which DoRA cannot be saved")
        if self.dora and (self.embeddings or self.tokens):
            faults.append("embeddings, tokens: DoRA trains linear layers alone")
        if self.embeddings and self.tokens:
            faults.append("tokens: PEFT cannot hold trained rows under a low-rank change of them")
        if faults:
            raise ParameterError("this adapter cannot be trained", items=faults)

    @property
    def scale(self) -> float:
        """What B A is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)
