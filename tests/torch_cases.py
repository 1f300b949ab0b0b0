"""What the torch engine's tests share: engines, logits, and weights merged by plain arithmetic."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from lorakit.adapter import Site
from lorakit.architectures import HEAD
from lorakit.base.folder import Base
from lorakit.engines.table import open_engine
from lorakit.engines.torch.options import TorchOptions

pytest.importorskip("torch", reason="the torch engine needs the extra torch")
pytest.importorskip("transformers", reason="the torch engine needs the extra torch")

TRUTH = Path(__file__).parent / "data" / "truth"


def truth_base(name: str) -> Path:
    return TRUTH / "bases" / name


def open_torch(folder: Path, **options):
    return open_engine("torch", Base.open(folder), TorchOptions(threads=1, **options))


def tiny_base(folder: Path, config, seed: int = 0) -> Path:
    """A checkpoint of a transformers config with random weights of ordinary size."""
    import torch
    import transformers

    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config).float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return folder


def merged(folder: Path, base: Base, parts) -> Path:
    """A base with adapters [(adapter, scale)] in its weights, in float64, its head untied."""
    tied = base.decoder.tied
    names = [*base.decoder.parameters(), *([f"{HEAD}.weight"] if tied else [])]
    original = {name: base.tensor(name).astype(np.float64) for name in names}
    table = f"{base.decoder.embedding}.weight"
    for adapter, _ in parts:
        for r in sorted(adapter.replacements, key=lambda r: r.rows is not None):
            for name in _uses(r.name, r.site, table, tied):
                rows = slice(None) if r.rows is None else r.rows
                original[name] = original[name].copy()
                original[name][rows] = r.value
    weights = {name: array.copy() for name, array in original.items()}
    for adapter, scale in parts:
        magnitudes = {m.module: m.value.astype(np.float64) for m in adapter.magnitudes}
        for delta in adapter.deltas:
            _add(weights, original, base, delta, scale, magnitudes.get(delta.module))
    folder.mkdir()
    config = json.loads((base.path / "config.json").read_text()) | {"tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    save_file({n: w.astype(np.float32) for n, w in weights.items()}, folder / "model.safetensors")
    return folder


def _uses(name, site, table, tied):
    head = f"{HEAD}.weight"
    if name not in (table, head):
        return [name]
    both = [table, head] if tied else [name]
    return {Site.INPUT: [table], Site.OUTPUT: [head], Site.BOTH: [table, head]}.get(site, both)


def _add(weights, original, base, delta, scale, magnitude):
    a, b, s = delta.a.astype(np.float64), delta.b.astype(np.float64), scale * delta.scale
    shape = base.decoder.modules()[delta.module]
    if delta.a.ndim == 3:
        name, rows = _expert_rows(delta, shape)
        weights[name][:, rows] += s * np.einsum("eor,eri->eoi", b, a)
        return
    names = [f"{delta.module}.weight"]
    change = s * b @ a
    if shape.embedding:
        names = _uses(names[0], delta.site, names[0], base.decoder.tied)
    turned = shape.transposed or (shape.embedding and delta.site is not Site.OUTPUT)
    for name in names:
        if magnitude is not None:  # in the orientation of the delta, over the axis that it has
            w = original[name].T if turned else original[name]
            per_row = len(magnitude) == len(w)
            norm = np.linalg.norm(w + change, axis=1 if per_row else 0, keepdims=True)
            gain = (magnitude[:, None] if per_row else magnitude[None]) / norm
            weights[name] *= gain.T if turned else gain
            full = gain * change
        else:
            full = change
        weights[name] += full.T if turned else full
        if delta.bias is not None:
            weights[name.replace("weight", "bias")] += s * delta.bias


def _expert_rows(delta, shape):
    at, _, leaf = delta.module.rpartition(".")
    size = shape.out_features
    if leaf == "down_proj":
        return delta.module, slice(None)
    return f"{at}.gate_up_proj", slice(0, size) if leaf == "gate_proj" else slice(size, None)
