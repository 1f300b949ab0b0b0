"""What is proven of an export: the numbers are right, and a wrong export is found."""

import json
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from folders import DATA
from lorakit import demo
from lorakit.adapter import Adapter
from lorakit.base.folder import Base
from lorakit.chat.dialogue import Dialogue
from lorakit.errors import (
    CapabilityError,
    FormatError,
    ParameterError,
    ParityError,
    SourceError,
)
from lorakit.exporting.cases import token_faults
from lorakit.exporting.feeds import lora_feeds, number_feeds
from lorakit.exporting.parity import Apart, ProofOptions
from lorakit.exporting.proof import PROBE, Subject, prove
from lorakit.exporting.running import ExportedModel
from lorakit.exporting.table import TARGETS
from lorakit.formats import read_adapter
from lorakit.merge import merge
from lorakit.text.tokenizer import Tokenizer
from web_exports import BASES, build, ids

TRUTH = DATA / "truth"
HOME = read_adapter(TRUTH / "peft/llama/plain")
OTHER = read_adapter(TRUTH / "peft/llama/rslora")
LLAMA = Base.open(BASES / "llama")


def proof(folder, file, kind, adapters, form="none", base=LLAMA, other=None, **more):
    generation = json.loads((folder / "generation_config.json").read_text())
    target, options = TARGETS["onnx"], more.get("options") or ProofOptions()
    subject = Subject(
        exported=closing(ExportedModel(file)),
        form=form,
        kind=kind,
        coarse=form in target.few_bits,
        most=target.limits[form],
        runtime="onnxruntime",
        stops=frozenset(np.atleast_1d(generation["eos_token_id"]).tolist()),
        faults=lambda cases: token_faults(folder, cases, declare=options.declare),
        other=other,
    )
    return prove(subject, base=base, adapters=adapters, **more)


@pytest.mark.parametrize("name", ["gemma3/lora", "llama/lora"])
def test_mlx_adapters_give_what_mlx_fused(name, tmp_path):
    """mlx-lm's logits of the weights that it fused, from a merged file and from inputs."""
    family, adapter = name.partition("/")[0], read_adapter(TRUTH / "mlx" / name)
    merge(BASES / family, [(adapter, 1.0)], tmp_path / "base", dtype="f32")
    merged = ExportedModel(build(Base.open(tmp_path / "base"), tmp_path / "merged"))
    dynamic = ExportedModel(build(family, tmp_path / "dynamic", kind="dynamic"))
    feeds = lora_feeds(dynamic, [(adapter, 1.0)])
    with np.load(TRUTH / "mlx" / name / "logits.npz") as truth:
        for number in range(3):
            tokens, fused = truth[f"ids{number}"].tolist(), truth[f"fused_{number}"]
            for found in (
                merged.logits(tokens, {}, len(tokens)),
                dynamic.logits(tokens, feeds, len(tokens)),
            ):
                assert np.abs(found - fused).max() < 2e-4
            base = dynamic.logits(tokens, lora_feeds(dynamic, []), len(tokens))
            assert np.abs(base - fused).max() > 0.1  # it would be found
            assert np.abs(base - truth[f"base_{number}"]).max() < 2e-4


def test_rows_of_a_composed_file_are_each_adapter_alone(tmp_path):
    """A mixed batch in one run, right-padded, as a page makes it."""
    adapters = [(HOME, 1.0), (OTHER, 0.5)]
    file = build("llama", tmp_path / "all", kind="composed", adapters=adapters)
    model = ExportedModel(file)
    prompts, chosen = (
        [ids("llama", 1), ids("llama", 1), ids("llama", 2), ids("llama", 2)],
        [0, 1, 2, 1],
    )
    longest = max(map(len, prompts))
    fed = {
        "input_ids": np.array([p + [0] * (longest - len(p)) for p in prompts], np.int64),
        "attention_mask": np.array(
            [[1] * len(p) + [0] * (longest - len(p)) for p in prompts], np.int64
        ),
        "num_logits_to_keep": np.array(0, np.int64),
        "adapter": np.array(chosen, np.int64),
    }
    fed |= {
        name: np.zeros((4, shape[1], 0, shape[3]), np.float32)
        for name, (_, shape) in model.inputs.items()
        if name.startswith("past")
    }
    mixed = model._session.run(["logits"], fed)[0]
    dynamic = ExportedModel(build("llama", tmp_path / "inputs", kind="dynamic"))
    for row, (tokens, number) in enumerate(zip(prompts, chosen, strict=True)):
        found = mixed[row, : len(tokens)]
        alone = model.logits(tokens, number_feeds(number), len(tokens))
        one = [] if number == 0 else [adapters[number - 1]]
        inputs = dynamic.logits(tokens, lora_feeds(dynamic, one), len(tokens))
        np.testing.assert_allclose(found, alone, atol=2e-4)
        np.testing.assert_allclose(found, inputs, atol=2e-4)
    assert np.abs(mixed[0] - mixed[1]).max() > 0.1


