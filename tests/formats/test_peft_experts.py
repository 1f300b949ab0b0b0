"""Experts, routers and Conv1D in PEFT's files: what PEFT recorded, and PEFT itself where it is.

The recorded adapters are made by tests/data/recorded/record_peft.py.
"""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from folders import DATA
from lorakit.adapter import Adapter, Delta
from lorakit.base.folder import Base
from lorakit.errors import FormatError, UnsupportedError
from lorakit.formats import read_adapter
from lorakit.formats.peft import read_peft, write_peft

RECORDED = DATA / "recorded"
MOE = RECORDED / "peft/qwen3_moe"
FOLDERS = sorted(path.parent for path in RECORDED.glob("peft/*/*/adapter_config.json"))
EXPERTS = "model.layers.0.mlp.experts"


def named(path):
    return "/".join(path.parts[-2:])


def base_of(path):
    return Base.open(RECORDED / "bases" / path.parent.name)


def change_of(delta, merged):
    """The recorded change of the weight that a delta is for."""
    module, _, leaf = delta.module.rpartition(".")
    if leaf in ("gate_proj", "up_proj"):
        gate, up = np.split(merged[f"{module}.gate_up_proj"], 2, axis=1)
        return gate if leaf == "gate_proj" else up
    return merged[delta.module if delta.a.ndim == 3 else f"{delta.module}.weight"]


@pytest.mark.parametrize("path", FOLDERS, ids=named)
def test_the_deltas_are_the_recorded_change_of_the_weights(path):
    adapter, merged = read_peft(path), dict(np.load(path / "merged.npz"))
    for delta in adapter.deltas:
        change = delta.scale * (delta.b @ delta.a)
        if path.parent.name == "gpt2":
            change = change.T  # a Conv1D holds [in, out]
        np.testing.assert_allclose(change, change_of(delta, merged), atol=1e-6)
    seen = {d.module.rpartition(".")[0] if d.a.ndim == 3 else d.module for d in adapter.deltas}
    assert {name.removesuffix(".weight").removesuffix(".gate_up_proj").removesuffix(".down_proj")
            for name in merged} == seen  # fmt: skip


@pytest.mark.parametrize("path", FOLDERS, ids=named)
def test_it_comes_back_from_what_we_write(path, tmp_path):
    adapter, base = read_peft(path), base_of(path)
    write_peft(adapter, tmp_path / "a", decoder=base.decoder)
    assert read_adapter(tmp_path / "a", base.decoder) == adapter
    config = json.loads((tmp_path / "a/adapter_config.json").read_text())
    assert config["fan_in_fan_out"] is (path.parent.name == "gpt2")


def experts(module, rank=2, n_in=6, n_out=4, count=3, seed=0, **more):
    rng = np.random.default_rng(seed)
    options = {
        "a": rng.normal(size=(count, rank, n_in)).astype("f4"),
        "b": rng.normal(size=(count, n_out, rank)).astype("f4"),
        "scale": 0.5,
    } | more
    return Delta(module=f"{EXPERTS}.{module}", **options)


def shared(seed=0):
    gate, up = experts("gate_proj", seed=seed), experts("up_proj", seed=seed + 1)
    return gate, replace(up, a=gate.a)


@pytest.mark.parametrize(
    "deltas",
    [
        shared(),
        (experts("gate_proj"), experts("up_proj", seed=1)),
        (experts("gate_proj", rank=3), experts("up_proj", rank=1, seed=1)),
        (experts("gate_proj"),),
        (experts("up_proj"), experts("down_proj", rank=4)),
        (experts("down_proj"),),
        (experts("gate_proj", b=np.zeros((3, 4, 2), "f4")), experts("up_proj", seed=1)),
        (*shared(), experts("down_proj", n_in=4, n_out=6, scale=3.0)),
        (experts("gate_proj", count=1), experts("down_proj", count=1)),
    ],
    ids=lambda deltas: "+".join(d.module.rpartition(".")[2] for d in deltas),
)
def test_every_choice_of_projections_comes_back(deltas, tmp_path):
    adapter = Adapter(deltas=deltas)
    write_peft(adapter, tmp_path / "a")
    assert read_peft(tmp_path / "a") == adapter


def test_the_scale_of_up_is_folded_where_gate_has_another(tmp_path):
    gate, up = experts("gate_proj"), experts("up_proj", seed=1, scale=0.7)
    write_peft(Adapter(deltas=(gate, up)), tmp_path / "a")
    found = {d.module: d for d in read_peft(tmp_path / "a").deltas}[up.module]
    assert found.scale == 0.5
    np.testing.assert_allclose(found.scale * found.b @ found.a, up.scale * up.b @ up.a, rtol=1e-5)


def edited(source, target, tensors=None, **changes):
    shutil.copytree(source, target)
    config = json.loads((target / "adapter_config.json").read_text()) | changes
    (target / "adapter_config.json").write_text(json.dumps(config))
    if tensors is not None:
        save_file(tensors, target / "adapter_model.safetensors", {"format": "pt"})
    return target


