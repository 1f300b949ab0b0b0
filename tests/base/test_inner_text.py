"""Gemma 3 from 4B up: the text model inside a model that also sees, beside transformers."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import lorakit
import onnx_cases
from lorakit.adapter import Adapter, Delta
from lorakit.architectures import describe
from lorakit.base.folder import Base
from lorakit.check import for_text
from lorakit.engines.table import open_engine
from lorakit.engines.torch.options import TorchOptions
from lorakit.errors import BaseModelError, MismatchError, UnsupportedError
from lorakit.exporting.export import export
from lorakit.formats import read_adapter
from lorakit.merge import merge
from lorakit.merge.view import merged_view

pytest.importorskip("torch", reason="the torch engine needs the extra torch")
pytest.importorskip("transformers", reason="the torch engine needs the extra torch")

IDS = [3, 5, 7, 9, 11, 13] * 5  # longer than the window
TEXT = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
    "sliding_window": 16,
    "max_position_embeddings": 64,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    },
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
UP = "layers.1.mlp.up_proj"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What transformers saves of its class, with the names that published checkpoints have."""
    import torch
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    torch.manual_seed(0)
    config = Gemma3Config(
        text_config=TEXT,
        vision_config=VISION,
        mm_tokens_per_image=4,
        image_token_index=127,
        boi_token_index=126,
        eoi_token_index=125,
    )
    model = Gemma3ForConditionalGeneration(config).float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    place = tmp_path_factory.mktemp("bases") / "sees"
    model.save_pretrained(place)
    return place


@pytest.fixture
def copy(folder, tmp_path):
    """A copy whose config a test may change; the weights are linked."""
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    return tmp_path


def edit(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def theirs(folder):
    import torch
    from transformers import Gemma3ForConditionalGeneration

    model = Gemma3ForConditionalGeneration.from_pretrained(folder, attn_implementation="eager")
    with torch.inference_mode():
        return model.eval()(torch.tensor([IDS])).logits[0].numpy()


def ours(base, adapter=None):
    engine = open_engine("torch", base, TorchOptions(threads=1))
    adapters = ()
    if adapter is not None:
        adapters = ((engine.attach(engine.prepare(adapter)), 1.0),)
    found = onnx_cases.logits_of(engine, IDS, adapters)
    engine.close()
    return found


def on_onnx(folder, adapter=None):
    engine = onnx_cases.open_engine(folder)
    adapters = ()
    if adapter is not None:
        adapters = ((engine.attach(engine.prepare(adapter)), 1.0),)
    found = onnx_cases.logits_of(engine, IDS, adapters)
    engine.close()
    return found


def saved_adapter(place, at, modules=(UP,)):
    """A PEFT adapter whose keys are those of the class that also sees."""
    random, tensors = np.random.default_rng(1), {}
    for module in modules:
        key = f"base_model.model.{at}{module}"
        tensors[f"{key}.lora_A.weight"] = random.normal(0, 0.3, (2, 32)).astype(np.float32)
        tensors[f"{key}.lora_B.weight"] = random.normal(0, 0.3, (64, 2)).astype(np.float32)
    place.mkdir()
    save_file(tensors, place / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["up_proj"]}
    config["layers_to_transform"] = [1]
    (place / "adapter_config.json").write_text(json.dumps(config))
    return place


def test_its_text_has_transformers_logits(folder):
    want = theirs(folder)
    assert want.std() > 0.3
    assert np.abs(ours(Base.open(folder)) - want).max() < 1e-4
    assert np.abs(on_onnx(folder) - want).max() < 2e-4


@pytest.mark.parametrize("key", ["rope_parameters", "sliding_window", "layer_types"])
def test_another_config_has_other_logits(folder, copy, key):
    """Whatever of the nested config were not read would be seen above."""
    edit(copy, lambda config: config["text_config"].pop(key))
    assert np.abs(ours(Base.open(copy)) - theirs(folder)).max() > 1e-3


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "language_model.model.",
            "model.language_model.",
        ),  # transformers 4.52 and later, in memory
        ("language_model.model.", "language_model.model."),
    ],
)
def test_files_of_either_spelling_are_read(folder, copy, before, after):
    tensors = load_file(folder / "model.safetensors")
    (copy / "model.safetensors").unlink()
    save_file(
        {
            after + name.removeprefix(before) if name.startswith(before) else f"model.{name}": value
            for name, value in tensors.items()
        },
        copy / "model.safetensors",
    )
    base = Base.open(copy)
    assert np.array_equal(base.weight(f"model.{UP}"), tensors[f"{before}{UP}.weight"])
    assert len(base.left_out) == len([name for name in tensors if not name.startswith(before)])


