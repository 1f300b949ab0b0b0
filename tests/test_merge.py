"""Merged folders against PEFT's and MLX's own numbers, and against the plainest arithmetic."""

import numpy as np
import pytest

import lorakit
from conftest import DATA
from lorakit.base import Base
from lorakit.formats import read_adapter
from lorakit.merge import merge

TRUTH = DATA / "truth"
GEMMA, LLAMA = TRUTH / "bases/gemma3", TRUTH / "bases/llama"
Q = "model.layers.0.self_attn.q_proj"
REFUSED = {"alora", "pickle_bin"}
CASES = sorted(
    f"{path.parent.parent.parent.name}/{path.parent.parent.name}/{path.parent.name}"
    for path in TRUTH.glob("*/*/*/logits.npz")
    if path.parent.name not in REFUSED
)


def logits(folder, ids):
    with lorakit.open(folder, threads=1) as model:
        return [model.logits(row.tolist()) for row in ids]


def truth(case, scale="1"):
    """(ids, logits) that the trainer's own code gives, merged where it has that right."""
    with np.load(TRUTH / case / "logits.npz") as file:
        ids = [file[f"ids{n}"] for n in range(3)]
        right = "merged" if "merged_0" in file.files and "embed" not in case else f"scale{scale}"
        return ids, [file[f"{right}_{n}"] for n in range(3)]


def worst(ours, theirs):
    return max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_a_merged_model_gives_the_logits_of_the_trainers_own_code(case, tmp_path):
    base = Base.open(TRUTH / "bases" / case.split("/")[1])
    report = merge(base, [(read_adapter(TRUTH / case), 1.0)], tmp_path / "out")
    ids, expected = truth(case)
    assert worst(logits(tmp_path / "out", ids), expected) < 2e-4
    assert report.changed


@pytest.mark.parametrize("case", ["peft/gemma3/dora", "peft/gemma3/embed_tied", "mlx/gemma3/lora"])
def test_scales_mean_what_they_mean_at_run_time(case, tmp_path):
    base = Base.open(GEMMA)
    merge(base, [(read_adapter(TRUTH / case), 0.5)], tmp_path / "out")
    ids, expected = truth(case, "0.5")
    assert worst(logits(tmp_path / "out", ids), expected) < 2e-4
