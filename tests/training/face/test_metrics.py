"""A run's log, and what is drawn of it."""

import json
import math

import pytest
from made_up import exact, texts

from lorakit.errors import WriteError
from lorakit.training.events import Checkpointed, Evaluated, Started, Stepped, Warned
from lorakit.training.metrics import MetricsLog, curves, metrics_path, read


def started(step=0):
    return Started(settings=None, examples=40, tokens=900, learnt_tokens=300, replayed=0, step=step)


def stepped(step, loss=1.0):
    return Stepped(step=step, steps=4, loss=loss, rate=0.1, learnt_tokens=9,
                   tokens_per_second=50.0, seconds_left=1.0)  # fmt: skip


def logged(path, *events):
    log = MetricsLog(path)
    for event in events:
        log(event)
    return read(path)


def test_every_event_is_a_line_of_json(tmp_path):
    path = metrics_path(tmp_path / "home")
    assert path == tmp_path / "home.metrics.jsonl"
    lines = logged(
        path,
        started(),
        stepped(1, loss=0.123456789),
        Evaluated(step=1, evaluation=exact(1, 4), best=True),
        Checkpointed(step=1, path=tmp_path),
        Warned(text="mind the gap"),
        stepped(2, loss=math.nan),
    )
    assert [line["event"] for line in lines] == ["started", "step", "evaluation", "warning", "step"]
    assert (lines[1]["loss"], lines[-1]["loss"]) == (0.123457, None)
    assert (lines[2]["measure"], lines[2]["value"], lines[2]["best"]) == ("exact match", 0.25, True)
    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


def test_a_run_that_is_taken_up_has_each_step_once(tmp_path):
    path = tmp_path / "new" / "log"
    logged(path, started(), stepped(1), stepped(2, loss=7.0))
    with path.open("a") as file:
        file.write('{"event": "st')  # the process was killed
    assert len(read(path)) == 3
    lines = logged(path, started(step=1), stepped(2), stepped(3))
    assert [line["step"] for line in lines if line["event"] == "step"] == [1, 2, 3]
    assert [line["loss"] for line in lines if line["event"] == "step"] == [1.0, 1.0, 1.0]
    fresh = logged(path, started(), stepped(1))
    assert [line["event"] for line in fresh] == ["started", "step"]


def test_the_curves_are_of_what_was_logged(tmp_path):
    events = [started(), *(stepped(n) for n in range(1, 5))]
    measured = [Evaluated(step=n, evaluation=exact(n, 4), best=True) for n in (2, 4)]
    svg = curves(logged(tmp_path / "a", *events, *measured), title="home", base=0.03)
    for text in (
        "Loss on the answers",
        "Exact match on unseen examples",
        "Learning rate",
        "base 3%",
    ):
        assert f">{text}<" in svg
    texted = [Evaluated(step=2, evaluation=texts(1.0), best=True)]
    svg = curves(logged(tmp_path / "b", *events, *texted), title="home", base=20.0)
    assert ">Perplexity on unseen examples<" in svg
    assert ">base 20<" in svg
    assert "Perplexity" not in curves(logged(tmp_path / "c", *events), title="home")


def test_a_disk_that_refuses_is_an_error_of_ours(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="cannot write"):
        MetricsLog(tmp_path / "file" / "log")(started())
