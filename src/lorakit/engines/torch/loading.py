"""From a Base to a transformers model, and torch's errors as ours.

The weights come from the tensors that the Base has mapped, under the names of the model class, so
that transformers opens no file, asks no hub and runs no code but its own. It knows nothing of
adapters.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ml_dtypes
import numpy as np
import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils import logging

from lorakit.adapter import Array, in_order
from lorakit.base.folder import Base
from lorakit.errors import CapabilityError, EngineError

# What transformers raises for a config or weights that it does not take.
REFUSALS = (AttributeError, ImportError, KeyError, OSError, RuntimeError, TypeError, ValueError)
DEVICES = {
    "cpu": lambda: True,
    "cuda": torch.cuda.is_available,
    "mps": torch.backends.mps.is_available,
}


def choose_device(name: str | None) -> Any:
    """The torch device of that name; the CPU where none is asked for. Raises CapabilityError."""
    name = name or "cpu"
    if not DEVICES[name]():
        there = [device for device, is_there in DEVICES.items() if is_there()]
        raise CapabilityError(
            f"torch {torch.__version__} finds no {name} device here",
            hint=f"devices: {', '.join(there)}",
        )
    return torch.device(name)


def load_model(
    base: Base, device: Any, *, dtype: Any = torch.float32, attention: str = "eager"
) -> Any:
    """The base as a transformers model, ready to run.

    attention: a name that transformers knows, or that was registered with it. Raises EngineError
    where transformers refuses the base or memory is short.
    """
    try:
        config = CONFIG_MAPPING[base.config["model_type"]].from_dict(dict(base.config))
        kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        with native_errors("loading the base"), _quietly():
            weights = {name: as_torch(base.tensor(name)) for name in base.decoder.parameters()}
            model, report = kind.from_pretrained(
                None,
                config=config,
                state_dict=weights,
                dtype=dtype,
                attn_implementation=attention,
                experts_implementation="eager",
                local_files_only=True,
                output_loading_info=True,
            )
            model = model.to(device).eval().requires_grad_(False)
    except EngineError:
        raise
    except REFUSALS as error:
        raise EngineError(
            f"transformers {transformers.__version__} cannot load {base.name}: {error!r:.500}"
        ) from error
    lacking = in_order(str(name) for name in {*report["missing_keys"], *report["mismatched_keys"]})
    if lacking:
        raise EngineError(
            f"transformers {transformers.__version__} found no weights for parts of {base.name}",
            items=lacking[:20],
        )
    return model


def cache_argument(model: Any) -> str:
    """What the model's forward calls the KV cache; transformers 5.24 renamed it."""
    taken = inspect.signature(type(model).forward).parameters
    return "cache" if "cache" in taken else "past_key_values"


def as_torch(array: Array) -> Any:
    """A tensor on the memory of a mapped array, which is only ever read."""
    if array.dtype == np.dtype(ml_dtypes.bfloat16):
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without progress bars, and without torch's warning that mapped weights are read-only."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def native_errors(doing: str) -> Iterator[None]:
    """Failures of torch as EngineError; `out_of_memory` where that is what happened."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error).lower()
        full = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if full or "out of memory" in text or "can't allocate memory" in text:
            raise EngineError(
                f"the torch engine ran out of memory while {doing}: {error!s:.500}",
                code="out_of_memory",
                hint="use a smaller context, fewer sequences (max_batch), or another device",
            ) from error
        raise EngineError(f"the torch engine failed while {doing}: {error!s:.500}") from error
