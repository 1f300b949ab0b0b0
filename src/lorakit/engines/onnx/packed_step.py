"""A bound run of rows with different numbers of new tokens, one in each lane (graph.packing)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lorakit.engines.onnx.device import Buffer, Device
from lorakit.engines.onnx.lora_inputs import Slab
from lorakit.engines.onnx.ort import Floats, Step
from lorakit.graph.packing import BUSY, LENGTHS, PACKED, SEGMENTED, SIZES, TOTAL, lane_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """A row in its lane. length: tokens before this step."""

    lane: int
    slot: int
    length: int
    hidden: Floats  # [tokens, hidden]


class PackedStep(Step):
    """One for all numbers of tokens; of a lane what did not change stays bound."""

    def __init__(
        self, session: Any, device: Device, *, lanes: int, hidden: int, buffers: Sequence[Buffer]
    ) -> None:
        super().__init__(session, device, batch=1, new=1, hidden=hidden)
        self._buffers = buffers
        self._own: dict[tuple[str, int], Any] = {}  # what each lane is bound to
        self._sizes = np.zeros(lanes, np.int64)
        self._segmented = np.zeros((), np.bool_)
        self._busy = np.zeros(lanes, np.bool_)
        self._ends = np.zeros((2, lanes), np.int32)  # lengths, totals
        self._bind_small()

    def fill(self, lanes: Sequence[Lane]) -> None:
        """Rows by ascending lanes, their tokens, and their slots of the KV cache."""
        self.hidden = np.concatenate([each.hidden for each in lanes])[np.newaxis]
        self._binding.input("hidden", self.hidden)
        self._sizes[:], self._busy[:] = 0, False
        for each in lanes:
            count = len(each.hidden)
            self._sizes[each.lane], self._busy[each.lane] = count, True
            self._ends[:, each.lane] = each.length + count - 1, each.length + count
            self._bind_slot(each.lane, each.slot)

    def bind_factors(self, shared: Slab, lanes: dict[int, tuple[Slab, int]]) -> None:
        """Each lane's own row of a slab; without any, the first row of one that all share."""
        self.bind_lora(shared, slice(0, 1))
        self._segmented[...] = bool(lanes)
        for lane, (slab, row) in lanes.items():
            if self._own.get(("lora", lane)) == (slab, row):
                continue
            for module, (a, b) in slab.arrays.items():
                target = slab.targets[module]
                self._binding.input(lane_of(target.a, lane), a[row : row + 1])
                self._binding.input(lane_of(target.b, lane), b[row : row + 1])
            self._own["lora", lane] = slab, row

    def _bind_small(self) -> None:
        """What is written in place before each run, and a batch's cache, which no one reads."""
        bind = self._binding.input
        bind(PACKED, np.ones((), np.bool_))
        bind(SEGMENTED, self._segmented)
        bind(SIZES, self._sizes)
        for lane in range(len(self._sizes)):
            bind(lane_of(BUSY, lane), self._busy[lane : lane + 1].reshape(()))
            bind(lane_of(LENGTHS, lane), self._ends[0, lane : lane + 1])
            bind(lane_of(TOTAL, lane), self._ends[1, lane : lane + 1].reshape(()))
        for index, buffer in enumerate(self._buffers):
            _, heads, _, dim = buffer.shape
            bind(f"past.{_part(index)}", np.zeros((1, heads, 0, dim), buffer.dtype))

    def _bind_slot(self, lane: int, slot: int) -> None:
        if self._own.get(("cache", lane)) == slot:
            return
        for index, buffer in enumerate(self._buffers):
            part = _part(index)
            past, present = (lane_of(f"{name}.{part}", lane) for name in ("past", "present"))
            self._binding.slots(past, present, buffer, slice(slot, slot + 1))
        self._own["cache", lane] = slot


def _part(index: int) -> str:
    """A buffer of the KV cache, as the graph names it."""
    return f"{index // 2}.{'value' if index % 2 else 'key'}"
