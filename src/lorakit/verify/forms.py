"""What each form of the weights costs, and what it may cost before something must be wrong.

The figures are those of bench/README.md, made by bench/fidelity.py; a test holds them to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lorakit.errors import ParameterError
from lorakit.values import finite, shown

MEASURED_ON = "SmolLM2-135M"


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A form of the ONNX engine, without adapters, against float32.

    bits: of the graph's files per weight. kl: mean over positions, nats. top1: share of positions
    with the same best token. most: the KL from which on it is broken, on any model: it is far above
    what rounding costs a real model, and far below the several nats of a wrong weight or scale.
    """

    bits: float
    kl: float
    top1: float
    most: float


FORMS: Mapping[str, Form] = {
    "fp16": Form(bits=16.15, kl=3e-06, top1=0.9993, most=0.001),
    "int8": Form(bits=8.27, kl=0.00310, top1=0.9652, most=0.1),
    "int4": Form(bits=6.40, kl=0.05084, top1=0.8796, most=0.5),
}
GGUF = "GGUF"  # any type of llama.cpp's, down to two bits
EXPORTS = {"fp16": 0.01, "q8": 0.1, "q4": 1.0, "q4f16": 1.0}  # fp16: of hidden states too
MOST: Mapping[str, float] = (
    {name: form.most for name, form in FORMS.items()}
    | {f"{name} export": most for name, most in EXPORTS.items()}
    | {GGUF: 2.0}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CostLimits:
    """What judges a comparison by its cost, in place of its largest difference.

    form: of the weights, in MOST, or "" where neither side is one. max_kl, min_top1: of the user.
    Without max_kl the KL may be what the form may cost at most. Raises ParameterError.
    """

    form: str = ""
    max_kl: float | None = None
    min_top1: float | None = None

    def __post_init__(self) -> None:
        """Raises ParameterError."""
        kl, top1 = self.max_kl, self.min_top1
        if kl is not None and not (finite(kl) and kl >= 0):
            raise ParameterError(f"max_kl must be finite and 0 or more, found {shown(kl)}")
        if top1 is not None and not (finite(top1) and 0 <= top1 <= 1):
            raise ParameterError(f"min_top1 must be from 0 to 1, found {shown(top1)}")

    @property
    def most(self) -> float:
        """The largest KL that passes."""
        return MOST.get(self.form, math.inf) if self.max_kl is None else self.max_kl

    def hold(self, kl: float, top1: float) -> bool:
        """Whether a cost is within them; NaN is not."""
        return kl <= self.most and top1 >= (self.min_top1 or 0.0)

    def verdict(self, kl: float, top1: float) -> str:
        """In a sentence: what was measured, and by what it was judged."""
        costs = f"KL {kl:.3g}, top-1 {top1:.1%}"
        if kl > self.most and self.max_kl is None:
            return f"something is wrong: {costs}; {self.form} may cost a KL of {self.most:g}"
        if self.max_kl is None and self.min_top1 is None:
            return f"measured{f' for {self.form}' * bool(self.form)}: {costs}; no limit was set"
        most = "" if self.max_kl is None else f" (at most {self.max_kl:g})"
        least = "" if self.min_top1 is None else f" (at least {100 * self.min_top1:g}%)"
        verdict = "within" if self.hold(kl, top1) else "beyond"
        return f"{verdict} the limits: KL {kl:.3g}{most}, top-1 {top1:.1%}{least}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values; most is None where any KL passes."""
        most = self.most if math.isfinite(self.most) else None
        return asdict(self) | {"most": most}
