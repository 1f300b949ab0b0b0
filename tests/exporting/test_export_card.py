"""The card of an export: what it was made of, how far it is from float32, how it is loaded."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from lorakit.exporting.card import card
from lorakit.exporting.parity import Answers, Apart, Parity, SideParity
from lorakit.exporting.result import ExportedFile
from lorakit.exporting.targets.onnx import Onnx

RECORD = {
    "base_name": "org/base",
    "adapters": "merged",
    "names": ["home"],
    "from": [{"name": "home", "scale": 0.5, "facts": {}}],
    "tool_format": "functiongemma",
    "context": 8192,
    "forms": {"q4": {"file": "onnx/model_q4.onnx", "bytes": 253_000_000}},
}
PLAN = SimpleNamespace(
    target=Onnx(),
    output=Path("home-q4"),
    kind="merged",
    base=SimpleNamespace(path=Path("nowhere")),
    adapters=(),
)
SIDE = SideParity(
    name="home",
    positions=640,
    max_difference=0.12,
    kl=0.0031,
    top1=0.987,
    effect=3.0,
    answers=Answers(asked=24, same=23, calls=24, wanted=24, right=22, right_before=23),
)
PARITY = Parity(
    form="q4",
    kind="merged",
    most=1.0,
    reference="base + adapter, float32",
    runtime="onnxruntime 1.31, CPU",
    prompts="24 examples of mine.jsonl",
    sides=(SIDE,),
    apart=Apart(merged=0.0031, apart=0.0012),
)
FILE = ExportedFile(
    form="q4",
    path=Path("x/onnx/model_q4.onnx"),
    parts=(Path("x/onnx/model_q4.onnx"),),
    nbytes=253_000_000,
    seconds=1.0,
    parity=PARITY,
)


def made(**change):
    return card(PLAN, RECORD | change, [FILE])


def test_it_says_what_hubs_and_people_read():
    text = made()
    front = yaml.safe_load(text.split("---")[1])
    assert front["base_model"] == "org/base"
    assert front["base_model_relation"] == "finetune"
    assert front["library_name"] == "transformers.js"
    assert {"onnx", "lora", "function-calling"} <= set(front["tags"])
    for said in (
        "`home` at scale 0.5 merged into its weights",
        "It holds 8,192 tokens",
        "{ dtype: 'q4' }",
        "| q4 | home | 0.0031 | 98.7% | 0.12 | 23 of 24 | 22 of 24 | 23 of 24 |",
        "keeping the adapter apart is more accurate: KL 0.0012 kept apart",
        "| q4 | `onnx/model_q4.onnx` | 253.0 |",
        "skip_special_tokens: false",
    ):
        assert said in text


@pytest.mark.parametrize(
    ("kind", "said", "relation"),
    [
        ("dynamic", "await model.load('/adapters/home/')", "quantized"),
        ("composed", '{ tools, adapters: { "home": 1 } }', "finetune"),
    ],
)
def test_files_with_inputs_of_adapters_are_loaded_by_lorakit_js(kind, said, relation):
    text = made(adapters=kind)
    assert said in text
    assert "AutoModelForCausalLM" not in text
    assert yaml.safe_load(text.split("---")[1])["base_model_relation"] == relation


@pytest.mark.parametrize(
    ("base", "adapters", "kind", "said"),
    [
        ("license: apache-2.0", ["apache-2.0"], "merged", "apache-2.0"),
        ("license: 'llama3.2'", [], "merged", "llama3.2"),
        ("license: gemma", ["mit"], "dynamic", "gemma"),  # it is not inside
        ("license: gemma", ["mit"], "merged", None),
        ("license: mit", [None], "apart", None),  # what it does not say is not known
        ("tags: [x]", ["mit"], "merged", None),
        ("license: other\nlicense_name: mine", ["other"], "merged", None),
        ("license: [mit, x]", [], "merged", None),
    ],
)
def test_the_licence_is_the_one_that_all_inside_says(tmp_path, base, adapters, kind, said):
    (tmp_path / "README.md").write_text(f"---\n{base}\n---\nlicense: bsd\n")
    inside = tuple(SimpleNamespace(license=each) for each in adapters)
    plan = SimpleNamespace(**{**vars(PLAN), "kind": kind, "adapters": inside})
    plan.base = SimpleNamespace(path=tmp_path)
    assert yaml.safe_load(card(plan, RECORD, [FILE]).split("---")[1]).get("license") == said


def test_it_says_what_is_known_of_the_adapter_and_asks_as_it_was_trained():
    """Adapters that know their tools want no declarations; the broken variant still has them."""
    prompt = {"tools": [{"function": {"name": "lights"}}], "declared": 0.0}
    facts = {"verdict": ["exact match 97%"], "prompt": prompt}
    text = made(**{"from": [{"name": "home", "scale": 1.0, "facts": facts}]})
    assert "- exact match 97%" in text
    assert "Its tools: `lights`" in text
    assert "model.chat(messages);" in text
    assert "model.chat(messages, { tools });" in made()


def test_names_of_strangers_stay_on_their_line():
    text = made(
        base_name="a\n# b | `c`", **{"from": [{"name": "x\n## y", "scale": 1.0, "facts": {}}]}
    )
    assert "\n# b" not in text
    adapter = {"name": "<script>x</script>![t](http://evil/p.png)\u202e", "scale": 1.0, "facts": {}}
    live = made(**{"from": [adapter]})
    assert "<script>" not in live
    assert "\\[t](http" in live
    assert "\u202e" not in live
    assert "\n## y" not in text
    assert yaml.safe_load(text.split("---")[1])["base_model"] == "a\n# b | `c`"
