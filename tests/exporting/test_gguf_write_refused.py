"""What a GGUF file cannot say is refused before any weight is read; what it says beside weights."""

import re
from dataclasses import replace

import numpy as np
import pytest

from gguf_bases import FAMILIES, LONG, YARN, make_base, model_of, written
from lorakit.architectures import describe
from lorakit.base.folder import Base
from lorakit.base.gguf import open_base
from lorakit.errors import UnsupportedError
from lorakit.exporting.gguf import architecture, write_gguf
from lorakit.exporting.gguf import model as building
from lorakit.files.gguf import Value

NESTED = {"full_attention": {"rope_type": "default"}}
REFUSED = {
    "scale": ("gemma3", {"query_pre_attn_scalar": 24}, "scaled by 0.204124.*32\\^-0.5"),
    "scale of 62": (
        "gemma3",
        {"num_hidden_layers": 62, "query_pre_attn_scalar": 32},
        "0.176777.*16\\^-0.5",
    ),
    "activation": ("gemma3", {"hidden_activation": "gelu"}, "activation gelu: .* gelu_tanh"),
    "exact gelu": ("gpt2", {"activation_function": "gelu"}, "activation gelu"),
    "gelu for silu": ("llama", {"hidden_act": "gelu"}, "activation gelu: its graph computes silu"),
    "no scale": ("gpt2", {"scale_attn_weights": False}, "attention is scaled by 1:"),
    "biases": ("gemma3", {"attention_bias": True}, "biases behind the attention"),
    "biases of Qwen 3": ("qwen3", {"attention_bias": True}, "biases behind the attention"),
    "wide": ("qwen2", {"head_dim": 32}, "4 heads of 32: .* 64"),
    "narrow": ("phi3", {"head_dim": 8}, "4 heads of 8"),
    "dense": ("qwen3 experts", {"mlp_only_layers": [1]}, "layers without experts: 1$"),
    "unnormalised": ("qwen3 experts", {"norm_topk_prob": False}, "norm_topk_prob"),
    "llama3 of Qwen": (
        "qwen3",
        {"rope_scaling": FAMILIES["llama 3"]["rope_scaling"]},
        "RoPE scaled by llama3: .* default or linear or yarn$",
    ),
    "llama3 of Gemma": (
        "gemma3",
        {"rope_scaling": FAMILIES["llama 3"]["rope_scaling"]},
        "RoPE scaled by llama3",
    ),
    "yarn's attention": (
        "qwen2 yarn",
        {"rope_scaling": YARN | {"attention_factor": 1.0}},
        "attention factor of 1 of its RoPE: 1.2079",
    ),
    "yarn's betas": ("qwen2 yarn", {"rope_scaling": YARN | {"beta_fast": 16}}, "beta_fast.*16.*32"),
    "yarn's blend": ("qwen2 yarn", {"rope_scaling": YARN | {"truncate": False}}, "truncate"),
    "local layers": (
        "gemma3",
        {"rope_parameters": NESTED | {"sliding_attention": {"type": "linear", "factor": 2.0}}},
        "RoPE scaled in the layers with a sliding window",
    ),
    "few factors": ("phi3 long", {"rope_scaling": LONG | {"long_factor": [1.0]}}, "expected 6"),
    "no factors": (
        "phi3 long",
        {"rope_scaling": LONG | {"long_factor": None}},
        "expected 6 .* None",
    ),
    "strange factors": (
        "phi3 long",
        {"rope_scaling": LONG | {"short_factor": [1.0] * 5 + ["2"]}},
        "short_factor of its RoPE",
    ),
    "infinite factors": (
        "phi3 long",
        {"rope_scaling": LONG | {"short_factor": [1.0] * 5 + [float("inf")]}},
        "short_factor of its RoPE",
    ),
    "factor": ("phi3 long", {"rope_scaling": LONG | {"attention_factor": -1}}, "found -1"),
    "mscale": ("phi3 long", {"rope_scaling": LONG | {"long_mscale": 1.2}}, "long_mscale"),
}


class Unread(dict):
    """Tensors that nobody may read."""

    def __getitem__(self, name):
        raise AssertionError(name)

    get = __getitem__


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    place = tmp_path_factory.mktemp("bases")
    made = {name: make_base(place / name, config) for name, config in FAMILIES.items()}
    return {name: Base.open(folder) for name, folder in made.items()}


def configured(base, **changes):
    config = {**base.config, **changes}
    return replace(base, config=config, decoder=describe(config), tensors=Unread())


