"""MLX folders in mlx-lm itself: it computes what the model's own class does, and holds what its own
convert would have written, bit for bit."""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest

import lorakit
from exported_cases import (
    ADAPTERS,
    FAMILIES,
    GEMMA,
    LLAMA,
    TRUTH,
    base_of,
    held,
    recast,
    run,
    scaled,
    truth,
)
from lorakit import demo
from lorakit.base.folder import Base
from lorakit.exporting.mlx import ADAPTERS as BESIDE
from lorakit.exporting.mlx import COARSE, dequantised_folder, write_apart, write_mlx
from lorakit.exporting.mlx.affine import dequantise, quantise
from lorakit.exporting.mlx.weights import QUANTISED
from lorakit.formats import read_adapter
from lorakit.formats.mlx.base_config import misread
from lorakit.merge import merge
from lorakit.merge.view import merged_view
from lorakit.text.tokenizer import Tokenizer

mx = pytest.importorskip("mlx.core", reason="mlx has no wheel there")
pytest.importorskip("mlx_lm", reason="mlx has no wheel there")

BASES = {
    path.name: path
    for path in (
        *(FAMILIES / name for name in ("gpt2", "llama3_rope", "llama_linear_rope", "phi3")),
        *(FAMILIES / name for name in ("mistral_window", "qwen3", "qwen3_moe")),
        *(GEMMA, LLAMA),
    )
}
DTYPES = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}
IDS = np.arange(5, 45)
MADE = ("qwen2", "qwen3_moe", "phi3", "gemma3_global", "qwen2_yarn", "qwen3_yarn", "gpt2")
YARN = {
    "rope_type": "yarn",
    "rope_theta": 500.0,
    "factor": 32.0,
    "original_max_position_embeddings": 8,
}


def written(base, folder, form="none", **options):
    folder.mkdir()
    write_mlx(base, folder, form, **options)
    return folder


def worst(a, b):
    return float(np.abs(a - b).max())


def recorded(path):
    """ids and logits that transformers gave."""
    name = "base_logits.npz" if path.parent.name == "bases" else "logits.npz"
    with np.load(path / name) as file:
        return (file["ids"], file["logits"]) if "ids" in file else (file["ids2"], file["logits2"])


# The numbers.


def groups(dtype):
    """Rows of all sizes, and those on which rounding could go another way."""
    draw = np.random.default_rng(7)
    sizes = draw.choice([1e-7, 1e-4, 1, 40], size=(96, 1))
    rows = draw.standard_normal((96, 192)) * sizes
    rows[0], rows[1], rows[2] = 0, 5, -1
    rows[3], rows[4] = np.abs(rows[3]), -np.abs(rows[4])
    rows[5] = np.tile([-1.0, 1.0], 96)
    rows[6] = np.arange(192) / 8
    return rows.astype(dtype)


@pytest.mark.parametrize("bits", sorted(QUANTISED.values()))
@pytest.mark.parametrize("dtype", DTYPES)
def test_codes_scales_and_biases_are_mlxs_bit_for_bit(dtype, bits):
    rows = groups(DTYPES[dtype])
    array = mx.array(rows.view(np.uint8)).view(
        {"f32": mx.float32, "f16": mx.float16, "bf16": mx.bfloat16}[dtype]
    )
    theirs = mx.quantize(array, 64, bits)
    ours = quantise(rows, bits)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.shape == other.shape
        assert mine.tobytes() == np.array(other.view(mx.uint8)).tobytes()
    if dtype == "f32":
        values = np.array(mx.dequantize(*theirs, 64, bits))
        np.testing.assert_array_equal(dequantise(*ours, bits), values)


def test_a_plain_scale_from_low_to_high_would_not_be_mlxs():
    """The broken variant: what most affine quantisers compute."""
    rows = groups(np.float32)
    low, high = (f(rows.reshape(-1, 64), axis=1) for f in (np.min, np.max))
    _, scales, biases = quantise(rows, 4)
    assert (np.abs(scales.reshape(-1)) != (high - low) / 15).mean() > 0.5
    assert (biases.reshape(-1) != low).mean() > 0.2


