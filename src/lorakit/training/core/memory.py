"""Whether a step fits into memory, and what is done where it does not: layers computed twice.

Checkpointing keeps the input of each layer and computes the rest again on the way back. It gives
the same bits, so it may be switched from step to step. What a step needs is estimated from the
base's sizes; the factors were measured on FunctionGemma's shape (110 kB a token and layer in
float32), and are generous for families with fewer norms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from lorakit.architectures import Decoder
from lorakit.engines.free_memory import free_memory
from lorakit.errors import EngineError
from lorakit.training.core.layers import Step

HINT = "lower the batch size or the length of the examples, and accumulate more steps"
FULL = (  # what torch and oneDNN say where memory is out
    "out of memory",
    "can't allocate memory",
    "could not create a memory object",
    "could not create a primitive",
)
SPARE = 1.2  # what is asked for, in estimates


class Memory:
    """Chooses for each step of one model. Memory that an earlier step had is there again."""

    def __init__(self, decoder: Decoder, itemsize: int, device: Any, forced: bool | None) -> None:
        self._decoder, self._itemsize, self._device = decoder, itemsize, device
        self._forced = forced
        self._had = 0.0

    def checkpoint(self, tokens: int) -> bool:
        """Whether a step of so many tokens must compute its layers twice.

        Raises EngineError (out_of_memory) where even that would not fit.
        """
        if self._forced is not None:
            return self._forced
        free = available(self._device)
        for twice in (False, True):
            needed = SPARE * self.needed(tokens, twice)
            if free is None or needed - self._had <= free:
                self._had = max(self._had, needed)
                return twice
        raise EngineError(
            f"a step of {tokens} tokens needs about {needed / 1e9:.1f} GB, and "
            f"{((free or 0) + self._had) / 1e9:.1f} GB are there",
            code="out_of_memory",
            hint=HINT,
        )

    def needed(self, tokens: int, twice: bool) -> float:
        """Bytes that the activations of a step take."""
        d = self._decoder
        attention = d.heads * d.head_dim + d.kv_heads * d.head_dim
        layer = tokens * self._itemsize * (14 * d.hidden + 8 * attention + 4 * d.intermediate)
        count = len(d.layers)
        return layer + count * tokens * d.hidden * self._itemsize if twice else layer * count


def available(device: Any) -> float | None:
    """Bytes that can still be had; None where the system does not say."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + cached)
    if device.type == "mps":
        most = torch.mps.recommended_max_memory()
        return float(most - torch.mps.current_allocated_memory())
    return free_memory()


def twice(layers: Sequence[Any], step: Step) -> None:
    """Let layers be computed again on the way back while `step.twice` is set."""
    for layer in layers:
        layer.forward = partial(_run, layer.forward, step)


def _run(forward: Any, step: Step, *arguments: Any, **named: Any) -> Any:
    if not step.twice:
        return forward(*arguments, **named)
    own = step.scales, step.read

    def again(*arguments: Any, **named: Any) -> Any:
        """With the scales and tokens of its own step, whatever step runs now."""
        now = step.scales, step.read
        step.scales, step.read = own
        try:
            return forward(*arguments, **named)
        finally:
            step.scales, step.read = now

    return checkpoint(again, *arguments, use_reentrant=False, preserve_rng_state=False, **named)


@contextmanager
def torch_errors(doing: str) -> Iterator[None]:
    """Failures of torch as EngineError, with what to lower where memory was short."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error).lower()
        full = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if full or any(words in text for words in FULL):
            raise EngineError(
                f"out of memory while {doing}: {error!s:.500}", code="out_of_memory", hint=HINT
            ) from error
        raise EngineError(f"torch failed while {doing}: {error!s:.500}") from error
