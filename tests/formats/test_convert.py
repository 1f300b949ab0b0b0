"""Every format into every other: the logits stay."""

import json
import shutil
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

import lorakit
from folders import DATA
from lorakit.base.folder import Base
from lorakit.errors import MismatchError, ParameterError, UnsupportedError
from lorakit.formats import FORMATS, expressible, read_adapter
from lorakit.formats.convert import convert
from lorakit.formats.peft import write_peft

TRUTH = DATA / "truth"
ENDINGS = {"peft": "", "mlx": "", "gguf": ".gguf", "ort": ".onnx_adapter", "web": ".safetensors"}


@pytest.fixture(scope="module", params=["gemma3", "llama"])
def model(request):
    with lorakit.open(TRUTH / "bases" / request.param, threads=1) as model:
        yield model


@pytest.mark.parametrize(("first", "second"), list(product(FORMATS, FORMATS)))
def test_a_plain_adapter_survives_two_conversions(model, tmp_path, first, second):
    source = TRUTH / "peft" / model.base.name / "plain"
    one, two = tmp_path / f"one{ENDINGS[first]}", tmp_path / f"two{ENDINGS[second]}"
    convert(source, one, to=first, base=model.base)
    convert(one, two, to=second, base=model.base)
    loaded = model.load_adapter(two, "converted")
    try:
        with np.load(source / "logits.npz") as truth:
            ids = np.load(TRUTH / "bases" / model.base.name / "base_logits.npz")["ids1"]
            ours = model.logits(ids.tolist(), adapters={"converted": 1.0})
            assert np.abs(ours - truth["scale1_1"]).max() < 1e-4
    finally:
        loaded.unload()


def test_half_precision_is_chosen_and_kept(tmp_path):
    source = TRUTH / "peft/llama/plain"
    convert(source, tmp_path / "half", to="peft", dtype="f16")
    assert {d.a.dtype.name for d in read_adapter(tmp_path / "half").deltas} == {"float16"}


def test_what_cannot_be_said_is_refused_and_nothing_is_written(tmp_path):
    base = Base.open(TRUTH / "bases/gemma3")
    target = tmp_path / "out"
    for to, given in (("gguf", base), ("ort", None), ("web", base)):
        with pytest.raises(UnsupportedError) as caught:
            convert(TRUTH / "peft/gemma3/embed_tied", target, to=to, base=given)
        assert caught.value.items
    with pytest.raises(ParameterError, match="base"):
        convert(TRUTH / "peft/llama/plain", target, to="gguf")
    with pytest.raises(ParameterError, match="format"):
        convert(TRUTH / "peft/llama/plain", target, to="h5")
    with pytest.raises(ParameterError, match="dtype"):
        convert(TRUTH / "peft/llama/plain", target, to="peft", dtype="f8")
    with pytest.raises(MismatchError):
        convert(TRUTH / "peft/llama/plain", target, to="mlx", base=base)
    assert not target.exists()
    target.write_text("mine")
    with pytest.raises(ParameterError, match="exists"):
        convert(TRUTH / "peft/llama/plain", target, to="ort")
    assert target.read_text() == "mine"


def test_lossy_leaves_out_what_the_format_cannot_say_and_lists_it(tmp_path):
    base = Base.open(TRUTH / "bases/gemma3")
    source = TRUTH / "peft/gemma3/dora"
    with pytest.raises(UnsupportedError):
        convert(source, tmp_path / "a.gguf", to="gguf", base=base)
    report = convert(source, tmp_path / "a.gguf", to="gguf", base=base, lossy=True)
    magnitudes = read_adapter(source).magnitudes
    assert report.dropped == tuple(f"{m.module}: a DoRA magnitude" for m in magnitudes)
    assert read_adapter(tmp_path / "a.gguf").modules == read_adapter(source).modules
    whole = convert(source, tmp_path / "b", to="peft", lossy=True)
    assert whole.dropped == ()
    assert read_adapter(tmp_path / "b") == read_adapter(source)


def test_lossy_writes_no_adapter_of_which_nothing_is_left(tmp_path):
    adapter = read_adapter(TRUTH / "peft/gemma3/embed_only")
    table = tuple(d for d in adapter.deltas if d.module == "model.embed_tokens")
    write_peft(replace(adapter, deltas=table), tmp_path / "table")
    with pytest.raises(UnsupportedError, match="no low-rank delta"):
        convert(tmp_path / "table", tmp_path / "a", to="ort", lossy=True)
    assert not (tmp_path / "a").exists()


def test_what_each_format_could_express():
    found = expressible(read_adapter(TRUTH / "peft/llama/dora"))
    assert found["peft"] == found["mlx"] == ()
    assert all("DoRA" in line for name in ("gguf", "ort") for line in found[name])
    decoder = Base.open(TRUTH / "bases/gemma3").decoder
    embedding = read_adapter(TRUTH / "peft/gemma3/embed_only")
    assert not expressible(embedding)["gguf"]
    assert "aborts" in expressible(embedding, decoder)["gguf"][0]


def test_a_base_that_mlx_lm_would_misread_is_said(tmp_path):
    """transformers 5 keeps RoPE's base where mlx-lm does not look; the folder itself is fine."""
    base = tmp_path / "base"
    shutil.copytree(TRUTH / "bases/llama", base)
    source = TRUTH / "peft/llama/plain"
    assert not convert(source, tmp_path / "one", to="mlx", base=Base.open(base)).notes
    config = json.loads((base / "config.json").read_text())
    config.pop("rope_theta", None)
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 500000.0}
    (base / "config.json").write_text(json.dumps(config))
    notes = convert(source, tmp_path / "two", to="mlx", base=Base.open(base)).notes
    assert "rope_theta: mlx-lm would take 10000" in notes[0]
    assert "export BASE --to mlx" in notes[-1]
