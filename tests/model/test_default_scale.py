"""The scale that an adapter's lorakit.json recommends acts where the user says none."""

import json
import shutil

import pytest

import lorakit
from lorakit import AdapterConfig, demo
from lorakit.cli import run_line
from lorakit.errors import FormatError
from lorakit.sources.bundle import collect
from lorakit.training.evaluate.comparing import compare
from lorakit.training.evaluate.contestants import contestants, first_contestant
from lorakit.training.evaluate.work import Rules

BASE, HALF = demo.base_path(), 0.5


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "home"
    shutil.copytree(demo.adapter_path("home"), folder)
    says(folder, HALF)
    return folder


def says(folder, scale):
    (folder / "lorakit.json").write_text(json.dumps({"version": 1, "default_scale": scale}))


def test_it_acts_where_no_scale_is_said(home):
    with lorakit.open(BASE, adapter=home, threads=1) as model:
        assert model.find("home").scale == HALF
        prompt = model.encode("lights off in the hall")
        half, full = (model.logits(prompt, adapters={"home": s})[-1] for s in (HALF, 1.0))
        assert not (half == full).all()
        assert (model.logits(prompt)[-1] == half).all()
        assert (model.logits(prompt, adapters=["home"])[-1] == half).all()
        loaded = model.find("home")
        loaded.apply(1)
        assert (loaded.scale, loaded.info.default_scale) == (1.0, HALF)
        loaded.apply()
        assert loaded.scale == HALF
        model.apply({"home": 1.0})
        assert loaded.scale == 1.0
        model.apply(["home"])
        assert loaded.scale == HALF
        assert model.session(adapters=["home"]).adapters == {"home": HALF}


@pytest.mark.parametrize(("said", "scale"), [(None, HALF), (1.0, 1.0), (0.0, 0.0)])
@pytest.mark.parametrize("mode", ["dynamic", "merge"])
def test_a_scale_that_is_said_is_the_users(home, said, scale, mode):
    config = AdapterConfig(home, mode=mode, scale=said)
    with lorakit.open(BASE, adapter=config, threads=1) as model:
        found = model.merged[0].scale if mode == "merge" else model.find("home").scale
        assert found == scale


def test_without_the_file_or_the_key_it_is_one(home):
    (home / "lorakit.json").write_text("{}")
    with lorakit.open(BASE, adapter=home, threads=1) as model:
        assert model.find("home").scale == 1.0
    with lorakit.open(BASE, adapter=demo.adapter_path("home"), threads=1) as model:
        assert model.find("home").info.default_scale == 1.0


@pytest.mark.parametrize("scale", ["1", None, True, 1e39, [1]])
def test_what_is_no_scale_is_refused(home, scale):
    says(home, scale)
    with pytest.raises(FormatError, match="default_scale must be a finite number"):
        lorakit.open(BASE, adapter=home, threads=1)


def test_the_command_line_says_it(home, capsys):
    line = ["run", str(BASE), "lights off in the hall", "--max-tokens", "1", "--json", "-a"]
    run_line([*line, str(home)])
    out, err = capsys.readouterr()
    assert json.loads(out)["adapters"] == {"home": HALF}
    assert "home at its default scale, 0.5" in err
    run_line([*line, f"{home}:1"])
    out, err = capsys.readouterr()
    assert json.loads(out)["adapters"] == {"home": 1.0}
    assert err == ""


def test_merge_and_eval_take_it_too(home, tmp_path, capsys):
    for name, reference in (("unsaid", f"{home}"), ("half", f"{home}:0.5"), ("full", f"{home}:1")):
        run_line(["merge", str(BASE), "-a", reference, "-o", str(tmp_path / name)])
    unsaid, half, full = (
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("unsaid", "half", "full")
    )
    assert unsaid == half != full
    assert "default scale, 0.5" in capsys.readouterr().err
    first = first_contestant(str(BASE), [str(home)])
    sides = [first, *contestants(first, [f"{home}:0.5", f"{home}:1"])]
    examples = demo_examples()
    found = compare(sides, examples, Rules())
    texts = [[each.text for each in side.evaluation.outcomes] for side in found.sides]
    assert texts[0] == texts[1]


def demo_examples():
    from lorakit.training.data import read_examples

    return read_examples(demo.folder() / "training" / "forty.jsonl").examples[:4]


def test_downloads_bring_the_file(home):
    asked = []

    def get(name):
        asked.append(name)
        path = home / name
        return path if path.exists() else None

    assert collect("adapter", get, "made up")["lorakit.json"] == home / "lorakit.json"
    (home / "lorakit.json").unlink()
    assert "lorakit.json" not in collect("adapter", get, "made up")
