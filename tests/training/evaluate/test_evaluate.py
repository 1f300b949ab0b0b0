"""evaluate, on the demo's base with its adapters."""

import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
from evaluate_cases import call, declared, demo_examples, example

import lorakit
from lorakit import demo
from lorakit.chat.dialogue import Dialogue
from lorakit.demo.story import accuracy
from lorakit.errors import (
    BaseModelError,
    ContextFullError,
    FormatError,
    ParameterError,
    UnknownAdapterError,
)
from lorakit.training.data import Example
from lorakit.training.evaluate import evaluate
from lorakit.training.evaluate.evaluating import evaluate_all
from lorakit.training.evaluate.perplexity import loss_of
from lorakit.training.evaluate.work import Rules
from lorakit.training.render import Rendered, Renderer

HOME = demo_examples("home", "phrasings", 24)
CHAT = Example(
    task="chat", place="chat.jsonl:1", phrasing="hello",
    messages=({"role": "user", "content": "hello"},
              {"role": "assistant", "content": "Hello! What can I do for you today, and where?"}),
)  # fmt: skip


@pytest.fixture(scope="module")
def model():
    with lorakit.open(demo.base_path(), threads=1, max_batch=16) as opened:
        for name in demo.ADAPTERS:
            opened.load_adapter(demo.adapter_path(name))
        yield opened


def test_it_finds_what_comparing_the_texts_finds(model):
    for adapters in ({"home": 1.0}, {"home": 0.75}, {}):
        found = evaluate(model, HOME, adapters=adapters)
        cases = demo.examples("home", "phrasings")[: len(HOME)]
        assert found.exact.share == accuracy(model, cases, adapters)
        assert [each.example for each in found.outcomes] == HOME
    assert evaluate(model, HOME).exact.count == 0  # the active set, which is empty


def test_without_an_adapter_the_base_declines(model):
    found = evaluate(model, demo_examples("base", "no_tool", 12), adapters={})
    assert found.abstained.share > 0.8
    assert found.exact == found.abstained
    assert found.silent.total == 0


def test_declared_tools_are_in_the_prompt_only_where_that_is_asked_for(model):
    examples = demo_examples("base", "declared", 8)
    short = evaluate(model, examples, adapters={})
    long = evaluate(model, examples, adapters={}, declare=True)
    assert long.prompt_tokens > 2 * short.prompt_tokens
    assert long.exact.share > 0.7


@pytest.mark.parametrize(
    "given",
    [{"declare": "yes"}, {"declare": 1}, {"ordered": None}, {"constrained": "auto"}],
    ids=str,
)
def test_what_is_no_truth_value_is_refused(model, given):
    with pytest.raises(ParameterError, match=r"must be True or False|is True, False or"):
        evaluate(model, HOME, **given)


def test_settings_in_one_batch_answer_as_alone(model):
    settings = {"home": {"home": 1.0}, "base": {}, "both": {"home": 0.5, "style": 0.5}}
    together = evaluate_all(model, HOME, settings, Rules(batch=8, alone=2))
    for name, adapters in settings.items():
        alone = evaluate(model, HOME, adapters=adapters, batch=1)
        texts = [each.text for each in alone.outcomes]
        assert [each.text for each in together[name].outcomes] == texts
        assert sum(each.alone for each in together[name].outcomes) == 2
        assert together[name].alone_seconds > 0


def test_an_adapter_of_another_setting_would_be_seen(model):
    found = evaluate_all(model, HOME, {"home": {"home": 1.0}, "base": {}}, Rules())
    texts = {name: [each.text for each in found[name].outcomes] for name in found}
    assert texts["home"] != texts["base"]


TOOLED = [replace(each, tools=tuple(declared(HOME))) for each in HOME]


