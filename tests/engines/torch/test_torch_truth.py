"""The torch engine's numbers against those that PEFT and mlx-lm recorded."""

import shutil

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from lorakit.base.folder import Base
from lorakit.formats import read_adapter
from onnx_cases import logits_of
from torch_cases import TRUTH, open_torch, truth_base

FAMILY = TRUTH.parent / "families"
FAMILIES = sorted(path.parent.name for path in FAMILY.glob("*/logits.npz"))
FOUND = {  # by tool, base and name
    path.parent.relative_to(TRUTH).parts: path.parent
    for tool in ("peft", "mlx")
    for path in sorted((TRUTH / tool).glob("*/*/logits.npz"))
    if path.parent.name != "alora"  # the runtime says from which token on it acts: test_alora
}
# PEFT merges an embedding's delta into the tied weight twice, or into the head as well.
NOT_TRUTH = {("peft", "gemma3", "embed_tied", "merged"), ("peft", "gemma3", "embed_only", "merged")}
# Two tokens' worth of ill-conditioned numbers: mlx-lm's own record is 1.25e-3 from float64.
LOOSE = {("mlx", "llama", "lora", "scale0.5"): 3e-3}
SCALES = {"base": 0.0, "scale1": 1.0, "scale0.5": 0.5, "merged": 1.0, "fused": 1.0}


@pytest.fixture(scope="module")
def engines():
    opened = {name: open_torch(truth_base(name)) for name in ("gemma3", "llama")}
    yield opened
    for engine in opened.values():
        engine.close()


@pytest.mark.parametrize("name", ["gemma3", "llama"])
def test_base_logits(engines, name):
    with np.load(TRUTH / "bases" / name / "base_logits.npz") as file:
        truth = dict(file)
    for index in range(3):
        found = logits_of(engines[name], truth[f"ids{index}"], chunk=9)
        np.testing.assert_allclose(found, truth[f"logits{index}"], rtol=0, atol=2e-5)


@pytest.mark.parametrize("case", FOUND, ids="-".join)
def test_adapter_logits(engines, case):
    """Every recorded kind, at every recorded scale, merged and fused weights too."""
    engine = engines[case[1]]
    with np.load(FOUND[case] / "logits.npz") as file:
        truth = dict(file)
    handle = engine.attach(
        engine.prepare(read_adapter(FOUND[case], engine._base.decoder, allow_pickle=True))
    )
    records = [key for key in truth if not key.startswith("ids")]
    assert any(key.startswith("scale1") for key in records)
    for key in records:
        kind, _, index = key.rpartition("_")
        if (*case, kind) not in NOT_TRUTH:
            found = logits_of(engine, truth[f"ids{index}"], ((handle, SCALES[kind]),))
            atol = LOOSE.get((*case, kind), 2e-4)
            np.testing.assert_allclose(found, truth[key], rtol=0, atol=atol, err_msg=key)
    engine.detach(handle)


@pytest.mark.parametrize("family", FAMILIES)
def test_family_logits(family):
    """Other layouts, windows, RoPE scalings, biases, soft-capped logits."""
    with np.load(FAMILY / family / "logits.npz") as file:
        truth = dict(file)
    engine = open_torch(FAMILY / family)
    found = logits_of(engine, truth["ids"], chunk=17)
    np.testing.assert_allclose(found, truth["logits"], rtol=2e-5, atol=2e-5)
    engine.close()


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_half_precision_checkpoints_run_in_float32(tmp_path, dtype):
    base, logits = Base.open(truth_base("llama")), []
    for folder, stored in (("half", dtype), ("full", np.float32)):
        (tmp_path / folder).mkdir()
        shutil.copy(base.path / "config.json", tmp_path / folder)
        arrays = {n: t.astype(dtype).astype(stored) for n, t in base.tensors.items()}
        save_file(arrays, tmp_path / folder / "model.safetensors")
        engine = open_torch(tmp_path / folder)
        logits.append(logits_of(engine, np.arange(4, 30)))
        engine.close()
    np.testing.assert_array_equal(*logits)


PEFT_CONFIGS = {
    "dora of an embedding": ("llama", {"target_modules": ["embed_tokens", "q_proj"]}, "dora"),
    "dora of a tied, scaled embedding": ("gemma3", {"target_modules": ["embed_tokens"]}, "dora"),
    "dora of the head": ("llama", {"target_modules": ["lm_head", "down_proj"]}, "dora"),
    "bias of B": ("llama", {"target_modules": ["q_proj", "lm_head"]}, "bias"),
    "saved embedding": (
        "llama",
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
        "",
    ),
    "saved head of a tied base": (
        "gemma3",
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "q_norm"]},
        "",
    ),
    "tokens of a tied base": (
        "gemma3",
        {"target_modules": ["v_proj"], "trainable_token_indices": {"embed_tokens": [4, 9, 77]}},
        "",
    ),
}


@pytest.mark.filterwarnings("ignore")  # PEFT warns of much that is asked for here
@pytest.mark.parametrize("name", PEFT_CONFIGS)
def test_against_peft_now(engines, tmp_path, name):
    """What the records lack, computed now by PEFT's own unmerged forward."""
    peft = pytest.importorskip("peft", reason="the live oracle needs peft")
    torch = pytest.importorskip("torch", reason="the live oracle needs torch")
    from transformers import AutoModelForCausalLM

    base, options, kind = PEFT_CONFIGS[name]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(
        truth_base(base), dtype=torch.float32, attn_implementation="eager"
    )
    config = peft.LoraConfig(
        r=4, lora_alpha=6, use_dora=kind == "dora", lora_bias=kind == "bias", **options
    )
    model = peft.get_peft_model(model, config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.mul_(1 + 0.2 * torch.rand_like(parameter))
                parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    adapter = read_adapter(tmp_path)
    engine, ids = engines[base], np.random.default_rng(2).integers(4, 508, 24)
    ids[5], ids[11] = 9, 77
    handle = engine.attach(engine.prepare(adapter))
    for scale in (1.0, 0.5):
        for layer in model.modules():
            if scale != 1.0 and isinstance(layer, peft.tuners.lora.LoraLayer):
                layer.set_scale("default", scale)
        with torch.no_grad():
            expected = model(torch.from_numpy(ids)[None]).logits[0].numpy()
        found = logits_of(engine, ids, ((handle, scale),), chunk=10)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4)
    engine.detach(handle)
