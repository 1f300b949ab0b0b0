"""What is compared: open models, recorded logits, PEFT itself; on built-in prompts."""

import numpy as np
import pytest
from verify_cases import merged_into

import lorakit
from folders import DATA
from lorakit.adapter import Adapter, Delta, Replacement
from lorakit.errors import EngineError, FormatError, ParameterError, SourceError
from lorakit.formats import read_adapter
from lorakit.text.tokenizer import Tokenizer
from lorakit.verify import (
    TOLERANCE,
    adapted,
    peft_logits,
    prompts_for,
    recorded,
    verify,
    verify_conversion,
)

TRUTH = DATA / "truth"
PLAIN = TRUTH / "peft/llama/plain"
BASE = TRUTH / "bases/llama"


@pytest.fixture(scope="module")
def model():
    with lorakit.open(BASE, threads=1) as model:
        model.load_adapter(PLAIN, "plain")
        yield model


def test_copies_in_other_formats_agree(model):
    report = verify_conversion(model, PLAIN, TRUTH / "gguf/llama.plain.f32.gguf")
    assert report.agrees
    assert report.total.max_difference < 1e-5
    assert report.total.effect > 1
    assert [info.name for info in model.adapters] == ["plain"]


def test_llama_cpps_wrong_conversion_is_found():
    with lorakit.open(TRUTH / "bases/gemma3", threads=1) as gemma:
        source = TRUTH / "peft/gemma3/rslora"
        wrong = verify_conversion(gemma, source, TRUTH / "gguf/gemma3.rslora.f32.gguf")
        assert not wrong.agrees
        assert wrong.total.max_difference > 0.1 * wrong.total.effect
        folded = verify_conversion(
            gemma, source, TRUTH / "gguf/gemma3.rslora.folded.f32.gguf", tolerance=TOLERANCE
        )
        assert folded.agrees


def test_a_merged_model_agrees_with_the_adapter_on_the_fly(model, tmp_path):
    merged_into(BASE, read_adapter(PLAIN), tmp_path / "merged")
    with lorakit.open(tmp_path / "merged", threads=1) as merged:
        prompts = prompts_for(model.tokenizer, model.capabilities.vocabulary)
        sides = (adapted(model, {"plain": 1.0}), adapted(merged, {}))
        assert verify(*sides, prompts, plain=adapted(model, {})).agrees
        half = verify(adapted(model, {"plain": 0.5}), adapted(merged, {}), prompts)
        assert not half.agrees
        assert half.total.kl > 0
        assert half.total.kl_reverse > 0


def test_recorded_logits_of_peft(model):
    for family, scale in (("scale1", 1.0), ("scale0.5", 0.5)):
        side, prompts = recorded(PLAIN / "logits.npz", family)
        assert [len(ids) for ids in prompts.values()] == [7, 20, 33]
        assert verify(adapted(model, {"plain": scale}), side, prompts).agrees
    side, prompts = recorded(PLAIN / "logits.npz", likely="scale0.5")
    assert verify(adapted(model, {"plain": 0.5}), side, prompts).agrees
    with pytest.raises(ParameterError, match="no logits for"):
        side([1, 2, 3])


def test_records_that_cannot_be_used(tmp_path):
    with pytest.raises(ParameterError, match="several kinds") as caught:
        recorded(PLAIN / "logits.npz")
    assert caught.value.items == ("scale0.5", "scale1")
    with pytest.raises(ParameterError, match="no logits 'merged'"):
        recorded(PLAIN / "logits.npz", "merged")
    with pytest.raises(SourceError):
        recorded(tmp_path / "none.npz")
    path = tmp_path / "x.npz"
    np.savez(path, logits0=np.zeros((2, 3), np.float32))
    with pytest.raises(ParameterError, match="which token ids"):
        recorded(path)
    side, prompts = recorded(path, ids={"ids0": [4, 5]})
    assert prompts == {"ids0": [4, 5]}
    assert side([4, 5]).shape == (2, 3)
    np.savez(path, ids0=np.zeros(2), logits0=np.zeros(3))
    with pytest.raises(FormatError) as broken:
        recorded(path)
    assert len(broken.value.items) == 2
    path.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(FormatError):
        recorded(path)


def test_built_in_prompts_are_the_same_everywhere_and_switch_parts_on():
    tokenizer = Tokenizer.open(BASE)
    first = prompts_for(tokenizer, 512)
    assert first == prompts_for(tokenizer, 512)
    assert set(first) == {"text 1", "text 2", "text 3", "random ids"}
    assert list(prompts_for(None, 512)) == ["random ids"]
    rows = Replacement(
        name="model.embed_tokens.weight",
        value=np.ones((2, 4), np.float32),
        rows=np.array([7, 600]),
    )
    special = Adapter(invocation_tokens=(10, 11), replacements=(rows,))
    assert prompts_for(None, 512, [special])["adapter 1"][8:-8] == [10, 11, 7]


def test_an_adapter_that_does_nothing_is_told(model):
    zero = np.zeros((2, 64), np.float32)
    nothing = Adapter(
        deltas=(Delta(module="model.layers.0.self_attn.q_proj", a=zero, b=zero.T, scale=1.0),)
    )
    report = verify_conversion(model, nothing, nothing, names=("nothing", "again"))
    assert report.agrees
    assert "nothing has no effect" in report.warnings[0]


def test_peft_itself_agrees(model):
    pytest.importorskip("peft", reason="compares with PEFT")
    model.load_adapter(TRUTH / "peft/llama/plain_b", "b")
    pairs = [(PLAIN, 0.7), (TRUTH / "peft/llama/plain_b", -0.3)]
    prompts = {"short": [5, 6, 7, 8]}
    with peft_logits(BASE, pairs) as side:
        both = adapted(model, {"plain": 0.7, "b": -0.3})
        assert verify(both, side, prompts, plain=adapted(model, {})).agrees
        assert not verify(adapted(model, {"plain": 0.7}), side, prompts).agrees
    for adapter, error in (
        ("gguf/llama.plain.f32.gguf", ParameterError),
        ("peft/gemma3/plain", EngineError),
    ):
        with pytest.raises(error, match="PEFT"), peft_logits(BASE, [(TRUTH / adapter, 1.0)]):
            pass
