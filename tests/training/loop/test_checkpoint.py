"""Checkpoints: whole or not there, of this run or refused."""

import numpy as np
import pytest

from lorakit.errors import FormatError, ParameterError, WriteError
from lorakit.training import checkpoint as module
from lorakit.training.checkpoint import (
    Checkpoint,
    checkpoint_path,
    load_checkpoint,
    save_checkpoint,
)

RUN = {"base": "abc", "schedule.rate": 0.1, "companions": {}}
WEIGHTS = {
    "model/a": np.array([[1.5, -0.0]], np.float32),
    "best/a": np.zeros((0, 2), np.float32),
    "losses": np.array([0.1, 1 / 3], np.float64),
}
THIRD = Checkpoint(step=3, tensors=WEIGHTS, state={"goal": None, "kept": [{"task": "chat"}]})


def test_what_is_saved_is_loaded_bit_by_bit(tmp_path):
    path = checkpoint_path(tmp_path / "adapters" / "home")
    assert path == tmp_path / "adapters" / "home.checkpoint"
    assert load_checkpoint(path, RUN) is None
    save_checkpoint(path, RUN, THIRD)
    found = load_checkpoint(path, RUN)
    assert (found.step, found.state) == (3, THIRD.state)
    assert {k: (v.dtype, v.tobytes()) for k, v in found.tensors.items()} == {
        k: (v.dtype, v.tobytes()) for k, v in WEIGHTS.items()
    }
    assert list(found.part("model")) == ["a"]
    assert [file.name for file in path.parent.iterdir()] == ["home.checkpoint"]


def test_another_runs_checkpoint_is_refused_with_every_difference(tmp_path):
    path = tmp_path / "home.checkpoint"
    save_checkpoint(path, RUN, THIRD)
    with pytest.raises(ParameterError, match="of another run") as caught:
        load_checkpoint(path, {**RUN, "base": "xyz", "schedule.rate": 0.2})
    assert len(caught.value.items) == 2
    assert "resume=False" in caught.value.hint


@pytest.mark.parametrize("damage", [b"", b"nothing", None])
def test_a_damaged_one_is_an_error(tmp_path, damage):
    path = tmp_path / "home.checkpoint"
    save_checkpoint(path, RUN, THIRD)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if damage is None else damage)
    with pytest.raises(FormatError):
        load_checkpoint(path, RUN)


def test_a_file_of_tensors_is_no_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "home.checkpoint"
    monkeypatch.setattr(module, "KEY", "something-else")
    save_checkpoint(path, RUN, THIRD)
    monkeypatch.undo()
    with pytest.raises(FormatError, match="no checkpoint of a training run"):
        load_checkpoint(path, RUN)


def test_a_failed_save_leaves_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "home.checkpoint"
    save_checkpoint(path, RUN, THIRD)
    before = path.read_bytes()

    def half(file, tensors, metadata):
        file.write(before[:40])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_safetensors", half)
    with pytest.raises(WriteError, match="No space left"):
        save_checkpoint(path, RUN, THIRD)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["home.checkpoint"]