@pytest.mark.parametrize("form", COARSE)
@pytest.mark.parametrize("base", ["gemma3", "llama", "qwen3"])
def test_a_quantised_folder_is_what_mlx_lms_convert_writes(base, form, tmp_path):
    require_as_converted(BASES[base], form, tmp_path)


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_it_is_so_in_two_byte_floats(dtype, tmp_path):
    require_as_converted(recast(GEMMA, tmp_path / "base", DTYPES[dtype]), "q4", tmp_path)


def require_as_converted(path, form, place):
    from mlx_lm.utils import load_model, quantize_model, save_model

    mx.set_default_device(mx.cpu)
    model, config = load_model(path, lazy=True)
    model, config = quantize_model(model, config, 64, QUANTISED[form])
    save_model(place / "theirs", model)
    ours = written(Base.open(path), place / "ours", form)
    assert held(ours) == held(place / "theirs")
    index = "model.safetensors.index.json"
    assert json.loads((ours / index).read_text()) == json.loads(
        (place / "theirs" / index).read_text()
    )
    said = json.loads((ours / "config.json").read_text())
    assert said["quantization"] == said["quantization_config"] == config["quantization"]


# What mlx-lm computes.


@pytest.mark.parametrize("name", BASES)
def test_mlx_lm_gives_the_logits_of_the_models_own_class(name, tmp_path):
    ids, expected = recorded(BASES[name])
    found = run(written(Base.open(BASES[name]), tmp_path / "out"), ids)
    if name == "mistral_window":  # which mlx-lm lacks, and the note of the export says so
        assert worst(found[8:], expected[8:]) > 0.1
        ids, expected, found = ids[:8], expected[:8], found[:8]
        said = json.loads((tmp_path / "out/config.json").read_text())
        assert said["max_position_embeddings"] == 8
    assert worst(found, expected) < 1e-4