@pytest.mark.parametrize("kind", ["dynamic", "composed", "apart"])
def test_a_right_export_agrees_to_the_last_digits(kind, tmp_path):
    adapters = {"home": (HOME, 0.7)}
    file = build("llama", tmp_path / "x", kind=kind, adapters=list(adapters.values()))
    seen = []
    found = proof(tmp_path / "x", file, kind, adapters, progress=lambda *done: seen.append(done))
    assert [side.name for side in found.sides] == (
        ["home"] if kind == "apart" else ["base", "home"]
    )
    assert found.kl < 1e-9
    assert found.match == 1.0
    assert found.sides[-1].effect > 1.0
    assert not found.failures
    assert seen[-1][0] == seen[-1][1] == len(seen)
    found.require()
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize("kind", ["composed", "apart"])
def test_an_adapter_at_another_scale_is_found(kind, tmp_path):
    file = build("llama", tmp_path / "x", kind=kind, adapters=[(HOME, 0.9)])
    found = proof(tmp_path / "x", file, kind, {"home": (HOME, 1.0)})
    with pytest.raises(ParityError) as caught:
        found.require()
    assert caught.value.code == "parity_failed"
    assert caught.value.items[0].startswith("home: KL ")


def test_inputs_that_reach_the_wrong_module_are_found_without_any_adapter(tmp_path):
    """The noise on every input shows it, where a base alone would agree."""
    file = build("llama", tmp_path / "x", kind="dynamic")
    found = proof(tmp_path / "x", file, "dynamic", {})
    assert [side.name for side in found.sides] == ["base", PROBE]
    assert not found.failures
    content = file.read_bytes()
    one, other = b"0.self_attn.q_proj.lora_A", b"1.self_attn.q_proj.lora_A"
    marked = content.replace(one, b"@" * len(one)).replace(other, one)
    file.write_bytes(marked.replace(b"@" * len(one), other))
    wrong = proof(tmp_path / "x", file, "dynamic", {})
    assert wrong.sides[0].kl < 1e-9
    assert wrong.sides[1].kl > 1e-4
    assert wrong.failures


def test_the_users_limits_are_kept(tmp_path):
    adapters = {"home": (HOME, 1.0)}
    file = build("llama", tmp_path / "x", form="q8", kind="dynamic")
    free = proof(tmp_path / "x", file, "dynamic", adapters, form="q8")
    assert not free.failures
    assert 1e-4 < free.kl < 0.1
    tight = replace(free, max_kl=free.kl / 2)
    assert [line.split(":")[0] for line in tight.failures] == [
        side.name for side in free.sides if side.kl > free.kl / 2
    ]
    alike = replace(free, min_match=1.0)
    assert "answers are the same" in alike.failures[0]
    for wrong in ({"max_kl": -1}, {"max_kl": float("nan")}, {"min_match": 1.1}):
        with pytest.raises(ParameterError):
            ProofOptions(**wrong)


def test_keeping_apart_is_compared_with_merging_first(tmp_path):
    """A large base and a small change: four bits of the sum lose what was trained."""
    small = Adapter(deltas=tuple(replace(d, scale=d.scale * 0.05) for d in HOME.deltas))
    file = build("llama", tmp_path / "x", form="q4", kind="apart", adapters=[(small, 1.0)])
    merge(LLAMA, [(small, 1.0)], tmp_path / "base", dtype="f32")

    merged = build(Base.open(tmp_path / "base"), tmp_path / "merged", form="q4")
    other = closing(ExportedModel(merged))
    found = proof(tmp_path / "x", file, "apart", {"home": (small, 1.0)}, form="q4", other=other)
    assert found.apart is not None
    assert found.apart.apart == found.kl
    assert found.apart.merged > 0
    assert found.to_dict()["apart"] == {"merged": found.apart.merged, "apart": found.kl}


