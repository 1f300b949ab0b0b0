"""Checkpoints that were saved with an adapter beside their weights."""

import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from lorakit import demo
from lorakit.base.folder import Base
from lorakit.base.unmerged import require_plain
from lorakit.errors import BaseModelError

Q = "model.layers.0.self_attn.q_proj"


def saved(folder, rename=lambda name: name, extra=()):
    base = Base.open(demo.base_path())
    folder.mkdir()
    shutil.copy(demo.base_path() / "config.json", folder)
    tensors = {rename(name): np.array(t) for name, t in base.tensors.items()}
    tensors |= {name: np.zeros((4, 4), np.float32) for name in extra}
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("rename", "extra"),
    [
        (str, [f"{Q}.lora_A.default.weight", f"{Q}.lora_B.default.weight"]),
        (str, [f"{Q}.lora_A.weight"]),
        (lambda n: n.replace(Q, f"{Q}.base_layer"), [f"{Q}.lora_A.default.weight"]),
        (str, ["model.embed_tokens.lora_embedding_A.default"]),
        (str, [f"{Q}.lora_magnitude_vector.default.weight"]),
    ],
)
def test_an_adapter_beside_the_weights_is_refused_with_what_to_do(tmp_path, rename, extra):
    with pytest.raises(BaseModelError, match="without merging") as caught:
        Base.open(saved(tmp_path / "base", rename, extra))
    assert "merge_and_unload" in (caught.value.hint or "")


def test_names_that_only_look_like_it_pass(tmp_path):
    """The broken variant of a rule that looks for "lora" anywhere."""
    Base.open(saved(tmp_path / "base", extra=["model.flora_head.weight", "lora.weight"]))
    require_plain(tmp_path, ["model.layers.0.exploration_A.weight"])
