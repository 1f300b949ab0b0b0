"""Every mismatch at once, and nothing else."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lorakit.adapter import Adapter, Delta, Magnitude, Precondition, Replacement, Site
from lorakit.base.folder import Base
from lorakit.check import Mismatch, check, require_fit, without_unchanged
from lorakit.errors import MismatchError
from lorakit.formats.peft import read_peft

TRUTH = Path(__file__).parent / "data/truth"
FOLDERS = sorted(path.parent for path in TRUTH.glob("peft/*/*/adapter_model.safetensors"))
LLAMA = Base.open(TRUTH / "bases/llama")
GEMMA = Base.open(TRUTH / "bases/gemma3")
Q = "model.layers.0.self_attn.q_proj"


def delta(module=Q, n_out=64, n_in=64, rank=2, **more):
    a, b = np.ones((rank, n_in), np.float32), np.ones((n_out, rank), np.float32)
    return Delta(module=module, a=a, b=b, scale=1.0, **more)


def items(found):
    return [mismatch.item for mismatch in found]


@pytest.mark.parametrize("path", FOLDERS, ids=lambda path: "/".join(path.parts[-2:]))
def test_every_adapter_fits_its_own_base_and_no_other(path):
    adapter = read_peft(path)
    own, other = (LLAMA, GEMMA) if path.parent.name == "llama" else (GEMMA, LLAMA)
    assert not [m for m in check(adapter, own) if m.severity == "error"]
    require_fit(adapter, own.decoder)
    with pytest.raises(MismatchError):
        require_fit(adapter, other)


def test_every_mismatch_is_found_at_once():
    nan = delta("model.layers.1.self_attn.q_proj")
    nan.b[3, 1] = np.nan
    adapter = Adapter(
        deltas=(
            delta(),
            nan,
            delta("model.layers.9.self_attn.q_proj"),
            delta("model.layers.0.self_attn.w_pack"),
            delta("model.layers.2.self_attn.k_proj", n_out=64),
            delta("lm_head", site=Site.INPUT, n_out=512),
        ),
        replacements=(
            Replacement(name="model.norm.weight", value=np.ones(9, np.float32)),
            Replacement(name="score.weight", value=np.ones((2, 64), np.float32)),
            Replacement(
                name="model.embed_tokens.weight",
                value=np.ones((2, 64), np.float32),
                rows=np.array([3, 512]),
            ),
        ),
        magnitudes=(
            Magnitude(module=Q, value=np.ones(5, np.float32)),
            Magnitude(module="model.layers.3.mlp.up_proj", value=np.ones(128, np.float32)),
        ),
        invocation_tokens=(5, 512),
        precondition=Precondition(name="org/other-model"),
    )
    found = check(adapter, LLAMA)
    assert sorted(items(found)) == sorted(
        [
            "model.layers.1.self_attn.q_proj.B",
            "model.layers.9.self_attn.q_proj",
            "model.layers.0.self_attn.w_pack",
            "model.layers.2.self_attn.k_proj",
            "lm_head",
            "model.norm.weight",
            "score.weight",
            "model.embed_tokens.weight",
            f"{Q}.magnitude",
            "model.layers.3.mlp.up_proj.magnitude",
            "invocation tokens",
            "base name",
        ]
    )
    assert [mismatch.severity for mismatch in found] == ["error"] * 11 + ["warning"]
    with pytest.raises(MismatchError) as caught:
        require_fit(adapter, LLAMA)
    assert len(caught.value.items) == 11
    assert caught.value.code == "adapter_mismatch"
    assert "org/other-model" in caught.value.hint


@pytest.mark.parametrize(
    ("wrong", "expected", "found"),
    [
        (delta(n_out=32), "[64, 64]", "[32, 64]"),
        (delta(n_in=32), "[64, 64]", "[64, 32]"),
        (delta("model.embed_tokens", site=Site.LINEAR, n_out=64, n_in=512), "input", "linear"),
        (delta("model.embed_tokens", site=Site.INPUT, n_out=64, n_in=600), "512", "600"),
        (delta("model.layers.4.mlp.up_proj"), "4 layers", "rank 2"),
    ],
)
def test_a_mismatch_says_what_was_expected_and_found(wrong, expected, found):
    (mismatch,) = check(Adapter(deltas=(wrong, delta("model.layers.1.mlp.gate_proj", 128))), LLAMA)
    assert mismatch.item == wrong.module
    assert expected in mismatch.expected
    assert found in mismatch.found
    assert mismatch.item in str(mismatch)


def test_experts_on_a_dense_base():
    module = "model.layers.0.mlp.up_proj"
    experts = Delta(module=module, a=np.ones((3, 2, 64)), b=np.ones((3, 128, 2)), scale=1)
    (mismatch,) = check(Adapter(deltas=(experts,)), LLAMA)
    assert "3 experts" in mismatch.found


def test_an_adapter_of_another_kind_of_model_is_one_mismatch():
    adapter = Adapter(deltas=tuple(delta(f"transformer.h.{i}.attn.c_attn") for i in range(40)))
    (mismatch,) = check(adapter, LLAMA)
    assert mismatch.item == "architecture"
    assert "transformer.h.0.attn.c_attn" in mismatch.found
    vision = Adapter(deltas=(delta("model.language_model.layers.0.mlp.up_proj"),))
    assert "multimodal" in check(vision, LLAMA)[0].advice


def test_a_long_list_is_cut_in_the_error_only():
    adapter = Adapter(
        deltas=(delta(), *(delta(f"model.layers.{i}.mlp.up_proj") for i in range(4, 50)))
    )
    assert len(check(adapter, LLAMA)) == 46
    with pytest.raises(MismatchError) as caught:
        require_fit(adapter, LLAMA)
    assert len(caught.value.items) == 21
    assert caught.value.items[-1] == "and 26 more"


def test_the_base_is_known_by_name_or_fingerprint():
    adapter = Adapter(deltas=(delta(),))

    def asked(**precondition):
        return items(check(replace(adapter, precondition=Precondition(**precondition)), LLAMA))

    assert asked(name="somewhere/Llama/") == []
    assert asked(name="org/another") == ["base name"]
    assert asked(name="org/another", fingerprint=LLAMA.fingerprint) == []
    assert asked(name="org/llama", fingerprint="0" * 64) == ["base fingerprint"]
    require_fit(replace(adapter, precondition=Precondition(name="org/another")), LLAMA)


def test_a_delta_on_both_sides_of_an_untied_base_is_a_warning():
    both = delta("model.embed_tokens", n_out=64, n_in=512, site=Site.BOTH)
    (mismatch,) = check(Adapter(deltas=(both,)), LLAMA)
    assert mismatch.severity == "warning"
    assert check(Adapter(deltas=(both,)), GEMMA) == ()


def test_a_tied_head_may_be_adapted_and_replaced():
    head = Replacement(name="lm_head.weight", value=np.ones((512, 64), np.float32))
    adapter = Adapter(deltas=(delta("lm_head", n_out=512, n_in=64),), replacements=(head,))
    assert check(adapter, GEMMA) == ()
    assert check(adapter, LLAMA) == ()


def test_what_the_base_holds_already_is_no_replacement():
    table = LLAMA.tensor("model.embed_tokens.weight")
    rows = np.array([3, 7])
    own = (
        Replacement(name="model.embed_tokens.weight", value=table),
        Replacement(name="model.embed_tokens.weight", value=table[rows], rows=rows),
    )
    changed = (
        Replacement(name="lm_head.weight", value=LLAMA.tensor("lm_head.weight") + 1),
        Replacement(name="score.weight", value=np.ones(3, np.float32)),
    )
    adapter = Adapter(deltas=(delta(),), replacements=own + changed)
    assert without_unchanged(adapter, LLAMA).replacements == changed
    adapter = Adapter(deltas=(delta(),), replacements=changed)
    assert without_unchanged(adapter, LLAMA) is adapter


def test_a_mismatch_cannot_be_changed():
    with pytest.raises(AttributeError):
        Mismatch(item="a", expected="b", found="c").item = "d"