@pytest.mark.parametrize("name", [name for name in BASES if name != "mistral_window"])
def test_what_is_said_to_be_misread_is_misread_and_nothing_else(name, tmp_path):
    """The broken variant of the config: the base's own, beside weights that mlx-lm takes."""
    base = Base.open(BASES[name])
    shutil.copyfile(base.path / "config.json", written(base, tmp_path / "out") / "config.json")
    ids, expected = recorded(BASES[name])
    try:
        right = worst(run(tmp_path / "out", ids), expected) < 1e-4
    except (TypeError, ValueError):  # a field that its class needs
        right = False
    assert right == (misread(base) == [])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Families in shapes that the recorded ones lack: rows of whole groups, experts fused."""
    transformers = pytest.importorskip("transformers", reason="the oracle is transformers")
    from torch_cases import tiny_base

    shape = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 96,
        "num_hidden_layers": 2,
        "max_position_embeddings": 256,
    }
    configs = {
        "qwen2": transformers.Qwen2Config(**shape),
        "qwen3_moe": transformers.Qwen3MoeConfig(
            **shape,
            head_dim=16,
            num_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=64,
            decoder_sparse_step=2,
        ),
        "phi3": transformers.Phi3Config(
            **shape,
            pad_token_id=0,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 500.0,
                "partial_rotary_factor": 0.5,
            },
        ),
        "gemma3_global": transformers.Gemma3TextConfig(
            **shape,
            head_dim=16,
            query_pre_attn_scalar=24,
            layer_types=["full_attention"] * 2,
            rope_parameters={
                "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            },
        ),
        "qwen2_yarn": transformers.Qwen2Config(**shape, rope_parameters=YARN),
        "qwen3_yarn": transformers.Qwen3Config(
            **shape, head_dim=16, rope_parameters=YARN | {"beta_fast": 2, "beta_slow": 0.2}
        ),
        "gpt2": transformers.GPT2Config(
            n_embd=64, n_layer=2, n_head=4, vocab_size=96, n_positions=64
        ),
    }
    place = tmp_path_factory.mktemp("made")
    return {name: tiny_base(place / name, config) for name, config in configs.items()}


def in_transformers(folder, ids):
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        return model.eval()(torch.tensor(np.asarray(ids))[None]).logits[0].numpy()


@pytest.mark.parametrize(
    "name", ["qwen2", "qwen3_moe", "phi3", "gemma3_global", "qwen2_yarn", "qwen3_yarn", "gpt2"]
)
def test_every_form_of_every_family_gives_the_logits_of_its_values(made, name, tmp_path):
    base = Base.open(made[name])
    for form in ("none", "q8", "q4"):
        out = written(base, tmp_path / form, form)
        values = dequantised_folder(out, tmp_path / f"{form}-values")
        found = run(out, IDS)
        assert worst(found, in_transformers(values, IDS)) < 1e-4
        exact = worst(found, in_transformers(made[name], IDS)) < 1e-4
        assert exact == (form == "none")
    config = json.loads((tmp_path / "q4/config.json").read_text())
    routers = {k: v for k, v in config["quantization"].items() if k.endswith("mlp.gate")}
    wanted = {"model.layers.1.mlp.gate": {"group_size": 64, "bits": 8}}
    assert routers == (wanted if name == "qwen3_moe" else {})


@pytest.mark.parametrize("name", ["llama3_rope", "llama_linear_rope", "phi3", "qwen3", "gemma3"])
def test_transformers_reads_the_same_folder_alike(name, tmp_path):
    """RoPE is said twice in its config: in mlx-lm's words and in those of transformers 5."""
    pytest.importorskip("transformers", reason="the oracle is transformers")
    ids, expected = recorded(BASES[name])
    out = written(Base.open(BASES[name]), tmp_path / "out")
    assert worst(in_transformers(out, ids), expected) < 1e-4


@pytest.mark.parametrize("form", ["f32", "f16", "bf16"])
def test_plain_forms(form, tmp_path):
    ids, expected = recorded(GEMMA)
    out = written(Base.open(GEMMA), tmp_path / "out", form)
    name = np.dtype(DTYPES[form]).name
    assert json.loads((out / "config.json").read_text())["dtype"] == name
    assert {dtype for dtype, _, _ in held(out).values()} == {form.upper()}
    close = {"f32": 1e-4, "f16": 0.05, "bf16": 0.3}[form]
    assert worst(run(out, ids), expected) < close


def test_several_files_are_one_model(tmp_path):
    base = Base.open(LLAMA)
    one = written(base, tmp_path / "one", "q4")
    many = written(base, tmp_path / "many", "q4", largest=40_000)
    assert len(list(many.glob("model-*-of-*.safetensors"))) > 2
    assert held(one) == held(many)
    assert np.array_equal(run(one, IDS), run(many, IDS))


def test_mlx_lm_opens_the_whole_folder_with_its_tokenizer(tmp_path):
    import mlx_lm

    out = written(Base.open(GEMMA), tmp_path / "out", "q8")
    _, tokenizer = mlx_lm.load(str(out))
    own = Tokenizer.open(GEMMA)
    for text in ("turn the lights off", " a  b\n", "é"):
        assert tokenizer.encode(text) == own.encode(text, special=True)
    assert tokenizer.chat_template == (GEMMA / "chat_template.jinja").read_text()


