"""llama.cpp runs a model in several files, and never sees parts over which it would end."""

import numpy as np
import pytest
from llama_cases import base_file, logits_of, open_file, truth_adapter

import lorakit
from gguf_files import split
from lorakit.base.gguf import open_base
from lorakit.engines.llama import preflight
from lorakit.engines.llama.child_process import run_child
from lorakit.engines.llama.options import LlamaOptions
from lorakit.engines.llama.tokenizer import LlamaTokenizer
from lorakit.files.gguf import Value
from lorakit.files.gguf_parts import gguf_parts

TOKENS = np.array([1, 5, 30, 70, 200, 17], np.int64)


def logits(path, adapter):
    engine = open_file(path, context=64)
    try:
        handle = engine.attach(engine.prepare(adapter))
        return [logits_of(engine, TOKENS, sets) for sets in ((), ((handle, 1.0),))]
    finally:
        engine.close()


@pytest.mark.parametrize("first", [None, 0], ids=["two", "no tensor in the first"])
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_parts_give_the_logits_of_the_whole(family, first, tmp_path):
    whole, adapter = base_file(family), truth_adapter(family, "plain")
    parts = split(whole, tmp_path / "m", 2 if first is None else 3, first)
    for one, other in zip(logits(whole, adapter), logits(parts, adapter), strict=True):
        assert np.array_equal(one, other)
    text = "Hello, w\u00f6rld"
    ids = [LlamaTokenizer(path).encode(text, special=True) for path in (whole, parts)]
    assert ids[0] == ids[1]


def test_a_user_opens_the_first_part(tmp_path):
    first = split(base_file("llama"), tmp_path / "m", 3)
    with lorakit.open(first, threads=1) as model, lorakit.open(base_file("llama")) as whole:
        asked = {"max_tokens": 8, "temperature": 0.0}
        assert model.complete("Hello", **asked).text == whole.complete("Hello", **asked).text


def test_a_model_is_tried_again_when_any_part_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "cache"))
    first = split(base_file("llama"), tmp_path / "m", 2)
    runs = []
    monkeypatch.setattr(preflight, "run_child", lambda *a: runs.append(a) or [])
    for _ in range(2):
        preflight.preflight_model(first, LlamaOptions())
    assert len(runs) == 1
    last = gguf_parts(first)[-1]
    last.write_bytes(last.read_bytes() + bytes(32))
    preflight.preflight_model(first, LlamaOptions())
    assert len(runs) == 2


def test_llama_cpp_itself_ends_over_a_number_of_another_kind(tmp_path):
    """The broken variant of the look at all parts: a later one, given to llama.cpp unseen."""
    options = LlamaOptions()
    said = {"split.no": Value("u32", 1)}
    bad = split(base_file("llama"), tmp_path / "bad", 2, part2=said)
    for path, ends in ((bad, True), (split(base_file("llama"), tmp_path / "good", 2), False)):
        reasons = run_child(
            preflight.__name__, "_run_model", str(path), options.kv_type, options.flash_attention
        )
        assert bool(reasons) == ends, reasons
    with pytest.raises(lorakit.errors.FormatError, match=r"split\.no"):
        open_base(bad)