def test_constraints_change_no_prompt_and_lose_no_right_answer(model):
    settings = {"free": {"home": 1.0}, "kept": {"home": 1.0}, "base": {}, "forced": {}}
    modes = {"kept": True, "forced": "required"}
    found = evaluate_all(model, TOOLED[:12], settings, Rules(), constrained=modes)
    kept, free, forced = found["kept"], found["free"], found["forced"]
    for one, other in zip(kept.outcomes, free.outcomes, strict=True):
        assert one.prompt_tokens == other.prompt_tokens
        assert one.exact >= other.exact
        assert (one.constrained, other.constrained) == (True, False)
    assert found["base"].silent.count > 10
    assert forced.silent.count == 0
    assert forced.invalid.count <= 2  # an answer may be cut off
    alone = evaluate(model, TOOLED[:3], adapters={}, constrained="required")
    assert [o.calls for o in alone.outcomes] == [o.calls for o in forced.outcomes[:3]]


def test_examples_without_tools_are_answered_freely(model):
    found = evaluate(model, [TOOLED[0], HOME[1]], adapters={}, constrained="required")
    assert [each.constrained for each in found.outcomes] == [True, False]
    with pytest.raises(ParameterError, match="nothing can be constrained"):
        evaluate(model, HOME, constrained=True)


def test_tools_that_cannot_be_enforced_are_told_before_anything_runs(model):
    schema = {"type": "object", "properties": {"a": {"not": {}}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    odd = [replace(each, tools=(tool,)) for each in HOME[:2]]
    with pytest.raises(FormatError, match="2 examples cannot be enforced") as caught:
        evaluate(model, odd, constrained=True, progress=lambda *_: pytest.fail("it ran"))
    assert "'not'" in str(caught.value)
    assert odd[1].place in str(caught.value)


def test_progress(model):
    seen = []
    evaluate(model, HOME[:5], adapters={}, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 5) for n in range(1, 6)]


def test_an_end_in_the_middle_cancels_what_runs(model, monkeypatch):
    streams = []
    start = type(model).stream

    def stream(self, *arguments, **options):
        streams.append(start(self, *arguments, **options))
        return streams[-1]

    def interrupt(done, total):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(model), "stream", stream)
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, HOME, adapters={"home": 1.0}, progress=interrupt)
    assert len(streams) == len(HOME)
    ended = [each for each in streams if not each._generation.cancelled]
    assert len(ended) == 1  # the one that progress was called for


def test_a_queue_with_little_room(model):
    with lorakit.open(demo.base_path(), threads=1, max_queue=2) as small:
        small.load_adapter(demo.adapter_path("home"))
        found = evaluate(small, HOME, adapters={"home": 1.0})
    texts = [each.text for each in evaluate(model, HOME, adapters={"home": 1.0}).outcomes]
    assert [each.text for each in found.outcomes] == texts


def test_texts_are_judged_by_how_likely_they_are(model):
    text = Example(task="text", place="t.jsonl:1", text="set a timer for 5 minutes")
    found = evaluate(model, [CHAT, text], adapters={"style": 1.0})
    assert found.exact.total == 0
    assert found.by_perplexity
    assert found.goal == -found.perplexity
    assert found.headline.startswith("perplexity ")
    assert found.outcomes[0].learnt > 5
    dialogue = Dialogue(model.base.path, model.tokenizer)
    (row,) = Renderer(dialogue, model.tokenizer, 512).render(text)
    logits = model.logits(row.ids, adapters={"style": 1.0}).astype(np.float64)
    likely = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    places = [n for n, learnt in enumerate(row.answers) if learnt]
    by_hand = -sum(likely[n - 1, row.ids[n]] for n in places)
    assert found.outcomes[1].learnt == len(places) == len(row.ids) - 1
    assert found.outcomes[1].loss == pytest.approx(by_hand, rel=1e-4)


def test_a_loss_off_by_one_token_would_be_seen():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(4, 8)).astype(np.float32)
    ids, answers = (1, 2, 3, 4, 5), (False, False, True, True, True)

    def logits(asked):
        assert tuple(asked) == ids[:-1]
        return table

    loss, learnt = loss_of(logits, [Rendered(ids=ids, answers=answers)])
    likely = table - np.log(np.exp(table).sum(axis=1, keepdims=True))
    assert learnt == 3
    assert loss == pytest.approx(-(likely[1, 3] + likely[2, 4] + likely[3, 5]), rel=1e-6)
    shifted = loss_of(lambda _: np.roll(table, 1, axis=0), [Rendered(ids=ids, answers=answers)])[0]
    assert shifted != pytest.approx(loss, rel=1e-6)