def test_what_is_left_out_is_said(folder):
    base = Base.open(folder)
    assert base.decoder.architecture.model_type == "gemma3_text"
    assert base.left_out
    assert all(n.startswith(("vision_tower.", "multi_modal_projector.")) for n in base.left_out)
    assert Base.open(onnx_cases.truth_base("gemma3")).left_out == ()


def test_a_published_config_leaves_out_what_its_class_knows():
    """As of gemma-3-4b-it, whose text_config has no more than this."""
    published = {
        "model_type": "gemma3",
        "text_config": {
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "model_type": "gemma3_text",
            "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024,
        },
        "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model"},
    }
    found = describe(published)
    assert (found.heads, found.kv_heads, found.head_dim) == (8, 4, 256)
    assert (found.vocabulary, found.context, found.tied) == (262208, 131072, True)
    assert [layer.window for layer in found.layers[:6]] == [1024] * 5 + [None]
    assert found.layers[5].rope.factor == 8.0
    assert found.layers[0].rope.factor == 1.0


def test_a_config_of_transformers_4_50_has_the_same_logits(folder, copy, tmp_path):
    """Of a 4B's shape: a window in five of six layers, RoPE linear by 8, heads that are no part of
    the hidden size and a scale of their own."""
    import torch
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    kinds = [*["sliding_attention"] * 5, "full_attention", "sliding_attention"]
    text = TEXT | {
        "hidden_size": 48,
        "num_hidden_layers": 7,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "query_pre_attn_scalar": 24,
        "sliding_window": 8,
        "max_position_embeddings": 131072,
        "layer_types": kinds,
    }
    torch.manual_seed(2)
    config = Gemma3Config(text_config=text, vision_config=VISION, mm_tokens_per_image=4)
    model = Gemma3ForConditionalGeneration(config).float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.12)
    model.save_pretrained(tmp_path / "new")
    want = theirs(tmp_path / "new")
    assert np.abs(on_onnx(tmp_path / "new") - want).max() < 2e-4

    def published(config):
        held = config["text_config"]
        for key in [key for key in held if key.startswith(("layer_types", "rope_", "_sliding"))]:
            del held[key]
        held["rope_scaling"] = {"factor": 8.0, "rope_type": "linear"}

    edit(tmp_path / "new", published)
    assert np.abs(on_onnx(tmp_path / "new") - want).max() < 2e-4
    edit(tmp_path / "new", lambda c: c["text_config"].update(rope_local_base_freq=1e4))
    edit(tmp_path / "new", lambda c: c["text_config"].update(sliding_window_pattern=6))
    assert np.abs(on_onnx(tmp_path / "new") - want).max() < 2e-4
    edit(tmp_path / "new", lambda c: c["text_config"].update(sliding_window_pattern=3))
    assert np.abs(on_onnx(tmp_path / "new") - want).max() > 1e-3


@pytest.mark.parametrize("held", [None, [], "gemma3_text", {"model_type": "llama"}])
def test_a_config_without_its_text_is_refused(copy, held):
    edit(copy, lambda config: config.update(text_config=held))
    with pytest.raises(BaseModelError, match="text_config must be the config of a gemma3_text"):
        Base.open(copy)


