"""lorakit convert, as its users run it."""

import json

import pytest
from test_cli import lorakit

from folders import DATA

TRUTH = DATA / "truth"


def test_convert_says_what_it_left_out(tmp_path):
    source, base = str(TRUTH / "peft/gemma3/dora"), str(TRUTH / "bases/gemma3")
    target = str(tmp_path / "a.gguf")
    _, err = lorakit("convert", source, target, "--to", "gguf", "-b", base, code=1)
    assert "DoRA" in err
    out, _ = lorakit("convert", source, target, "--to", "gguf", "-b", base, "--lossy")
    assert "left out" in out
    assert "DoRA" in out
    target = str(tmp_path / "b")
    out, _ = lorakit("convert", source, target, "--to", "ort", "--lossy", "--json")
    assert json.loads(out)["dropped"]


def test_a_pickle_is_read_on_request_only(tmp_path):
    source = str(TRUTH / "peft/llama/pickle_bin")
    _, err = lorakit("inspect", source, code=1)
    assert "--allow-pickle" in err
    pytest.importorskip("torch", reason="it reads the pickle")
    lorakit("convert", source, str(tmp_path / "a"), "--to", "peft", "--allow-pickle")
    out, _ = lorakit("inspect", source, "--allow-pickle", "--json")
    assert json.loads(out)["modules"]
