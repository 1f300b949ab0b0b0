"""What stays in memory for the way back, and of the files that loading has read."""

import mmap
import sys

import pytest

pytest.importorskip("torch", reason="training needs the extra train")

import torch
from core_cases import base_of, model_of, ours, rows_of

from lorakit.files import bounded
from lorakit.training.core import build
from lorakit.training.core.numerics import Numerics
from resident import resident

ROWS = rows_of(20, [9, 12, 7])
TOKENS = 20 + 9 + 12 + 7
BETWEEN = 2 * TOKENS * 48 * 4  # bytes of act(gate), in all layers but the last


def plain(mlp):
    """transformers' own product stays."""


def kept(base):
    """Loss with gradients, and bytes that were saved."""
    saved = {}

    def note(tensor):
        saved[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    model = model_of(base)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        return ours(model, ROWS), sum(saved.values())


def test_the_activation_of_a_gate_is_not_kept_and_gives_the_same_bits(tmp_path, monkeypatch):
    base = base_of("gemma3", tmp_path)
    (loss, gradients), less = kept(base)
    monkeypatch.setattr(build, "fuse", plain)
    (same, theirs), more = kept(base)
    assert more - less >= BETWEEN
    assert loss == same
    assert all(torch.equal(gradients[name], theirs[name]) for name in theirs)


@pytest.mark.skipif(sys.platform != "linux", reason="reads its own memory from /proc")
def test_the_weights_files_leave_memory_once_they_are_converted(tmp_path, monkeypatch):
    monkeypatch.setattr(bounded, "MAX_READ", 1 << 10)  # the tiny file is mapped, as large ones are
    half = Numerics(dtype="bfloat16")
    path = base_of("gemma3", tmp_path).path / "model.safetensors"
    with monkeypatch.context() as broken:
        broken.setattr(build, "_let_go", lambda base: None)
        first = model_of(base_of("gemma3", tmp_path), numerics=half, moved=False)
        before = resident(path)
        del first
    base = base_of("gemma3", tmp_path / "again")
    path = base.path / "model.safetensors"
    model_of(base, numerics=half, moved=False)
    assert before > 500
    assert resident(path) <= mmap.PAGESIZE >> 10  # the header's
    assert base.tensor("model.norm.weight").any()  # and they come back