@pytest.mark.parametrize(
    "at", ["model.language_model.", "language_model.model.", "model.model.language_model."]
)
def test_adapters_of_the_class_that_sees_fit(folder, tmp_path, at):
    path = saved_adapter(tmp_path / "adapter", at)
    base = Base.open(folder)
    adapter = read_adapter(path, base.decoder)
    assert [delta.module for delta in adapter.deltas] == [f"model.{UP}"]
    found, plain = on_onnx(folder, adapter), on_onnx(folder)
    assert np.abs(found - plain).max() > 0.05
    assert np.abs(found - ours(base, adapter)).max() < 2e-4


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT asks transformers for an old name
def test_peft_applies_it_likewise(folder, tmp_path):
    import torch
    from transformers import Gemma3ForConditionalGeneration

    peft = pytest.importorskip("peft", reason="the oracle PEFT")
    path = saved_adapter(tmp_path / "adapter", "model.language_model.")
    model = Gemma3ForConditionalGeneration.from_pretrained(folder, attn_implementation="eager")
    model = peft.PeftModel.from_pretrained(model, path).eval()
    with torch.inference_mode():
        want = model(torch.tensor([IDS])).logits[0].numpy()
    base = Base.open(folder)
    found = ours(base, read_adapter(path, base.decoder))
    assert np.abs(found - want).max() < 1e-4
    assert np.abs(ours(base) - want).max() > 0.05


def test_an_adapter_of_the_vision_tower_does_not_fit(folder):
    at = "model.vision_tower.encoder.layers.0.mlp.fc1"
    delta = Delta(
        module=at, a=np.ones((2, 16), np.float32), b=np.ones((16, 2), np.float32), scale=1.0
    )
    engine = onnx_cases.open_engine(folder)
    with pytest.raises(MismatchError, match="vision_tower"):
        engine.prepare(Adapter(deltas=(delta,)))
    engine.close()


def test_merged_it_still_sees(folder, tmp_path):
    """All tensors and the config stay; transformers' class has the merged text's logits."""
    base = Base.open(folder)
    path = saved_adapter(tmp_path / "adapter", "model.language_model.")
    adapter = read_adapter(path, base.decoder)
    merge(base, [(adapter, 1.0)], tmp_path / "out")
    assert np.abs(theirs(tmp_path / "out") - ours(base, adapter)).max() < 1e-4
    was, now = (json.loads((at / "config.json").read_text()) for at in (folder, tmp_path / "out"))
    assert {**now, "text_config": {}} == {**was, "text_config": {}}
    assert now["text_config"].items() >= was["text_config"].items()
    before, after = (load_file(at / "model.safetensors") for at in (folder, tmp_path / "out"))
    changed = [name for name in before if not np.array_equal(before[name], after[name])]
    assert changed == [f"language_model.model.{UP}.weight"]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT asks transformers for an old name
@pytest.mark.parametrize(
    "trained",
    [
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": "all-linear"},
        {"target_modules": ["q_proj", "fc1"], "use_dora": True},
        {"target_modules": ["v_proj"], "modules_to_save": ["multi_modal_projector"]},
        {"target_modules": r".*vision_tower.*(q|v)_proj"},
    ],
    ids=["both", "all", "dora", "projector", "pictures alone"],
)
def test_an_adapter_of_what_sees_is_merged_and_cannot_act_on_text(folder, tmp_path, trained):
    """As PEFT trains and saves it: with a picture, and without."""
    import torch
    from transformers import Gemma3ForConditionalGeneration

    peft = pytest.importorskip("peft", reason="the oracle PEFT")
    ids = torch.tensor([[5, 126, 127, 127, 127, 127, 125, 7, 9]])
    pixels = torch.linspace(-1, 1, 3 * 28 * 28).reshape(1, 3, 28, 28)

    def opened(place):
        model = Gemma3ForConditionalGeneration.from_pretrained(place, attn_implementation="eager")
        return model.eval()

    def seen(model):
        kinds = (ids == 127).long()
        with torch.inference_mode():
            return model(ids, pixel_values=pixels, token_type_ids=kinds).logits[0].numpy()

    torch.manual_seed(1)
    model = peft.get_peft_model(opened(folder), peft.LoraConfig(r=2, lora_alpha=4, **trained))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name and "magnitude" not in name:
                parameter.normal_(0, 0.3)
            elif parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    want = seen(model.eval())
    model.save_pretrained(tmp_path / "adapter")
    base = Base.open(folder)
    adapter = read_adapter(tmp_path / "adapter", base.decoder)
    merge(base, [(adapter, 1.0)], tmp_path / "out")
    assert np.abs(seen(opened(tmp_path / "out")) - want).max() < 1e-4
    assert np.abs(seen(opened(folder)) - want).max() > 0.05
    text = for_text(adapter)
    if text is not adapter:  # else there is none
        with torch.inference_mode():
            alone = model(torch.tensor([IDS])).logits[0].numpy()
        assert np.abs(on_onnx(folder, text) - alone).max() < 2e-4
        merge(base, [(text, 1.0)], tmp_path / "text")  # without the other parts it sees otherwise
        assert np.abs(seen(opened(tmp_path / "text")) - want).max() > 0.05


