"""What tests of exported folders share: adapters with their trainers' logits, runs in mlx-lm."""

from pathlib import Path

import numpy as np

from folders import DATA
from lorakit.base.folder import Base
from lorakit.files.safetensors import write_safetensors
from lorakit.formats import read_adapter

TRUTH, RECORDED, FAMILIES = DATA / "truth", DATA / "recorded", DATA / "families"
GEMMA, LLAMA = TRUTH / "bases/gemma3", TRUTH / "bases/llama"
REFUSED = {"alora", "pickle_bin"}  # aLoRA acts on some tokens alone; a pickle is not read
ADAPTERS = sorted(
    path.parent.relative_to(DATA).as_posix()
    for folder in (TRUTH, RECORDED)
    for path in folder.glob("*/*/*/logits.npz")
    if path.parent.name not in REFUSED
)


def base_of(case: str) -> Base:
    """The base that an adapter of `ADAPTERS` is for."""
    name = case.split("/")[2]
    held = TRUTH if name in ("gemma3", "llama") else RECORDED
    return Base.open(held / "bases" / name)


def scaled(case: str, scale: float = 1.0):
    return [(read_adapter(DATA / case, base_of(case).decoder), scale)]


def truth(case: str, scale: str = "1"):
    """Pairs of ids and logits; some recorded every fourth position alone, which comes as well."""
    with np.load(DATA / case / "logits.npz") as file:
        if "ids" in file:
            ids, logits = file["ids"], file["scale1"]
            return [(ids, logits, len(ids) // len(logits))]
        # PEFT doubles the delta of a tied embedding when it merges; its forward pass is right
        right = "fused" if "fused_0" in file and scale == "1" else f"scale{scale}"
        return [(file[f"ids{n}"], file[f"{right}_{n}"], 1) for n in range(3)]


def run(folder: Path, ids, adapter: Path | None = None):
    """mlx-lm's logits of a folder: [tokens, vocabulary]."""
    import mlx.core as mx
    from mlx_lm.utils import load_adapters, load_model

    mx.set_default_device(mx.cpu)
    model, _ = load_model(folder)
    if adapter is not None:
        model = load_adapters(model, str(adapter))
        model.eval()
    return np.array(model(mx.array(np.asarray(ids))[None])[0].astype(mx.float32))


def held(folder: Path):
    """Every byte of a folder's weights, by tensor: dtype, shape, bytes."""
    import safetensors

    found = {}
    for file in sorted(folder.glob("model*.safetensors")):
        raw = file.read_bytes()
        for name, said in safetensors.deserialize(raw):
            found[name] = (said["dtype"], tuple(said["shape"]), bytes(said["data"]))
    return found


def recast(source: Path, folder: Path, dtype) -> Path:
    """A copy of a base in another dtype."""
    folder.mkdir()
    for file in source.iterdir():
        if file.suffix not in (".safetensors", ".npz"):
            (folder / file.name).write_bytes(file.read_bytes())
    tensors = {k: np.asarray(v).astype(dtype) for k, v in Base.open(source).tensors.items()}
    with (folder / "model.safetensors").open("wb") as file:
        write_safetensors(file, tensors, {"format": "pt"})
    return folder