def test_what_is_said_of_both_ways():
    assert Apart(merged=0.2, apart=0.1).better == "apart"
    assert Apart(merged=0.1, apart=0.2).better == "merged"
    assert Apart(merged=0.1, apart=0.1).better == ""
    said = Apart(merged=0.2, apart=0.1).sentence("q4")
    assert said == (
        "keeping the adapter apart is more accurate: KL 0.1 kept apart from the q4 base, "
        "0.2 merged first"
    )


def requests(base, count=6):
    """The demo's, of the home, with the calls that they want, as data to evaluate on."""
    dialogue = Dialogue(base.path, Tokenizer.open(base.path))
    lines = (demo.folder() / "evaluation.jsonl").read_text("utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["domain"] == "home"]
    for row in rows[:count]:
        wanted = dialogue.parse(row["expected"]).tool_calls
        calls = [{"name": each.name, "arguments": each.arguments} for each in wanted]
        tools = [
            {
                "name": each.name,
                "parameters": {"type": "object", "properties": {k: {} for k in each.arguments}},
            }
            for each in wanted
        ]
        answer = {"role": "assistant", "tool_calls": as_functions(calls)}
        yield {"messages": [*row["messages"], answer], "tools": as_functions(tools)}


def as_functions(values):
    return [{"type": "function", "function": value} for value in values]


def test_tool_calls_of_the_users_file_are_compared(tmp_path):
    base = Base.open(demo.folder() / "base")
    home = read_adapter(demo.folder() / "adapters/home")
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in requests(base)))
    options = ProofOptions(evaluation=path, min_match=1.0)
    file = build(base, tmp_path / "x", kind="apart", adapters=[(home, 1.0)])
    found = proof(tmp_path / "x", file, "apart", {"home": (home, 1.0)}, base=base, options=options)
    answers = found.sides[0].answers
    assert (answers.asked, answers.same, answers.calls) == (6, 6, 6)
    assert answers.right == answers.right_before
    assert "6 examples of mine.jsonl" in found.prompts
    assert not found.failures
    bare = build(base, tmp_path / "bare")
    wrong = proof(
        tmp_path / "bare", bare, "merged", {"home": (home, 1.0)}, base=base, options=options
    )
    assert wrong.sides[0].answers.same < 6
    assert any("answers are the same" in line for line in wrong.failures)


def test_a_file_of_examples_that_cannot_be_read_is_refused(tmp_path):
    file = build("llama", tmp_path / "x")
    (tmp_path / "bad.jsonl").write_text("{}\n")
    for name, error in (("bad.jsonl", FormatError), ("none.jsonl", SourceError)):
        options = ProofOptions(evaluation=tmp_path / name)
        with pytest.raises(error):
            proof(tmp_path / "x", file, "merged", {}, options=options)


def test_a_tokenizer_and_a_template_that_give_other_tokens_are_found(tmp_path):
    file = build("llama", tmp_path / "x")
    template = tmp_path / "x/chat_template.jinja"
    template.write_text(template.read_text() + "!")
    found = proof(tmp_path / "x", file, "merged", {})
    assert found.failures == ("its template gives other tokens for a conversation",)
    tokenizer = tmp_path / "x/tokenizer.json"
    tokens = json.loads(tokenizer.read_text())
    tokens["normalizer"] = {"type": "Lowercase"}
    tokenizer.write_text(json.dumps(tokens))
    found = proof(tmp_path / "x", file, "merged", {})
    assert "its tokenizer gives other tokens for the text 'English'" in found.failures


def test_what_the_engine_refuses_is_proven_against_a_merge_in_float32(tmp_path, monkeypatch):
    def refused(*_):
        raise CapabilityError("no such adapter at run time")

    monkeypatch.setattr("lorakit.engines.onnx.engine.require_applicable", refused)
    adapter = read_adapter(TRUTH / "peft/llama/dora")
    merge(LLAMA, [(adapter, 1.0)], tmp_path / "base", dtype="f32")
    file = build(Base.open(tmp_path / "base"), tmp_path / "x")
    found = proof(tmp_path / "x", file, "merged", {"dora": (adapter, 1.0)})
    assert "merged in float32" in found.reference
    assert found.kl < 1e-9
