"""What the tests of verify share: merged models made by plain numpy."""

import shutil

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file


def merged_into(base, adapter, target):
    """A copy of a base folder with W + scale * B @ A in it, in float32."""
    shutil.copytree(base, target)
    file = target / "model.safetensors"
    tensors = load_file(file)
    for d in adapter.deltas:
        name = f"{d.module}.weight"
        change = d.scale * d.b.astype(np.float64) @ d.a.astype(np.float64)
        tensors[name] = (tensors[name].astype(np.float64) + change).astype(np.float32)
    save_file(tensors, file, metadata={"format": "pt"})


def merged_in_bfloat16(base, adapter, scale, target):
    """As trainers merge on a GPU: the change is rounded before it is added, and the sum again."""
    half = ml_dtypes.bfloat16
    shutil.copytree(base, target)
    file = target / "model.safetensors"
    tensors = {name: tensor.astype(half) for name, tensor in load_file(file).items()}
    for d in adapter.deltas:
        name = f"{d.module}.weight"
        b, a = (part.astype(half).astype(np.float32) for part in (d.b, d.a))
        change = (scale * d.scale * (b @ a)).astype(half).astype(np.float32)
        tensors[name] = (tensors[name].astype(np.float32) + change).astype(half)
    save_file(tensors, file, metadata={"format": "pt"})
