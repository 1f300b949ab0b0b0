"""adapter_model.bin: PyTorch's pickle, read only where the caller allows it, with weights_only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import ml_dtypes

from lorakit.adapter import Array
from lorakit.errors import FormatError, LorakitError, MissingExtraError, UnsupportedError
from lorakit.files.bounded import open_regular

PICKLE = "adapter_model.bin"
MAX_SIZE = 64 << 30  # bytes


def refuse_pickle(path: Path) -> UnsupportedError:
    return UnsupportedError(
        f"{path} holds {PICKLE}: a pickle can run code when it is opened, so it is not read",
        code="pickle_refused",
        hint="where you trust it: allow_pickle=True; it is then read by torch "
        "with weights_only. Or load it with PEFT and save it again as safetensors",
    )


def read_pickle(file: Path) -> dict[str, Array]:
    """The tensors of a pickle by name, through ``torch.load(weights_only=True)``.

    Raises MissingExtraError without torch, FormatError for a pickle that is broken or holds
    anything but named tensors.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError(
            f"reading {PICKLE} needs torch: {error}", hint="pip install 'lorakit[torch]'"
        ) from error
    try:
        with open_regular(file) as opened:
            if os.fstat(opened.fileno()).st_size > MAX_SIZE:
                raise FormatError(f"{file} is larger than {MAX_SIZE} bytes")
            content = torch.load(opened, map_location="cpu", weights_only=True)
    except LorakitError:
        raise
    except Exception as error:  # torch documents none: zip, unpickling, end of file, runtime
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise FormatError(f"{file} is not a pickle of tensors alone: {reason}") from error
    if not isinstance(content, dict):
        raise FormatError(f"{file} must hold tensors by name, found {type(content).__name__}")
    odd = [
        repr(name)[:80]
        for name, value in content.items()
        if not isinstance(name, str) or not isinstance(value, torch.Tensor) or value.is_sparse
    ]
    if odd:
        raise FormatError(f"{file} holds more than named tensors", items=odd[:20])
    return {name: _array(tensor, torch) for name, tensor in content.items()}


def _array(tensor: Any, torch: Any) -> Array:
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        bits: Array = tensor.view(torch.int16).numpy()
        return bits.view(ml_dtypes.bfloat16)
    array: Array = tensor.numpy()
    return array
