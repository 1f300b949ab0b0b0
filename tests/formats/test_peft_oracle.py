"""Against PEFT itself: its merged weights, its logits of what we wrote, and adapters it makes."""

from pathlib import Path

import numpy as np
import pytest

from lorakit.adapter import Site
from lorakit.base.folder import Base
from lorakit.check import require_fit, without_unchanged
from lorakit.formats.peft import read_peft, write_peft

peft = pytest.importorskip("peft", reason="the oracle of these tests")
torch = pytest.importorskip("torch", reason="the oracle of these tests")
transformers = pytest.importorskip("transformers", reason="the oracle of these tests")

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # the oracle's own
    pytest.mark.timeout(300),
]

TRUTH = Path(__file__).parent.parent / "data/truth"
FOLDERS = sorted(path.parent for path in TRUTH.glob("peft/*/*/adapter_model.safetensors"))
LINEAR = ["plain", "plain_b", "rslora", "patterns", "layers", "bf16", "pissa_converted", "dora"]
IDS = torch.arange(4, 40)[None]


def load(base):
    transformers.utils.logging.disable_progress_bar()
    return transformers.AutoModelForCausalLM.from_pretrained(
        TRUTH / "bases" / base, attn_implementation="eager"
    ).eval()


def logits(model, ids):
    with torch.no_grad():
        return model(torch.as_tensor(ids).reshape(1, -1)).logits[0].numpy()


def named(path):
    return "/".join(path.parts[-2:])


def f32(array):
    return array.astype(np.float32)


@pytest.mark.parametrize("path", [p for p in FOLDERS if p.name in LINEAR], ids=named)
def test_the_deltas_are_those_of_the_merged_weights(path):
    adapter, base = read_peft(path), Base.open(TRUTH / "bases" / path.parent.name)
    model = peft.PeftModel.from_pretrained(load(path.parent.name), path)
    merged = {k: v.numpy() for k, v in model.merge_and_unload().state_dict().items()}
    magnitudes = {m.module: m.value for m in adapter.magnitudes}
    for d in adapter.deltas:
        ours = f32(base.tensors[f"{d.module}.weight"]) + d.scale * (f32(d.b) @ f32(d.a))
        if d.module in magnitudes:
            norm = np.linalg.norm(ours, axis=1)
            ours *= (f32(magnitudes[d.module]) / norm)[:, None]
        np.testing.assert_allclose(ours, merged.pop(f"{d.module}.weight"), atol=2e-6)
    for name, weight in merged.items():  # and nothing else has changed
        assert (weight == base.tensor(name)).all()


@pytest.mark.parametrize("path", FOLDERS, ids=named)
def test_what_we_write_peft_computes_the_same(path, tmp_path):
    adapter = read_peft(path)
    write_peft(adapter, tmp_path / "a")
    model = peft.PeftModel.from_pretrained(load(path.parent.name), tmp_path / "a")
    recorded = np.load(path / "logits.npz")
    for index in range(3):
        found = logits(model, recorded[f"ids{index}"])
        np.testing.assert_allclose(found, recorded[f"scale1_{index}"], atol=2e-4)


# Kinds of adapters that PEFT makes and the recorded ones lack.
MADE = {
    "bias of B": ("llama", {"target_modules": ["q_proj", "up_proj"], "lora_bias": True}, {}),
    "embedding with its weights": (
        "gemma3",
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"save_embedding_layers": True},
    ),
    "head with its weights": (
        "gemma3",
        {"target_modules": ["lm_head", "q_proj"]},
        {"save_embedding_layers": True},
    ),
    "tied on both sides with weights": (
        "gemma3",
        {"target_modules": ["embed_tokens", "q_proj"], "ensure_weight_tying": True},
        {"save_embedding_layers": True},
    ),
    "DoRA of an embedding": (
        "llama",
        {"target_modules": ["embed_tokens", "q_proj"], "use_dora": True},
        {},
    ),
    "DoRA of both sides": (
        "gemma3",
        {"target_modules": ["embed_tokens", "lm_head"], "use_dora": True},
        {},
    ),
    "saved embedding": (
        "gemma3",
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
        {},
    ),
    "saved embedding, tied": (
        "gemma3",
        {
            "target_modules": ["q_proj"],
            "modules_to_save": ["embed_tokens"],
            "ensure_weight_tying": True,
        },
        {},
    ),
    "saved head": ("gemma3", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, {}),
    "saved linear layer": (
        "llama",
        {"target_modules": ["q_proj"], "modules_to_save": ["layers.1.mlp.up_proj", "norm"]},
        {},
    ),
    "token rows, tied": (
        "gemma3",
        {"target_modules": ["q_proj"], "trainable_token_indices": [9, 5]},
        {},
    ),
    "token rows of both sides": (
        "llama",
        {
            "target_modules": ["q_proj"],
            "trainable_token_indices": {"embed_tokens": [9, 5], "lm_head": [7]},
        },
        {},
    ),
    "a regular expression, rsLoRA and patterns": (
        "llama",
        {
            "target_modules": r".*layers\.(0|2)\.(self_attn|mlp)\..*_proj",
            # in the order in which PEFT saves them, or PEFT itself cannot read them again
            "rank_pattern": {"down_proj": 5, r"layers\.0\..*": 3},
            "alpha_pattern": {r".*2\.mlp.*": 7, "q_proj": 5},
            "use_rslora": True,
        },
        {},
    ),
}


def make(base, options, saving, path):
    """A PEFT adapter with random values, saved by PEFT, and its logits."""
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 6, "task_type": "CAUSAL_LM"} | options)
    model = peft.get_peft_model(load(base), config).eval()
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(path, **saving)
    return logits(model, IDS)


@pytest.mark.parametrize(("base", "options", "saving"), MADE.values(), ids=MADE.keys())
def test_what_peft_makes_goes_through_us_unchanged(base, options, saving, tmp_path):
    expected = make(base, options, saving, tmp_path / "theirs")
    adapter = read_peft(tmp_path / "theirs")
    require_fit(adapter, Base.open(TRUTH / "bases" / base))
    write_peft(adapter, tmp_path / "ours")
    assert read_peft(tmp_path / "ours") == adapter
    model = peft.PeftModel.from_pretrained(load(base), tmp_path / "ours")
    np.testing.assert_allclose(logits(model, IDS), expected, atol=1e-5)


def test_an_embedding_saved_unchanged_is_no_replacement(tmp_path):
    base, options, saving = MADE["embedding with its weights"]
    make(base, options, saving, tmp_path / "theirs")
    adapter, truth = read_peft(tmp_path / "theirs"), Base.open(TRUTH / "bases" / base)
    assert [r.name for r in adapter.replacements] == ["model.embed_tokens.weight"]
    rest = without_unchanged(adapter, truth)
    assert rest.replacements == ()
    assert rest.deltas == adapter.deltas
    assert without_unchanged(rest, truth) is rest


def test_tied_deltas_made_by_peft_are_one(tmp_path):
    base, options, saving = MADE["tied on both sides with weights"]
    make(base, options, saving, tmp_path / "theirs")
    sites = {d.module: d.site for d in read_peft(tmp_path / "theirs").deltas}
    assert sites["model.embed_tokens"] is Site.BOTH
    assert "lm_head" not in sites


def test_raw_pissa_is_refused(tmp_path):
    options = {"target_modules": ["q_proj"], "init_lora_weights": "pissa"}
    make("llama", options, {}, tmp_path / "theirs")
    with pytest.raises(Exception, match="pissa") as caught:
        read_peft(tmp_path / "theirs")
    assert caught.value.code == "format_unsupported"
