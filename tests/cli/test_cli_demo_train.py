"""lorakit demo --train, in fewer steps."""

import json

import pytest

from commands import invoke
from lorakit import demo
from lorakit.cli.demo_training import _tell_before
from lorakit.cli.output import console
from lorakit.demo import lesson
from lorakit.errors import ParameterError
from lorakit.formats import read_adapter
from lorakit.training.data import read_examples
from terminals import ESCAPES


def test_what_is_shown_is_worded_as_no_training_example_is():
    train, unseen = (read_examples(demo.training_path(n)).require() for n in ("train", "eval"))
    assert len(train) == 900
    asked = lesson.requests()
    assert len(asked) == 7  # five tools, and two requests of the base's own
    shown = [e for e in unseen if e.messages[0]["content"] in asked]
    assert len({e.messages[1]["tool_calls"][0]["function"]["name"] for e in shown}) == 5
    assert not {e.phrasing for e in shown} & {e.phrasing for e in train}


def shortened(name, folder, original=demo.training_path):
    """A few lines of the data."""
    path = folder / f"{name}.jsonl"
    lines = original(name).read_text("utf-8").splitlines(keepends=True)[:20]
    path.write_text("".join(lines), "utf-8")
    (folder / "tools.json").write_bytes(original(name).with_name("tools.json").read_bytes())
    return path


def test_the_demo_trains(tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="training needs the extra train")
    pytest.importorskip("transformers", reason="training needs the extra train")
    asked = lesson.requests()
    monkeypatch.setattr("lorakit.cli.demo_training.requests", lambda: asked)
    monkeypatch.setattr(demo, "training_path", lambda name: shortened(name, tmp_path))
    few = {"steps": 2, "batch": 2, "replay_share": 0.0, "sweep": False}
    monkeypatch.setattr("lorakit.cli.demo_training.SETTINGS", few)
    output = tmp_path / "car"
    done = invoke("demo", "--train", "-o", output)
    assert (done.code, done.error) == (0, None), done
    for text in (
        "1. A base that has never heard",
        "2. It learns five of them from 900 examples",
        "3. The same requests with the adapter",
        "The adapter calls right in",
        "set a timer for 12 minutes",
        f"wrote {output}: rank 8",
    ):
        assert text in done.stdout
    assert read_adapter(output).max_rank == 8
    assert f"{output} exists" in str(invoke("demo", "--train", "-o", output).error)
    told = json.loads(invoke("demo", "--train", "--json").stdout)
    assert set(told["requests"]) == set(asked)
    assert set(told["requests"]["hello"]) == {"base", "car"}


def test_output_is_for_training_alone(tmp_path):
    done = invoke("demo", "-o", tmp_path / "car")
    assert isinstance(done.error, ParameterError)
    assert done.error.hint == "add --train or --browser"


@pytest.mark.parametrize(("columns", "lines"), [(40, 8), (120, 4)])
def test_the_answers_fit_where_it_is_narrow(capsys, monkeypatch, columns, lines):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    console.cache_clear()
    _tell_before({"turn the radio on": "Sorry, I have no tool for that."})
    console.cache_clear()
    told = ESCAPES.sub("", capsys.readouterr().out).splitlines()
    assert max(map(len, told)) <= columns
    assert len(told) == lines
    assert ("    Sorry, I have no tool for that." in told) == (columns == 40)
