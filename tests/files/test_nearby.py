"""Hints for paths that are not there."""

from pathlib import Path

import pytest

from lorakit.base.folder import Base
from lorakit.errors import SourceError
from lorakit.files.nearby import or_nearby, or_within


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


def test_what_is_there_and_no_model_is_not_what_was_meant(here):
    Path("demo/adapters/note").touch()
    assert or_nearby(Path("demo/adapters/note")) == ""
    assert or_nearby(Path("demo/adapters/not")).endswith(
        f"did you mean {Path('demo/adapters/note')}?"
    )


def test_what_a_folder_lacks_may_be_in_one_within(here):
    assert or_within(Path("demo/config.json")) == ""
    Path("demo/base/config.json").touch()
    Path("demo/adapters/home/config.json").touch()
    assert or_within(Path("demo/config.json")) == f"; in it: {Path('demo/base')}"
    for number in range(20):
        Path(f"many/{number}-x/config.json").touch()
    said = or_within(Path("many/config.json"))
    assert said.count("-x") == 8
    assert said.endswith(" and 12 more")
    assert or_within(Path("nothing/config.json")) == ""
    with pytest.raises(SourceError) as error:
        Base.open("demo")
    assert error.value.hint.endswith(f"; in it: {Path('demo/base')}")