@pytest.mark.parametrize("case", REFUSED)
def test_what_llama_cpp_would_compute_otherwise_is_refused(bases, case):
    name, changes, words = REFUSED[case]
    with pytest.raises(UnsupportedError, match="cannot compute") as caught:
        model_of(configured(bases[name], **changes))
    assert len(caught.value.items) == 1
    assert re.search(words, caught.value.items[0])
    assert model_of(configured(bases[name])).keys  # the same base without that


def test_everything_is_listed_at_once(bases):
    changes = {"hidden_activation": "silu", "query_pre_attn_scalar": 24, "attention_bias": True}
    with pytest.raises(UnsupportedError) as caught:
        model_of(configured(bases["gemma3"], **changes))
    assert len(caught.value.items) == 3


def test_the_one_gemma_that_is_scaled_otherwise_is_taken(bases):
    """The largest: by its hidden size over its heads."""
    changes = {"num_hidden_layers": 62, "query_pre_attn_scalar": 16}
    assert model_of(configured(bases["gemma3"], **changes)).keys


def test_windows_that_llama_cpp_lacks_are_noted(bases):
    short = configured(bases["mistral"], sliding_window=32)
    assert "beyond 32 tokens" in architecture.notes(short.decoder)[0]
    assert model_of(short).notes == architecture.notes(short.decoder)
    for base in (bases["gemma3"], configured(bases["mistral"], sliding_window=128)):
        assert model_of(base).notes == ()


def test_longrope_by_the_context_is_noted(bases):
    """llama.cpp goes by the context, the model by its text."""
    scaling = {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    changes = {"rope_scaling": scaling, "original_max_position_embeddings": 32}
    long = configured(bases["phi3"], **changes)
    assert "-c 32" in architecture.notes(long.decoder)[-1]
    assert not any("-c" in note for note in architecture.notes(bases["phi3"].decoder))


def test_phi_says_its_window_or_zero(bases):
    key = "phi3.attention.sliding_window"
    assert model_of(bases["phi3"]).keys[key] == Value("u32", 0)
    assert model_of(configured(bases["phi3"], sliding_window=9)).keys[key] == Value("u32", 9)


@pytest.mark.parametrize(
    ("scaling", "factor"),
    [
        (LONG, np.sqrt(1 + np.log(2) / np.log(64))),
        (LONG | {"factor": 8.0}, np.sqrt(1 + np.log(8) / np.log(64))),
        (LONG | {"attention_factor": 1.25}, 1.25),
        (LONG | {"factor": 0.5}, 1.0),
    ],
)
def test_longropes_factor_of_attention(bases, scaling, factor):
    found = model_of(configured(bases["phi3 long"], rope_scaling=scaling)).keys
    assert found["phi3.rope.scaling.attn_factor"].data == pytest.approx(factor)


def test_templates_come_back(bases, tmp_path):
    templates = {"default": "{{ messages }}", "tool_use": "{{ tools }}", "rag 2": "x"}
    path = written(bases["llama"].path, tmp_path / "m.gguf")
    assert open_base(path).templates == {}
    model = model_of(bases["llama"], templates=templates, extra={"lorakit.x": Value("str", "y")})
    assert model.keys["lorakit.x"].data == "y"
    assert open_base(write_gguf(model, tmp_path / "t.gguf", "F32")[0]).templates == {
        "default": "{{ messages }}", "tool_use": "{{ tools }}", "rag_2": "x",
    }  # fmt: skip
    assert model.keys["tokenizer.chat_templates"].data == ("tool_use", "rag_2")


@pytest.mark.parametrize(
    ("stripping", "name", "kept"),
    [
        (False, "lights", "lights"),
        (False, "my-Phi-3-lights", "my-Phi 3-lights"),
        (False, "PHI3", "Phi 3"),
        (True, "lights", "lights (phi-3)"),
        (True, "Phi-3 lights", "Phi-3 lights"),
    ],
)
def test_phi_3_is_in_the_name_where_its_tokens_take_spaces_away(
    bases, monkeypatch, stripping, name, kept
):
    """llama.cpp looks for it there (src/llama-vocab.cpp)."""
    made = building.gguf_vocabulary(bases["llama"], 512)
    monkeypatch.setattr(
        building, "gguf_vocabulary", lambda base, rows: replace(made, stripping=stripping)
    )
    assert model_of(bases["llama"], name=name).keys["general.name"].data == kept
