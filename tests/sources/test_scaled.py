"""References with a scale behind them: relative, absolute, and what only looks like one."""

import pytest

from lorakit.errors import ParameterError
from lorakit.sources.scaled import Scaled, scaled


@pytest.mark.parametrize(
    ("text", "path", "scale", "absolute"),
    [
        ("home", "home", None, None),
        ("home:0.5", "home", 0.5, None),
        ("home:=2.0", "home", None, 2.0),
        ("home:=-1", "home", None, -1.0),
        ("hf:org/repo:=0.25", "hf:org/repo", None, 0.25),
        ("https://x.org:443/a:=1e-1", "https://x.org:443/a", None, 0.1),
        ("https://x.org:443", "https://x.org:443", None, None),
        ("https://x.org/a?b:=c/d", "https://x.org/a?b:=c/d", None, None),
    ],
)
def test_what_a_reference_says(text, path, scale, absolute):
    assert scaled(text) == Scaled(path=path, scale=scale, absolute=absolute)


def test_a_path_that_is_there_is_one(tmp_path):
    for name in ("run_10:30:00", "a:0.5", "b:=2"):
        (tmp_path / name).mkdir()
        assert scaled(f"{tmp_path}/{name}") == Scaled(path=f"{tmp_path}/{name}")
    run = f"{tmp_path}/run_10:30:00"
    assert scaled(f"{run}:0.5") == Scaled(path=run, scale=0.5)
    assert scaled(f"{run}:=0.5") == Scaled(path=run, absolute=0.5)
    assert scaled(f"{tmp_path}/run_10:30") == Scaled(path=f"{tmp_path}/run_10", scale=30.0)
    assert scaled("x" * 5000 + ":2") == Scaled(path="x" * 5000, scale=2.0)


def test_what_is_no_scale_is_refused(tmp_path):
    for text in ("home:=", "home:=two", "home:=1=2", f"{tmp_path}:half"):
        with pytest.raises(ParameterError, match="no scale"):
            scaled(text)