def test_short_answers_in_words_are_compared_as_texts(model):
    words = [
        Example(task="chat", place="c:1", phrasing="p", messages=(CHAT.messages[0], said))
        for said in ({"role": "assistant", "content": "Hi."}, {"role": "assistant", "content": "x"})
    ]
    answer = model.chat([CHAT.messages[0]], adapters={}, max_tokens=40).text
    right = Example(
        task="chat", place="c:3", phrasing="p",
        messages=(CHAT.messages[0], {"role": "assistant", "content": answer[:40]}),
    )  # fmt: skip
    found = evaluate(model, [*words, right], adapters={})
    assert found.exact.total == 3
    assert [each.exact for each in found.outcomes] == [False, False, len(answer) <= 40]


# Bad input.


def test_nothing_to_evaluate(model):
    with pytest.raises(ParameterError, match="empty"):
        evaluate(model, [])


def test_what_is_wrong_is_said_before_anything_runs(model):
    def fail(done, total):
        raise AssertionError("it ran")

    with pytest.raises(UnknownAdapterError, match="nope"):
        evaluate(model, HOME, adapters={"nope": 1.0}, progress=fail)
    with pytest.raises(ParameterError, match="finite"):
        evaluate(model, HOME, adapters={"home": math.inf}, progress=fail)
    with pytest.raises(ParameterError, match="batch"):
        evaluate(model, HOME, batch=0, progress=fail)
    with pytest.raises(ParameterError, match="max_tokens"):
        evaluate(model, HOME, max_tokens=0, progress=fail)
    long = example(call("set_timer", minutes=1), asked="minutes " * 5000, place="eval.jsonl:7")
    with pytest.raises(ContextFullError) as refused:
        evaluate(model, [*HOME, long], progress=fail)
    assert "eval.jsonl:7" in str(refused.value)
    broken = Example(
        task="calls", place="eval.jsonl:9", messages=({"role": "user"}, HOME[0].messages[1])
    )
    with pytest.raises(FormatError) as refused:
        evaluate(model, [*HOME, broken], progress=fail)
    assert "eval.jsonl:9" in str(refused.value)


def test_a_base_without_template_and_one_that_calls_nothing(tmp_path):
    for template, code in ((None, "template_missing"), ("{{ messages }}", "base_invalid")):
        folder = tmp_path / str(template is None)
        shutil.copytree(demo.base_path(), folder)
        (folder / "chat_template.jinja").unlink()
        for name in ("tokenizer_config.json", "tokenizer.json"):
            text = (folder / name).read_text("utf-8")
            (folder / name).write_text(text.replace("start_function_call", "begin_call"), "utf-8")
        if template is not None:
            (folder / "chat_template.jinja").write_text(template, "utf-8")
        with lorakit.open(folder, threads=1) as opened, pytest.raises(BaseModelError) as refused:
            evaluate(opened, HOME[:2])
        assert refused.value.code == code


def test_invalid_calls_of_a_real_model_are_found_by_its_declarations(model):
    tools = tuple(declared(HOME))
    checked = [
        Example(task="calls", place=e.place, messages=e.messages, tools=tools, phrasing=e.phrasing)
        for e in demo_examples("home", "phrasings", 100)
    ]
    found = evaluate(model, checked, adapters={"home": 1.0})
    wrong = [each for each in found.outcomes if not each.exact]
    assert 0 < len(wrong) < 20
    said = [fault for each in wrong for fault in each.invalid]
    assert any("unknown; expected" in fault for fault in said)
    assert evaluate(model, HOME, adapters={"home": 1.0}).invalid.count == 0  # nothing declared
