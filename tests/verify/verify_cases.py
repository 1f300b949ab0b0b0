"""What the tests of verify share: a merged model made by plain numpy."""

import shutil

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