def test_what_the_base_does_not_hold_is_not_merged(folder, tmp_path):
    factors = {"a": np.ones((2, 16), np.float32), "b": np.ones((16, 2), np.float32), "scale": 1.0}
    names = ["vision_tower.encoder.layers.7.mlp.fc1", "model.multi_modal_projector.linear"]
    deltas = tuple(Delta(module=name, **factors) for name in names)
    with pytest.raises(UnsupportedError) as caught:
        merge(Base.open(folder), [(Adapter(deltas=deltas), 1.0)], tmp_path / "out")
    assert [item.split(":")[0] for item in caught.value.items] == sorted(
        f"{n}.weight" for n in names
    )
    assert not (tmp_path / "out").exists()


def test_an_export_refuses_what_only_sees(folder, copy, tmp_path):
    (copy / "tokenizer.json").write_bytes(
        (onnx_cases.truth_base("gemma3") / "tokenizer.json").read_bytes()
    )
    path = saved_adapter(tmp_path / "adapter", "model.language_model.")
    at = "model.vision_tower.encoder.layers.0.mlp.fc1"
    factors = {"a": np.ones((2, 16), np.float32), "b": np.ones((16, 2), np.float32), "scale": 1.0}
    text = read_adapter(path, Base.open(folder).decoder)
    both = Adapter(deltas=(*text.deltas, Delta(module=at, **factors)))
    with pytest.raises(MismatchError, match="vision_tower"):
        export(copy, tmp_path / "out", adapter=both, to="safetensors")


def test_its_head_comes_untied(folder, tmp_path):
    base = Base.open(folder)
    delta = Delta(
        module="lm_head",
        a=np.ones((1, 32), np.float32),
        b=np.linspace(-0.3, 0.3, 128, dtype=np.float32)[:, None],
        scale=1.0,
    )
    adapter = Adapter(deltas=(delta,))
    merge(base, [(adapter, 1.0)], tmp_path / "out")
    want = ours(base, adapter)
    assert np.abs(theirs(tmp_path / "out") - want).max() < 1e-4
    again = Base.open(tmp_path / "out")
    assert not again.decoder.tied
    assert again.left_out == base.left_out
    assert np.abs(ours(again) - want).max() < 1e-4
    assert np.abs(ours(merged_view(base, [(adapter, 1.0)])) - want).max() < 1e-4


def test_the_model_says_that_it_reads_alone(folder, copy):
    (copy / "tokenizer.json").write_bytes(
        (onnx_cases.truth_base("gemma3") / "tokenizer.json").read_bytes()
    )
    with lorakit.open(copy, threads=1) as model:
        assert [(w.code, w.adapter) for w in model.warnings] == [("text_alone", "")]
        assert "multi_modal_projector" in model.warnings[0].message
        assert model.complete([3, 5, 7], max_tokens=2).tokens