def test_the_demo_says_in_mlx_lm_what_it_says_here(tmp_path):
    import mlx_lm

    base, home = Base.open(demo.base_path()), read_adapter(demo.adapter_path("home"))
    out = written(merged_view(base, [(home, 1.0)]), tmp_path / "out", "f32")
    model, tokenizer = mlx_lm.load(str(out))
    with lorakit.open(demo.base_path(), threads=1) as ours:
        ours.load_adapter(demo.adapter_path("home"), "home")
        for example in demo.examples("home", "values")[:2]:
            said = [dict(message) for message in example.messages]
            ids = tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=False)
            wanted = ours.complete(ids, temperature=0, max_tokens=24, adapters={"home": 1.0})
            text = mlx_lm.generate(model, tokenizer, prompt=list(ids), max_tokens=24)
            assert len(wanted.text) > 10
            assert text.strip() == wanted.text.strip()


# Adapters.


@pytest.mark.parametrize("case", ADAPTERS)
def test_a_merged_export_gives_the_trainers_logits(case, tmp_path):
    base = base_of(case)
    out = written(merged_view(base, scaled(case)), tmp_path / "out")
    plain = written(base, tmp_path / "plain")  # the broken variant: a merge that does nothing
    for ids, expected, step in truth(case):
        assert worst(run(out, ids)[::step], expected) < 2e-4
        assert worst(run(plain, ids)[::step], expected) > 1e-3


@pytest.mark.parametrize("case", ["truth/peft/gemma3/dora", "truth/mlx/gemma3/lora"])
def test_scales_mean_what_they_mean_at_run_time(case, tmp_path):
    out = written(merged_view(base_of(case), scaled(case, 0.5)), tmp_path / "out")
    for ids, expected, _ in truth(case, "0.5"):
        assert worst(run(out, ids), expected) < 2e-4


BESIDE_CASES = [
    *("truth/peft/gemma3/plain", "truth/peft/llama/embed_lmhead", "truth/peft/gemma3/rslora"),
    *("truth/mlx/llama/lora", "truth/mlx/gemma3/dora", "recorded/mlx/gemma3/tied_embedding"),
]


@pytest.mark.parametrize("case", BESIDE_CASES)
def test_an_adapter_beside_a_quantised_base_acts_in_mlx_lm(case, tmp_path):
    require_beside(base_of(case), scaled(case, 0.5), tmp_path)


def test_several_adapters_are_one_beside_it(tmp_path):
    pair = [
        (read_adapter(TRUTH / "peft/gemma3/plain"), 0.7),
        (read_adapter(TRUTH / "peft/gemma3/patterns"), -0.4),
    ]
    found = require_beside(Base.open(GEMMA), pair, tmp_path)
    one = require_beside(Base.open(GEMMA), pair[:1], tmp_path / "one")
    assert worst(found, one) > 1e-3  # the broken variant: the first alone


def test_experts_have_theirs_beside_quantised_ones(made, tmp_path):
    from lorakit.adapter import Adapter, Delta

    base, draw = Base.open(made["qwen3_moe"]), np.random.default_rng(3)
    deltas = [
        Delta(
            module=module,
            a=draw.standard_normal((4, 2, shape.in_features)).astype("f4") / 8,
            b=draw.standard_normal((4, shape.out_features, 2)).astype("f4") / 8,
            scale=2.0,
        )
        for module, shape in base.decoder.modules().items()
        if shape.experts
    ]
    require_beside(base, [(Adapter(deltas=tuple(deltas)), 0.5)], tmp_path, in_transformers)


def require_beside(base, adapters, place, runs=None):
    """mlx-lm's logits are those of the quantised values with the adapters merged in float32."""
    place.mkdir(exist_ok=True)
    out = place / "out"
    out.mkdir()
    write_apart(base, adapters, out, "q4")
    values = Base.open(dequantised_folder(out, place / "values"))
    merge(values, adapters, place / "merged", dtype="f32")
    found = run(out, IDS, out / BESIDE)
    assert worst(found, (runs or in_lorakit)(place / "merged", IDS)) < 3e-4
    assert worst(found, run(out, IDS)) > 1e-3  # without the adapter it is another model
    return found


def in_lorakit(folder, ids):
    with lorakit.open(folder, threads=1) as model:
        return model.logits(list(ids))
