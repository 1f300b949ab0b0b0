"""lorakit combine, resize and extract, as their users run them."""

import json
from pathlib import Path

import pytest
from test_cli import BASE, HOME, lorakit

from lorakit import Base, demo
from lorakit.formats.peft import read_peft
from lorakit.inspect.report import inspect

STYLE = str(demo.adapter_path("style"))


def test_combine_writes_an_adapter_and_says_what_it_cost(tmp_path):
    out, _ = lorakit("combine", f"{HOME}:0.7", f"{STYLE}:0.3", "-o", str(tmp_path / "both"))
    assert "rank after" in out
    both = read_peft(tmp_path / "both")
    assert both.max_rank > read_peft(demo.adapter_path("home")).max_rank
    small = str(tmp_path / "small")
    out, _ = lorakit(
        "combine", HOME, STYLE, "-o", small, "--method", "svd", "--rank", "2", "--json"
    )
    report = json.loads(out)
    assert report["method"] == "svd"
    assert {module["rank_after"] for module in report["modules"]} == {2}
    assert 0 < report["residual"] < 1
    _, err = lorakit("combine", HOME, "-o", small, "--rank", "2", code=1)
    assert "parameter_invalid" in err


def test_resize_and_extract(tmp_path):
    out, _ = lorakit("resize", HOME, "-o", str(tmp_path / "r"), "--energy", "0.9", "--json")
    assert 0 < json.loads(out)["residual"] <= 0.1**0.5
    assert read_peft(tmp_path / "r").parameters < read_peft(demo.adapter_path("home")).parameters
    arguments = (BASE, BASE, "-o", str(tmp_path / "e"), "--rank", "2")
    _, err = lorakit("extract", *arguments, code=1)
    assert "nothing to extract" in err
    assert not (tmp_path / "e").exists()


def test_extract_says_that_ranks_differ_and_writes_them_alike(tmp_path):
    merged, found = str(tmp_path / "m"), str(tmp_path / "f")
    lorakit("merge", BASE, "-a", HOME, "-o", merged)
    out, _ = lorakit("extract", BASE, merged, "-o", found, "--energy", "0.9")
    assert "--uniform" in out
    arguments = ("-o", str(tmp_path / "u"), "--energy", "0.9", "--uniform")
    out, _ = lorakit("extract", BASE, merged, *arguments)
    assert "--uniform" not in out
    config = json.loads((tmp_path / "u/adapter_config.json").read_text())
    assert not config["rank_pattern"]
    assert not config["alpha_pattern"]


def test_combine_says_how_strong_each_is(tmp_path):
    arguments = ("combine", f"{HOME}:2", STYLE, HOME, "-b", BASE)
    out, _ = lorakit(*arguments, "-o", str(tmp_path / "a"))
    rows = [line.split() for line in out.splitlines() if line.startswith((HOME, STYLE))]
    assert [row[:2] for row in rows] == [[HOME, "3"], [STYLE, "1"]]  # once, with both weights
    out, _ = lorakit(*arguments, "-o", str(tmp_path / "b"), "--json")
    report = json.loads(out)
    assert [each["reference"] for each in report["inputs"]] == [HOME, STYLE]
    assert rows[0][2] == f"{report['strengths'][0]:.4g}"
    assert rows[0][3] == f"{report['shares'][0]:.1%}"
    relative = inspect(read_peft(Path(HOME)), values=True, base=Base.open(BASE)).relative_norm
    assert report["inputs"][0]["relative"] == pytest.approx(3 * relative, rel=1e-5)
    out, _ = lorakit("combine", HOME, STYLE, "-o", str(tmp_path / "c"))
    assert "of the sum" in out
    assert "of the base" not in out  # which was not given
