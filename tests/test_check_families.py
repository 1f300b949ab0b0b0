"""Mismatches of mixtures of experts, fused projections, Conv1D and learned positions."""

from pathlib import Path

import numpy as np
import pytest

from lorakit.adapter import Adapter, Delta, Magnitude, Replacement, Site
from lorakit.base.folder import Base
from lorakit.check import check

FAMILIES = Path(__file__).parent / "data/families"
BASES = {name: Base.open(FAMILIES / name) for name in ("qwen3_moe", "phi3", "gpt2", "qwen3")}
EXPERTS = "model.layers.0.mlp.experts"


def delta(module, n_out, n_in, *, experts=(), **more):
    a = np.ones((*experts, 2, n_in), np.float32)
    b = np.ones((*experts, n_out, 2), np.float32)
    return Delta(module=module, a=a, b=b, scale=1.0, **more)


def fitting(base):
    """A delta for every module of a base, as its table says."""
    for module, shape in base.decoder.modules().items():
        yield delta(
            module,
            shape.out_features,
            shape.in_features,
            experts=() if shape.experts is None else (shape.experts,),
            site=Site.INPUT if shape.embedding else Site.LINEAR,
        )


@pytest.mark.parametrize("name", BASES)
def test_a_delta_for_every_module_fits(name):
    found = check(Adapter(deltas=tuple(fitting(BASES[name]))), BASES[name])
    assert [mismatch for mismatch in found if mismatch.severity == "error"] == []


@pytest.mark.parametrize(
    ("name", "wrong", "expected", "advice"),
    [
        ("qwen3_moe", delta(f"{EXPERTS}.up_proj", 24, 32), "deltas of 4 experts", "an axis"),
        (
            "qwen3_moe",
            delta(f"{EXPERTS}.up_proj", 24, 32, experts=(8,)),
            "deltas of 4 experts",
            "another number of experts",
        ),
        (
            "qwen3_moe",
            delta(f"{EXPERTS}.down_proj", 24, 32, experts=(4,)),
            "a delta of [32, 24] (out, in)",
            "wrong way round",
        ),
        (
            "qwen3_moe",
            delta("model.layers.0.mlp.gate", 32, 4),
            "a delta of [4, 32] (out, in)",
            "wrong way round",
        ),
        (
            "qwen3_moe",
            delta("model.layers.0.mlp.up_proj", 24, 32),
            "a module of qwen3_moe",
            "has experts there",
        ),
        (
            "qwen3",
            delta("model.layers.0.mlp.up_proj", 48, 32, experts=(4,)),
            "one weight matrix",
            "mixture-of-experts model",
        ),
        (
            "phi3",
            delta("model.layers.1.self_attn.q_proj", 32, 32),
            "a module of phi3",
            "keeps it in model.layers.1.self_attn.qkv_proj",
        ),
        (
            "phi3",
            delta("model.layers.1.mlp.gate_up_proj", 48, 32),
            "a delta of [96, 32] (out, in)",
            "several projections",
        ),
        (
            "gpt2",
            delta("transformer.h.0.attn.c_attn", 32, 96),
            "a delta of [96, 32] (out, in)",
            "wrong way round",
        ),
        (
            "gpt2",
            delta("transformer.h.7.attn.c_attn", 96, 32),
            "one of the base's 2 layers",
            "",
        ),
        ("gpt2", delta("transformer.wpe", 32, 64, site=Site.BOTH), "a delta at site input", ""),
    ],
)
def test_a_mismatch_says_what_the_base_has(name, wrong, expected, advice):
    base = BASES[name]
    right = next(d for d in fitting(base) if d.module.endswith(("o_proj", "attn.c_proj")))
    (found,) = check(Adapter(deltas=(right, wrong)), base)
    assert found.item == wrong.module
    assert found.expected == expected
    assert advice in found.advice


def test_parameters_of_experts_and_of_a_tied_head():
    moe = Adapter(
        replacements=(
            Replacement(name=f"{EXPERTS}.down_proj", value=np.ones((4, 32, 24), np.float32)),
            Replacement(name=f"{EXPERTS}.gate_up_proj", value=np.ones((4, 24, 32), np.float32)),
        )
    )
    (found,) = check(moe, BASES["qwen3_moe"])
    assert (found.item, found.expected) == (f"{EXPERTS}.gate_up_proj", "[4, 48, 32]")
    tied = Adapter(
        replacements=(
            Replacement(name="lm_head.weight", value=np.ones((96, 32), np.float32)),
            Replacement(name="transformer.h.0.ln_1.bias", value=np.ones(32, np.float32)),
            Replacement(name="transformer.h.0.mlp.c_fc.weight", value=np.ones((32, 128), "f4")),
        )
    )
    assert check(tied, BASES["gpt2"]) == ()


def test_a_magnitude_of_experts_has_one_row_for_each():
    right = delta(f"{EXPERTS}.up_proj", 24, 32, experts=(4,))

    def with_magnitude(*shape):
        value = Magnitude(module=right.module, value=np.ones(shape, np.float32))
        return check(Adapter(deltas=(right,), magnitudes=(value,)), BASES["qwen3_moe"])

    assert with_magnitude(4, 24) == ()
    assert [mismatch.expected for mismatch in with_magnitude(24)] == ["[4, 24]"]
