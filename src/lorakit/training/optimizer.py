"""AdamW on the adapter's parameters, whose state can be put into a checkpoint. Needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lorakit.adapter import Array

BETAS = (0.9, 0.98)
LONGEST_GRADIENT = 1.0  # what a step's gradient is scaled down to


class Optimizer:
    """AdamW (Loshchilov and Hutter 2019) with the gradient's norm limited."""

    def __init__(self, parameters: list[Any], weight_decay: float) -> None:
        self._parameters = parameters
        self._adamw = torch.optim.AdamW(
            parameters, lr=0.0, betas=BETAS, weight_decay=weight_decay, foreach=True
        )

    def limit(self) -> float:
        """Scale the gradient down to its limit; returns the norm that it had."""
        return float(torch.nn.utils.clip_grad_norm_(self._parameters, LONGEST_GRADIENT))

    def step(self, rate: float) -> None:
        """Update the parameters."""
        for group in self._adamw.param_groups:
            group["lr"] = rate
        self._adamw.step()

    def clear(self) -> None:
        """Forget the gradient."""
        self._adamw.zero_grad()

    def state(self) -> dict[str, Array]:
        """Copies of what AdamW keeps of each parameter, by its number and name."""
        return {
            f"{number}/{name}": to_array(value)
            for number, values in self._adamw.state_dict()["state"].items()
            for name, value in values.items()
        }

    def restore(self, state: Mapping[str, Array]) -> None:
        """Take over what `state` gave."""
        values: dict[int, dict[str, Any]] = {}
        for key, array in state.items():
            number, _, name = key.partition("/")
            values.setdefault(int(number), {})[name] = torch.from_numpy(array.copy())
        groups = self._adamw.state_dict()["param_groups"]
        self._adamw.load_state_dict({"state": values, "param_groups": groups})


def to_array(tensor: Any) -> Array:
    """A copy of a tensor."""
    array: Array = tensor.detach().to("cpu", copy=True).numpy()
    return array