def test_before_peft_0_19_in_and_out_were_exchanged(tmp_path):
    """Its delta was einsum("o r e, e r i -> e i o") on parameters that are [E, out, in]."""
    new = read_peft(MOE / "experts")
    tensors = load_file(MOE / "experts/adapter_model.safetensors")
    for name in [name for name in tensors if ".experts." in name and ".lora_A" in name]:
        rank = 3 if ".base_layer." not in name else 2
        other = name.replace("lora_A", "lora_B")
        a, b = tensors[name], tensors[other]
        a = a.reshape(-1, rank, a.shape[1])  # [E, r, in]
        b = b.reshape(len(b), rank, -1).transpose(2, 0, 1)  # [E, out, r]
        tensors[name] = b.transpose(0, 2, 1).reshape(-1, b.shape[1]).copy()
        tensors[other] = a.transpose(2, 1, 0).reshape(a.shape[2], -1).copy()
    for version in ("0.18.1", None):
        path = edited(MOE / "experts", tmp_path / f"v{version}", tensors, peft_version=version)
        assert read_peft(path) == new


def test_parameters_may_be_named_by_their_last_step_alone(tmp_path):
    """As PEFT 0.21 writes "all-linear" of a model with experts, and up_proj or down_proj."""
    shutil.copytree(MOE / "experts", tmp_path / "a")
    file = tmp_path / "a/adapter_config.json"
    config = json.loads(file.read_text())
    assert len(read_peft(MOE / "experts").deltas) > len(config["target_parameters"])
    config["target_parameters"] = ["down_proj", "gate.weight", "gate_up_proj"]
    file.write_text(json.dumps(config))
    decoder = base_of(MOE / "experts").decoder
    found = read_peft(tmp_path / "a", decoder)
    assert found.digest == read_peft(MOE / "experts", decoder).digest
    assert not found.reading.missing
    config["target_parameters"] = ["gate.weight", "gate_up_proj"]
    file.write_text(json.dumps(config))
    with pytest.raises(FormatError, match="does not agree"):
        read_peft(tmp_path / "a", decoder)


def test_experts_that_have_no_layer_are_zero(tmp_path):
    source, base = MOE / "per_expert", base_of(MOE / "per_expert")
    tensors = {
        name: value
        for name, value in load_file(source / "adapter_model.safetensors").items()
        if ".experts.1." in name and "layers.0" in name
    }
    path = edited(source, tmp_path / "one", tensors)
    whole = {d.module: d for d in read_peft(source).deltas}
    for decoder, count in ((base.decoder, 4), (None, 2)):
        adapter = read_peft(path, decoder)
        assert {len(d.a) for d in adapter.deltas} == {count}
        for d in adapter.deltas:
            assert (d.a[1] == whole[d.module].a[1]).all()
            assert not d.b[[0, *range(2, count)]].any()


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda t, c: t.pop(f"base_model.model.{EXPERTS}.lora_A.weight"), "no pair|has no"),
        (lambda t, c: c.update(rank_pattern={}), "as many experts"),
        (lambda t, c: c.update(target_parameters=["mlp.experts.down_proj"]), "base_layer"),
        (lambda t, c: c.update(use_dora=True), "magnitude"),
        (lambda t, c: c.update(target_parameters=["nothing.weight"]), "target_parameters"),
    ],
)
def test_what_contradicts_itself_is_refused(edit, said, tmp_path):
    tensors = load_file(MOE / "experts/adapter_model.safetensors")
    config = json.loads((MOE / "experts/adapter_config.json").read_text())
    edit(tensors, config)
    path = edited(MOE / "experts", tmp_path / "a", tensors, **config)
    with pytest.raises(FormatError, match=said):
        read_peft(path)


def test_what_peft_cannot_combine_with_experts_is_refused(tmp_path):
    biased = Delta(
        module="model.layers.0.self_attn.q_proj",
        a=np.ones((1, 6), "f4"),
        b=np.ones((4, 1), "f4"),
        bias=np.ones(4, "f4"),
        scale=1.0,
    )
    dense = replace(biased, module="model.layers.0.mlp.up_proj", bias=None)
    adapter = Adapter(deltas=(experts("down_proj"), biased, dense))
    with pytest.raises(UnsupportedError) as caught:
        write_peft(adapter, tmp_path / "a")
    assert "beside a bias" in str(caught.value)
    assert "takes for an expert" in str(caught.value)


@pytest.mark.filterwarnings("ignore")  # the oracle's own
@pytest.mark.parametrize("path", FOLDERS, ids=named)
def test_peft_loads_what_we_write_and_gives_the_recorded_logits(path, tmp_path):
    peft = pytest.importorskip("peft", reason="the oracle of this test")
    torch = pytest.importorskip("torch", reason="the oracle of this test")
    transformers = pytest.importorskip("transformers", reason="the oracle of this test")
    adapter = read_peft(path)
    write_peft(adapter, tmp_path / "a", decoder=base_of(path).decoder)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        RECORDED / "bases" / path.parent.name, attn_implementation="eager"
    )
    model = peft.PeftModel.from_pretrained(model, tmp_path / "a").eval()
    recorded = np.load(path / "logits.npz")
    with torch.no_grad():
        found = model(torch.as_tensor(recorded["ids"])[None]).logits[0].numpy()
    np.testing.assert_allclose(found, recorded["scale1"], atol=1e-5)
