"""Steps that stay bound from one call to the next, for the shapes that come again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lorakit.engines.onnx.device import Buffer, Device
from lorakit.engines.onnx.ort import Step
from lorakit.engines.onnx.packed_step import PackedStep

MAX_STEPS = 32  # kept for their shapes


@dataclass(slots=True, kw_only=True)
class BoundSteps:
    """Those of a session; whoever changes that clears them. They keep the memory alive that they
    are bound to. hidden: how many values a token's hidden state has."""

    device: Device
    hidden: int
    _steps: dict[tuple[int, int], Step] = field(default_factory=dict)  # by (batch, new tokens)
    _packed: PackedStep | None = None
    _stamp: tuple[int, int] = (0, 0)

    def renew(self, stamp: tuple[int, int]) -> None:
        """Let go of all where they are too many, or bound to memory that is no longer used.

        stamp: of the memory that is: how often the KV cache has moved, and LoRA rows.
        """
        if stamp != self._stamp or len(self._steps) > MAX_STEPS:
            self.clear()
            self._stamp = stamp

    def of(self, session: Any, batch: int, new: int) -> Step:
        """Of as many rows, and new tokens of each."""
        shape = (batch, new)
        if shape not in self._steps:
            self._steps[shape] = Step(
                session, self.device, batch=batch, new=new, hidden=self.hidden
            )
        return self._steps[shape]

    def packed(self, session: Any, lanes: int, buffers: Sequence[Buffer]) -> PackedStep:
        """For rows of any numbers of tokens. buffers: of the KV cache."""
        if self._packed is None:
            self._packed = PackedStep(
                session, self.device, lanes=lanes, hidden=self.hidden, buffers=buffers
            )
        return self._packed

    def clear(self) -> None:
        self._steps.clear()
        self._packed = None
