"""RoPE scaled by YaRN: ONNX Runtime against transformers, beyond the context of training."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from lorakit.base.exported import Exported
from lorakit.base.folder import Base
from lorakit.engines.onnx.exported import ExportedEngine
from lorakit.engines.onnx.options import OnnxOptions
from lorakit.engines.protocol import EngineOptions, Row
from lorakit.engines.table import open_engine
from lorakit.errors import BaseModelError
from lorakit.graph.rope import inverse_frequencies
from onnx_cases import logits_of
from torch_cases import tiny_base
from web_exports import build

torch = pytest.importorskip("torch", reason="the torch engine needs the extra torch")
import transformers  # noqa: E402
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS  # noqa: E402

ORIGINAL, FACTOR = 64, 4.0
QWEN = {"type": "yarn", "factor": FACTOR, "original_max_position_embeddings": ORIGINAL}
SAID = {
    "as Qwen 2.5 says it": QWEN,
    "as transformers 5 says it": {"rope_type": "yarn", "factor": FACTOR,
                                  "original_max_position_embeddings": ORIGINAL},
    "the original context left out": {"rope_type": "yarn", "factor": FACTOR},
    "an attention factor": {**QWEN, "attention_factor": 0.8},
    "mscale alone": {**QWEN, "mscale": 0.7},
    "mscale and mscale_all_dim": {**QWEN, "mscale": 1.0, "mscale_all_dim": 0.4},
    "betas": {**QWEN, "beta_fast": 6, "beta_slow": 2.0},
    "no room for a ramp": {**QWEN, "beta_fast": 1, "beta_slow": 1},
    "a ramp between dimensions": {**QWEN, "truncate": False},
    "a factor left out": {"type": "yarn", "factor": None, "original_max_position_embeddings": 32},
    "nothing stretched": {**QWEN, "factor": 1.0},
}  # fmt: skip
FAMILIES = {
    "llama": transformers.LlamaConfig,
    "qwen2": transformers.Qwen2Config,
    "qwen3": transformers.Qwen3Config,
}
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 160,
         "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
         "max_position_embeddings": ORIGINAL}  # fmt: skip
IDS = [int(i) for i in np.random.default_rng(0).integers(3, 160, 200)]


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A base of a family, with what its config says of RoPE; {} removes it."""
    made = {name: tiny_base(tmp_path_factory.mktemp(name) / "base", kind(**SIZES))
            for name, kind in FAMILIES.items()}  # fmt: skip

    def base(family, said):
        folder = tmp_path_factory.mktemp("said") / "base"
        shutil.copytree(made[family], folder)
        config = json.loads((folder / "config.json").read_text())
        config.pop("rope_parameters", None)
        config |= {"rope_theta": 10000.0, **({"rope_scaling": said} if said else {})}
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return base


def theirs(folder, ids=IDS):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def ours(folder, engine="onnx", ids=IDS):
    base = Base.open(folder)
    running = open_engine(engine, base, EngineOptions(threads=1))
    try:
        row = Row(sequence=running.open_sequence(), tokens=np.array(ids), logits="all")
        return running.forward([row])[0].copy()
    finally:
        running.close()


def far(a, b):
    return float(np.abs(a - b).max())


@pytest.mark.parametrize("said", SAID.values(), ids=SAID)
def test_logits_are_those_of_transformers(bases, said):
    folder = bases("qwen2", said)
    ids = IDS[: Base.open(folder).decoder.context]
    assert far(ours(folder, ids=ids), theirs(folder, ids)) < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_it(bases, family):
    folder = bases(family, QWEN)
    wanted = theirs(folder)
    assert far(ours(folder), wanted) < 1e-4
    assert far(ours(folder, "torch"), wanted) < 1e-4


def test_without_it_the_logits_are_others(bases):
    """What would be seen if the scaling, or only its attention factor, were left out."""
    wanted, plain = theirs(bases("qwen2", QWEN)), bases("qwen2", {})
    assert far(theirs(plain), wanted) > 0.05
    config = json.loads((plain / "config.json").read_text())
    (plain / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 256}))
    assert far(ours(plain), theirs(plain)) < 1e-4
    assert far(ours(plain), wanted) > 0.05
    flat = bases("qwen2", {**QWEN, "attention_factor": 1.0})
    assert far(ours(flat), wanted) > 0.01


def test_an_exported_graph_carries_it(bases, tmp_path):
    """Its tables are made from frequencies when a session opens."""
    base = Base.open(bases("qwen2", {**QWEN, "attention_factor": 1.5}))
    build(base, tmp_path, "none", "dynamic")
    own = Exported(
        folder=tmp_path,
        kind="dynamic",
        graphs={"none": "onnx/model.onnx"},
        form="none",
        names=(),
        base_name="yarn",
        fingerprint=base.fingerprint,
        context=200,
        digests={"onnx/model.onnx_data": "0" * 64},
    )
    engine = ExportedEngine.open(replace(base, exported=own), own, OnnxOptions(threads=1))
    found = logits_of(engine, np.array(IDS))
    engine.close()
    assert far(found, theirs(base.path)) < 1e-4
    assert far(found, ours(bases("qwen2", QWEN))) > 0.01


def test_the_context_is_what_it_was_stretched_to(bases):
    folder = bases("qwen2", QWEN)
    assert Base.open(folder).decoder.context == int(ORIGINAL * FACTOR)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 300}))
    assert Base.open(folder).decoder.context == 300
    assert Base.open(bases("qwen2", SAID["the original context left out"])).decoder.context == 256


@pytest.mark.parametrize("head", [16, 64, 128])
@pytest.mark.parametrize("said", SAID.values(), ids=SAID)
def test_frequencies_are_those_of_transformers(bases, said, head):
    folder = bases("llama", said)
    rope = Base.open(folder).decoder.layers[0].rope
    config = transformers.AutoConfig.from_pretrained(folder)
    config.head_dim = head
    frequencies, attention = ROPE_INIT_FUNCTIONS["yarn"](config, device=None)
    np.testing.assert_allclose(inverse_frequencies(rope, head), frequencies.numpy(), rtol=2e-6)
    assert rope.attention == pytest.approx(attention)
    if rope.factor != 1.0:
        broken = inverse_frequencies(replace(rope, beta_slow=rope.beta_slow / 4), head)
        assert not np.allclose(broken, frequencies.numpy(), rtol=2e-6)


BAD = [
    ({**QWEN, "factor": 0}, "factor"),
    ({**QWEN, "factor": "4"}, "factor"),
    ({**QWEN, "beta_fast": -1}, "beta_fast"),
    ({**QWEN, "attention_factor": True}, "attention_factor"),
    ({**QWEN, "truncate": 1}, "truncate"),
    ({**QWEN, "original_max_position_embeddings": 0}, "original_max_position_embeddings"),
    ({**QWEN, "mscale": "x", "mscale_all_dim": 1}, "mscale"),
    ({**QWEN, "rope_theta": 1.0}, "rope_theta"),
]


@pytest.mark.parametrize(("said", "word"), BAD)
def test_what_cannot_be_meant_is_refused(bases, said, word):
    with pytest.raises(BaseModelError, match=word):
        Base.open(bases("qwen2", said))
