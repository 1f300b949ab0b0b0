"""What the engine's tests share: small bases, adapters, and one way to ask for logits."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from lorakit.adapter import Adapter, Delta, Site
from lorakit.base.folder import Base
from lorakit.engines.onnx.engine import OnnxEngine
from lorakit.engines.onnx.options import OnnxOptions
from lorakit.engines.protocol import Row
from lorakit.formats.peft import read_peft

DATA = Path(__file__).parent / "data"
TRUTH = DATA / "truth"
CASES = {
    "gemma3": ("plain", "plain_b", "rslora", "patterns", "embed_only", "embed_tied", "layers"),
    "llama": ("plain", "plain_b", "rslora", "bf16", "embed_lmhead", "pissa_converted"),
}


def open_engine(folder: Path, **options) -> OnnxEngine:
    return OnnxEngine.open(Base.open(folder), OnnxOptions(threads=1, **options))


def truth_base(name: str) -> Path:
    return TRUTH / "bases" / name


def truth_adapter(base: str, name: str) -> Adapter:
    return read_peft(TRUTH / "peft" / base / name)


def row(sequence: int, tokens, adapters=(), logits="all") -> Row:
    return Row(
        sequence=sequence, tokens=np.asarray(tokens, np.int64), adapters=adapters, logits=logits
    )


def logits_of(engine, tokens, adapters=(), chunk: int | None = None) -> np.ndarray:
    """Logits of every position of a fresh sequence, `chunk` tokens at a time."""
    sequence = engine.open_sequence()
    step = chunk or len(tokens)
    parts = [
        engine.forward([row(sequence, tokens[at : at + step], adapters)])[0].copy()
        for at in range(0, len(tokens), step)
    ]
    engine.close_sequence(sequence)
    return np.concatenate(parts)


def divergence(found, expected):
    """Mean KL from the expected logits' distributions."""

    def normal(x):
        x = x.astype(np.float64) - x.max(-1, keepdims=True)
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    one, other = normal(expected), normal(found)
    return float((np.exp(one) * (one - other)).sum(-1).mean())


def merged_base(folder: Path, base: Path, parts: list[tuple[Adapter, float]]) -> Path:
    """A copy of a base with adapters folded into its weights, in float64, by plain arithmetic."""
    source = Base.open(base)
    weights = {name: np.array(tensor, np.float64) for name, tensor in source.tensors.items()}
    for adapter, scale in parts:
        for delta in adapter.deltas:
            change = delta.b.astype(np.float64) @ delta.a.astype(np.float64)
            change *= scale * delta.scale
            weights[f"{delta.module}.weight"] += change.T if delta.site is Site.INPUT else change
    folder.mkdir()
    (folder / "config.json").write_bytes((base / "config.json").read_bytes())
    save_file({n: w.astype(np.float32) for n, w in weights.items()}, folder / "model.safetensors")
    return folder


def random_adapter(base: Base, seed: int, rank: int = 4, modules=None, scale=1.0) -> Adapter:
    rng = np.random.default_rng(seed)
    shapes = {name: s for name, s in base.decoder.modules().items() if not s.embedding}
    return Adapter(
        deltas=tuple(
            Delta(
                module=name,
                a=rng.standard_normal((rank, shapes[name].in_features), np.float32) * 0.3,
                b=rng.standard_normal((shapes[name].out_features, rank), np.float32) * 0.1,
                scale=scale,
            )
            for name in modules or shapes
        )
    )
