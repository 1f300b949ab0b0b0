"""What the command `lorakit verify` knows, from Python."""

from pathlib import Path

import pytest
from verify_cases import merged_in_bfloat16

from folders import DATA
from llama_library import need_llama
from lorakit import demo
from lorakit.base.folder import Base
from lorakit.engines.llama.quantize import quantize
from lorakit.errors import ParameterError
from lorakit.formats import read_adapter
from lorakit.merge import merge
from lorakit.verify import CostLimits, Opening, PromptChoice, verify_against
from lorakit.verify.opening import parse_other
from lorakit.verify.other import weights_dtypes

TRUTH = DATA / "truth"
BASE = str(TRUTH / "bases/llama")
PLAIN = str(TRUTH / "peft/llama/plain")
GGUF = str(TRUTH / "gguf/llama.plain.f32.gguf")


def against(*other, adapters=(PLAIN,), base=BASE, **options):
    opening = Opening(base, tuple(adapters), threads=1)
    return verify_against(opening, other, **options)


@pytest.fixture(scope="module")
def merges(tmp_path_factory):
    """The demo's base with an adapter in it, as bfloat16; the second at a scale of 0.99."""
    folder = tmp_path_factory.mktemp("merges")
    adapter = read_adapter(demo.adapter_path("home"))
    for name, scale in (("right", 1.0), ("wrong", 0.99)):
        merge(Base.open(demo.base_path()), [(adapter, scale)], folder / name, dtype="bf16")
    return folder


def test_a_merge_in_bfloat16_agrees_and_one_at_a_wrong_scale_does_not(merges):
    demo_pair = {"base": str(demo.base_path()), "adapters": [str(demo.adapter_path("home"))]}
    report = against(f"model:{merges / 'right'}", **demo_pair)
    assert report.agrees
    assert report.stored == "bfloat16"
    assert report.verdict.startswith("agrees within bfloat16's rounding (effect 24, difference 0.")
    assert report.total.max_difference > 2e-4
    wrong = against(str(merges / "wrong"), **demo_pair)
    assert not wrong.agrees
    assert "points where" in "".join(wrong.findings.against)
    base = against(f"model:{demo.base_path()}", **demo_pair)
    assert not base.agrees
    strict = against(f"model:{merges / 'right'}", tolerance=2e-4, **demo_pair)
    assert "above the tolerance of 0.0002" in strict.verdict


@pytest.mark.parametrize("name", ["plain", "rslora"])
def test_a_merge_by_others_that_round_twice_agrees_too(name, tmp_path):
    base, adapter = TRUTH / "bases/gemma3", TRUTH / f"peft/gemma3/{name}"
    for scale, agrees in ((1.0, True), (0.99, False), (1.01, False), (0.0, False)):
        folder = tmp_path / f"{scale}"
        merged_in_bfloat16(base, read_adapter(adapter), scale, folder)
        report = against(f"model:{folder}", base=str(base), adapters=[str(adapter)])
        assert report.agrees is agrees, (scale, report.verdict)


def test_adapters_records_and_prompts():
    ids = PromptChoice(ids="5,6,7,8")
    report = against(GGUF, prompts=ids)
    assert report.agrees
    assert report.one == f"{BASE} + {PLAIN} (onnx)"
    assert [row.tokens for row in report.prompts] == [4]
    assert not against(f"{GGUF}:0.99", prompts=ids).agrees
    record = f"{PLAIN}/logits.npz"
    assert against(record, adapters=[f"{PLAIN}:0.5"]).agrees
    assert not against(f"{record}#scale0.5", adapters=[f"{PLAIN}:0.495"]).agrees
    assert not against("base", prompts=ids).agrees


def test_another_form_is_measured_and_not_called_different():
    ids = PromptChoice(ids="5,6,7,8,9,10,11,12")
    report = against("quantize:int8", prompts=ids)
    assert report.agrees
    assert report.stored is report.tolerance is None
    assert report.total.kl > 0
    assert "no limit was set" in report.verdict
    assert len(report.answers.differs_at) == 1
    assert not against("quantize:int8", prompts=ids, max_kl=report.total.kl / 2, repeats=0).agrees
    held = {"base": BASE, "adapters": (PLAIN,), "quantize": "int8", "threads": 1}
    record = f"{PLAIN}/logits.npz"
    same = verify_against(Opening(**held), [f"{record}#scale1"])
    assert same.agrees
    assert same.answers is None  # a record answers nothing
    other = verify_against(Opening(**held), [f"{record}#scale0.5"])
    assert not other.agrees
    assert other.verdict.startswith("something is wrong")
    adapters = verify_against(Opening(**held), [GGUF], prompts=ids)  # both sides are int8
    assert adapters.limits is None


def test_a_quantised_file_is_measured(tmp_path):
    need_llama()
    file = tmp_path / "q8.gguf"
    quantize(TRUTH / "gguf/llama.base.f32.gguf", file, type="Q8_0")
    report = against(f"on:{file}", prompts=PromptChoice(ids="5,6,7,8"), repeats=4)
    assert report.agrees
    assert report.limits == CostLimits(form="GGUF")
    floats = against(f"on:{TRUTH / 'gguf/llama.base.f32.gguf'}", prompts=PromptChoice(ids="5,6"))
    assert floats.limits is None
    assert floats.stored == "float32"


def test_the_other_side_holds_its_own_weights():
    held = Opening(BASE, engine="onnx", quantize="int8")
    assert held.changed(parse_other([f"on:{GGUF}"])).quantize == "none"
    assert held.changed(parse_other([f"on:{BASE}"])).quantize == "int8"
    assert held.changed(parse_other(["engine:torch"])).quantize == "none"


def test_two_adapters_of_which_one_is_wrong():
    second = str(TRUTH / "peft/llama/plain_b")
    pair = [f"{PLAIN}:0.7", f"{second}:0.3"]
    assert against(*pair, adapters=pair).agrees
    wrong = against(f"{PLAIN}:0.7", f"{second}:0.297", adapters=pair)
    assert not wrong.agrees
    assert any("plain_b" in each for each in wrong.findings.against)


def test_what_is_refused():
    with pytest.raises(ParameterError, match="nothing to compare"):
        against()
    with pytest.raises(ParameterError, match="together"):
        parse_other([PLAIN, "peft"])
    assert parse_other([str(Path(BASE))]).kind == "model"


def test_the_dtypes_of_a_gguf_file():
    need_llama()
    with Opening(str(TRUTH / "gguf/llama.base.f32.gguf")).open() as model:
        assert weights_dtypes(model) == {"float32"}
