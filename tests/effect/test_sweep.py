"""Prompts and examples over scales, against the same runs one by one."""

import json

import pytest

import lorakit
from laid_out import faults, texts
from lorakit import demo
from lorakit.effect import SCALES, diff, plot_examples, plot_sweep, sweep, sweep_examples
from lorakit.engines.onnx.engine import OnnxEngine
from lorakit.errors import ParameterError
from lorakit.training.data import Example, read_examples
from lorakit.training.evaluate import evaluate

ASKED = ("turn the lights off in the kitchen", "hello")
STEPS = (0.0, 0.5, 1.0, 2.0)


@pytest.fixture(scope="module")
def model():
    with lorakit.open(demo.base_path(), threads=1) as opened:
        opened.load_adapter(demo.adapter_path("home"))
        yield opened


@pytest.fixture(scope="module")
def prompts(model):
    return [model.chat_prompt([{"role": "user", "content": text}]) for text in ASKED]


@pytest.fixture(scope="module")
def found(model, prompts):
    return sweep(model, prompts, adapters={"home": 0.8}, scales=STEPS, max_tokens=12)


def test_each_answer_is_that_of_a_run_alone(model, prompts, found):
    for point in found.points:
        for prompt, answer in zip(prompts, point.answers, strict=True):
            adapters = {"home": 0.8 * point.scale}
            alone = model.complete(prompt, adapters=adapters, temperature=0.0, max_tokens=12)
            assert answer.text == alone.text


def test_messages_are_prompts_too(model, prompts, found):
    talks = [[{"role": "user", "content": text}] for text in ASKED]
    options = {"adapters": {"home": 0.8}, "max_tokens": 12}
    assert sweep(model, talks, scales=STEPS, **options) == found
    assert diff(model, talks[0], **options) == diff(model, prompts[0], **options)
    for wrong in ("hello", talks[0], [7]):
        with pytest.raises(ParameterError, match="prompt"):
            sweep(model, wrong, **options)


def test_kl_is_that_of_a_diff(model, prompts, found):
    assert [p.scale for p in found.points] == [0, 0.5, 1, 2]
    assert found.points[0].kl_base == found.points[2].kl_full == 0
    full = [diff(model, prompt, adapters={"home": 0.8}, max_tokens=12).kl for prompt in prompts]
    assert [a.kl_base for a in found.points[2].answers] == pytest.approx(full, rel=1e-4)
    assert found.points[2].kl_base == pytest.approx(sum(full) / 2, rel=1e-4)
    assert found.points[3].kl_base > found.points[2].kl_base > found.points[1].kl_base > 0


def test_the_first_change_is_where_tokens_part(model, prompts, found):
    base = model.complete(prompts[0], adapters={}, temperature=0.0, max_tokens=12)
    for point in found.points:
        answer = point.answers[0]
        adapters = {"home": 0.8 * point.scale}
        alone = model.complete(prompts[0], adapters=adapters, temperature=0.0, max_tokens=12)
        pairs = zip(base.tokens, alone.tokens, strict=False)
        place = next((n for n, (a, b) in enumerate(pairs) if a.token != b.token), None)
        assert answer.changed == place
    assert found.points[0].changed == 0
    last = found.points[3].answers[0]
    assert (last.changed, last.was, last.now) == (0, "Sorry", "<start_function_call>")


def test_an_end_that_comes_earlier_is_a_change(model, prompts):
    short = sweep(model, prompts[1:], adapters={"home": 1.0}, scales=[0], max_tokens=3)
    assert short.points[0].answers[0].changed is None


def test_rows_of_many_scales_run_in_one_batch(model, prompts, monkeypatch):
    seen = []
    forward = OnnxEngine.forward

    def counted(self, rows):
        seen.append(len({tuple(row.adapters) for row in rows}))
        return forward(self, rows)

    monkeypatch.setattr(OnnxEngine, "forward", counted)
    sweep(model, prompts[:1], adapters={"home": 1.0}, max_tokens=32)
    assert max(seen) > 1  # all of them, where the first has not ended before the last is asked for
    seen.clear()
    for scale in SCALES:  # one after another there is never more than one set
        model.complete(prompts[0], adapters={"home": scale}, max_tokens=4)
    assert max(seen) == 1


def test_progress_counts_to_the_end_and_an_interrupt_leaves_the_model_usable(model, prompts):
    seen = []
    sweep(model, prompts, adapters={"home": 1.0}, scales=[0.5], max_tokens=2,
          progress=lambda *pair: seen.append(pair))  # fmt: skip
    assert seen == [(n, 12) for n in range(1, 13)]

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(model, prompts, adapters={"home": 1.0}, max_tokens=40, progress=interrupt)
    assert model.complete(prompts[1], max_tokens=2).text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scales": []}, "1 to 64 scales"),
        ({"scales": [n / 10 for n in range(65)]}, "1 to 64 scales"),
        ({"scales": [float("nan")]}, "finite"),
        ({"adapters": {}}, "no adapter"),
    ],
)
def test_wrong_arguments_are_said(model, prompts, options, said):
    with pytest.raises(ParameterError, match=said):
        sweep(model, prompts, **{"adapters": {"home": 1.0}} | options)
    with pytest.raises(ParameterError, match="no prompt"):
        sweep(model, [], adapters={"home": 1.0})


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """Some of the demo's requests in two files, with the texts that are right."""
    folder = tmp_path_factory.mktemp("examples")
    made = []
    for name, kind in (("home", "phrasings"), ("base", "values")):
        rows = [
            {"messages": [*case.messages, {"role": "assistant", "content": case.expected[:30]}]}
            for case in demo.examples(name, kind)[:6]
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
        made += read_examples(folder / f"{name}.jsonl").require()
    return made


def test_examples_are_evaluated_as_evaluate_does(model, examples):
    found = sweep_examples(model, examples, adapters={"home": 1.0}, scales=(0.0, 1.0))
    for scale, evaluation in found.points:
        alone = evaluate(model, examples, adapters={"home": scale})
        assert evaluation.exact == alone.exact
        assert [o.text for o in evaluation.outcomes] == [o.text for o in alone.outcomes]
    assert found.best[0] in (0.0, 1.0)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["best_scale"] == found.best[0]


def test_pictures_can_be_read(model, examples, found):
    drawn = plot_sweep(found, title="a long title " * 20)
    assert list(faults(drawn)) == []
    said = set(texts(drawn.svg()))
    assert {"against the base", "against scale 1", "KL, nats per token", "0.5"} <= said
    assert "scale of home:0.8" in said
    over = sweep_examples(model, examples, adapters={"home": 1.0}, scales=STEPS)
    drawn = plot_examples(over)
    assert list(faults(drawn)) == []
    assert {"home.jsonl", "base.jsonl", "right answers", "100%"} <= set(texts(drawn.svg()))
    texts_ = [Example(task="text", place=f"t:{n}", text="the lights are off " * 4) for n in (1, 2)]
    likely = sweep_examples(model, texts_, adapters={"home": 1.0}, scales=(0.0, 1.0))
    drawn = plot_examples(likely)
    assert "perplexity" in texts(drawn.svg())
    assert list(faults(drawn)) == []
    json.dumps(found.to_dict(), allow_nan=False)
