"""Hints for paths that are not there."""

from pathlib import Path

import pytest

from lorakit.files.nearby import or_nearby


@pytest.fixture
def here(tmp_path, monkeypatch):
    for name in ("demo/base", "demo/adapters/home", "demo/adapters/shop", "many", "demo/.hidden"):
        (tmp_path / name).mkdir(parents=True)
    for number in range(20):
        (tmp_path / "many" / f"{number}-x").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("org/name", "; for the Hub: hf:org/name"),
        ("demo/adapters/hom", "; did you mean demo/adapters/home?"),
        ("demo/adapters/xyz", "; beside it: home, shop"),
        ("demo/adapter/home", "; did you mean demo/adapters/home?"),
        ("dem/base", "; for the Hub: hf:dem/base; did you mean demo/base?"),
        ("dem/nothing", "; for the Hub: hf:dem/nothing; did you mean demo?"),
        ("many/y", ""),
        ("nothing", ""),
        ("../nothing/x", ""),
        ("/nothing/at/all", ""),
        ("demo/.hid", "; beside it: adapters, base"),
    ],
)
def test_what_may_be_meant(here, path, said):
    expected = said.replace("/", str(Path("/"))[-1:]) if "hf:" not in said else said
    assert or_nearby(Path(path)).replace("\\", "/") == expected.replace("\\", "/")


def test_a_path_that_cannot_be_asked_about_has_no_hint(here):
    assert or_nearby(Path("x" * 5000)) == ""
    assert or_nearby(Path("demo") / ("x" * 5000)) in ("", "; beside it: adapters, base")
