"""lorakit.train from examples to a folder: what it learns, says, measures and keeps."""

import json
import math

import pytest
from train_cases import (
    BASE,
    FORTY,
    REQUESTS,
    few_requests_and_plain_numbers,
    of,
    run,
    weights,
)

import lorakit
from lorakit import demo
from lorakit.training import run as run_module
from lorakit.training.data import Example
from lorakit.training.events import Checkpointed, Evaluated, Finished, Started, Stepped, Warned
from lorakit.training.measure import Measurer
from lorakit.training.render import Renderer
from lorakit.training.replay import read_requests

EVAL = FORTY[:6]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One run with nearly everything, and its events."""
    patch = pytest.MonkeyPatch()
    few_requests_and_plain_numbers.__wrapped__(patch)
    folder, events = tmp_path_factory.mktemp("whole"), []
    keep = folder / "keep.txt"
    keep.write_text("show me the news\n\nplay the radio loud\n", encoding="utf-8")
    result = run(
        folder / "car",
        events=events,
        eval=EVAL,
        keep=keep,
        replay=FORTY[-7:],
        steps=16,
        batch=8,
        replay_share=0.25,
        holdout=4,
        evaluate_every=8,
        checkpoint_every=10,
        sweep=True,
    )
    patch.undo()
    return result, events


def test_what_was_learnt_is_written_and_loads(whole):
    result, _ = whole
    assert result.path.name == "car"
    assert lorakit.read_adapter(result.path).digest == result.adapter.digest
    assert (result.steps, len(result.losses), result.stopped) == (16, 16, "done")
    assert sum(result.losses[-4:]) < 0.7 * sum(result.losses[:4])
    facts = json.loads((result.path / "lorakit.json").read_text("utf-8"))
    assert facts["base"]["fingerprint"] == lorakit.Base.open(BASE).fingerprint
    assert [(f["role"], f["examples"]) for f in facts["data"]] == [("keep", 2)]
    assert [file.name for file in result.path.parent.iterdir() if file.is_dir()] == ["car"]


def test_the_events_of_a_run(whole):
    result, events = whole
    begun = of(Started, events)
    assert len(begun) == 1
    assert begun[0].settings == result.settings
    assert begun[0].varied == begun[0].examples == result.examples == len(FORTY) - 4
    held_back = int((len(REQUESTS) + 2) / 7)
    assert begun[0].replayed == len(REQUESTS) + 2 - held_back + 6
    steps = of(Stepped, events)
    assert [step.step for step in steps] == list(range(1, 17))
    assert [step.loss for step in steps] == list(result.losses)
    assert steps[0].seconds_left is None
    assert steps[-1].seconds_left == 0
    assert all(step.learnt_tokens > 0 and step.tokens_per_second > 0 for step in steps)
    assert [event.step for event in of(Checkpointed, events)] == [0, 10, 16]
    assert [event.step for event in of(Evaluated, events)] == [8, 16]
    assert events[-1] == Finished(result=result)
    assert any("word for word" in event.text for event in of(Warned, events))  # EVAL is of FORTY


def test_what_is_measured(whole):
    result, _ = whole
    assert {k: len(v.outcomes) for k, v in result.measured.items()} == {
        "before": 6,
        "after": 6,
        "kept": 1,
        "replay_before": 1,
        "replay": 1,
    }
    assert result.measured["before"].exact.count == 0
    assert [point.scale for point in result.sweep] == list(run_module.SCALES)
    assert all(len(point.evaluation.outcomes) == 4 for point in result.sweep)


def test_the_base_answers_what_it_is_to_keep(tmp_path):
    path = tmp_path / "keep.txt"
    path.write_text("set a timer for 6 minutes\nhello\n", encoding="utf-8")
    base = lorakit.Base.open(BASE)
    with Measurer(base, {}) as measurer, lorakit.open(BASE) as model:
        call, words = measurer.answers(read_requests(path))
        prompt = model.chat_prompt(call.asked.messages)
        assert list(call.prompt) == prompt
        assert call.rendered().ids == (*prompt, *call.tokens)
        (row,) = Renderer.of(base).render(call.example())
        assert row == call.rendered()  # the very tokens that a labelled example would give
        assert measurer.evaluate([call.example(), words.example()], None).exact.share == 1


def test_the_same_seed_gives_the_same_bytes_and_another_other_ones(tmp_path):
    first = run(tmp_path / "a", replay_share=0.34)
    assert weights(run(tmp_path / "b", replay_share=0.34)) == weights(first)
    assert weights(run(tmp_path / "c", replay_share=0.34, seed=1)) != weights(first)


def test_passes_change_nothing_but_rounding(tmp_path):
    one = run(tmp_path / "one", steps=1, batch=6).losses[0]
    three = run(tmp_path / "three", steps=1, batch=6, accumulate=3).losses[0]
    assert math.isclose(one, three, rel_tol=1e-5)


def test_training_goes_on_from_an_adapter(tmp_path):
    first = run(tmp_path / "first", steps=20, batch=6, augment=False)
    more = run(tmp_path / "more", start=first.path, augment=False)
    assert more.losses[0] < 0.8 * first.losses[0]
    assert more.adapter.max_rank == first.adapter.max_rank
    assert more.adapter.digest != first.adapter.digest


def test_beside_a_companion(tmp_path):
    events = []
    style = demo.adapter_path("style")
    beside = run(tmp_path / "a", companion=style, steps=4, batch=4, replay_share=0.5, events=events)
    assert set(beside.measured) >= {"kept", "kept beside style"}
    alone = run(tmp_path / "b", steps=4, batch=4, replay_share=0.5)
    assert beside.losses[0] == alone.losses[0]  # the base alone has the first turn
    assert beside.losses[1] != alone.losses[1]
    companion = lorakit.read_adapter(style)
    with Measurer(lorakit.Base.open(BASE), {"style": companion}) as measurer:
        asked = [one.asked for one in measurer.answers(read_requests(_requests(tmp_path)))]
        own, styled = measurer.answers(asked), measurer.answers(asked, "style")
    assert [a.tokens for a in own] != [a.tokens for a in styled]


def _requests(folder):
    path = folder / "requests.txt"
    path.write_text("\n".join(REQUESTS), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "spec",
    [{"rslora": True}, {"dora": True}, {"pissa": True}, {"embeddings": True}, {"tokens": (20,)}],
    ids=lambda spec: next(iter(spec)),
)
def test_every_kind_of_adapter_is_trained_measured_and_read(tmp_path, spec):
    events = []
    result = run(tmp_path / "a", steps=1, eval=FORTY[:1], events=events, **spec)
    assert result.settings.compute.engine == "onnx"
    assert not any("torch engine" in event.text for event in of(Warned, events))
    assert result.measured["after"] is not None
    assert lorakit.read_adapter(result.path, lorakit.Base.open(BASE).decoder) == result.adapter


def test_completions_and_texts(tmp_path):
    pairs = [
        Example(task="completion", place=f"p:{i}", prompt=f"day {i} was ", text="long and warm")
        for i in range(6)
    ]
    result = run(tmp_path / "a", data=pairs, eval=pairs[:2], replay_share=None, steps=12, rate=0.01)
    assert result.settings.mixture.replay_share == 0
    assert result.measured["kept"] is None
    after, before = result.measured["after"], result.measured["before"]
    assert (after.exact.total, before.exact.count) == (2, 0)
    assert result.losses[-1] < 0.5 * result.losses[0]
