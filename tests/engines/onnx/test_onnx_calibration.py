"""int8 on bases with outliers, and what it is calibrated on: found once, kept, and the user's."""

import json
import shutil
from functools import partial

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lorakit.base.folder import Base
from lorakit.engines.onnx import calibration
from lorakit.engines.onnx import engine as engine_module
from lorakit.engines.onnx.calibration import LENGTH, ROWS, Calibration, Watcher, _Part, _run
from lorakit.engines.onnx.device import CPU
from lorakit.engines.onnx.options import OnnxOptions
from lorakit.engines.onnx.semantics import window_reading
from lorakit.engines.protocol import abandoned
from lorakit.engines.table import make_options
from lorakit.errors import CancelledError, CapabilityError, FormatError, ParameterError, SourceError
from lorakit.graph import unseen
from lorakit.graph.even import balanced
from onnx_cases import divergence, logits_of, open_engine, truth_base

IDS = np.random.default_rng(4).integers(4, 508, 40)
NAMES = ("llama", "gemma3")


def with_outliers(folder, source, factor=16.0, channels=3):
    """The same function with a few channels that are large wherever linears read: norms and `up`
    are larger there, and the weights that read them smaller."""
    base, rng = Base.open(source), np.random.default_rng(0)
    loaded = load_file(source / "model.safetensors")
    tensors = {name: np.array(tensor, np.float32) for name, tensor in loaded.items()}
    offset, hidden = base.decoder.architecture.norm_offset, base.decoder.hidden
    if base.decoder.tied:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    config = json.loads((source / "config.json").read_text()) | {"tie_word_embeddings": False}

    def grow(norm, readers):
        chosen = rng.choice(hidden, channels, replace=False)
        gain = tensors[norm]
        gain[chosen] = (gain[chosen] + offset) * factor - offset
        for name in readers:
            tensors[name][:, chosen] /= factor

    second = base.decoder.architecture.layout.norms[2 if offset else 1]
    for index in range(len(base.decoder.layers)):
        at = f"model.layers.{index}."
        attention = [f"{at}self_attn.{name}_proj.weight" for name in "qkv"]
        grow(f"{at}input_layernorm.weight", attention)
        grow(f"{at}{second}.weight", [f"{at}mlp.{name}_proj.weight" for name in ("gate", "up")])
        up, down = (tensors[f"{at}mlp.{name}_proj.weight"] for name in ("up", "down"))
        chosen = rng.choice(len(up), channels, replace=False)
        up[chosen] *= factor
        down[:, chosen] /= factor
    grow("model.norm.weight", ["lm_head.weight"])
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    return folder


def logits(folder, **options):
    engine = open_engine(folder, **options)
    found = logits_of(engine, IDS)
    engine.close()
    return found


@pytest.fixture(scope="module", params=NAMES)
def distorted(request, tmp_path_factory):
    """A base with outliers and its float32 logits."""
    source = truth_base(request.param)
    folder = with_outliers(tmp_path_factory.mktemp("bases") / request.param, source)
    expected = logits(folder)
    np.testing.assert_allclose(expected, logits(source), atol=2e-3)
    return folder, expected


def uncalibrated(monkeypatch):
    """The broken variant: int8 as it was, rows as they are."""
    monkeypatch.setattr(engine_module, "Watcher", lambda *_, **__: unseen)


def test_outliers_cost_little(distorted, cache, monkeypatch):
    folder, expected = distorted
    found = divergence(logits(folder, quantize="int8"), expected)
    monkeypatch.setenv("LORAKIT_CACHE", str(cache / "other"))
    uncalibrated(monkeypatch)
    assert found < divergence(logits(folder, quantize="int8"), expected) / 3  # a 30th, measured


def test_another_text_does_nearly_as_well(distorted, tmp_path):
    """Which channels are large is a matter of the base."""
    folder, expected = distorted
    ours = divergence(logits(folder, quantize="int8"), expected)
    (tmp_path / "text").write_text("1, 2, 3 and 4. " * 40)
    theirs = divergence(logits(folder, quantize="int8", calibration=tmp_path / "text"), expected)
    assert theirs < 3 * ours


@pytest.mark.parametrize("name", NAMES)
def test_bases_without_outliers_lose_nothing(name, cache, monkeypatch):
    expected = logits(truth_base(name))
    found = divergence(logits(truth_base(name), quantize="int8"), expected)
    monkeypatch.setenv("LORAKIT_CACHE", str(cache / "other"))
    uncalibrated(monkeypatch)
    assert found < 1.2 * divergence(logits(truth_base(name), quantize="int8"), expected)


# Found once, kept by text.


def counted(monkeypatch):
    calls = []

    def counting(*given, **more):
        calls.append(given)
        return Watcher(*given, **more)

    monkeypatch.setattr(engine_module, "Watcher", counting)
    return calls


def test_a_graph_is_calibrated_once_for_each_text(cache, tmp_path, monkeypatch):
    calls = counted(monkeypatch)
    (tmp_path / "one").write_text("one text")
    (tmp_path / "other").write_text("another text")
    (tmp_path / "again").write_text("one text")
    counts, identities = [], []
    for text in (None, None, "one", "one", "other", "again"):
        path = text and tmp_path / text
        engine = open_engine(truth_base("llama"), quantize="int8", calibration=path)
        counts.append(len(calls))
        identities.append(engine.capabilities.kv_identity)
        engine.close()
    assert counts == [1, 1, 2, 2, 3, 3]
    assert len(set(identities)) == 3
    assert identities[2] == identities[3] == identities[5]


def test_weights_alike_with_another_tokenizer_are_another_base(cache, tmp_path, monkeypatch):
    """They read other tokens of the same text."""
    calls, identities = counted(monkeypatch), []
    source = truth_base("llama")
    for name in ("one", "again", "other"):
        folder = tmp_path / name
        shutil.copytree(source, folder)
        if name == "other":
            with (folder / "tokenizer.json").open("a") as file:
                file.write("\n")
        engine = open_engine(folder, quantize="int8")
        identities.append(engine.capabilities.kv_identity)
        engine.close()
    assert len(calls) == 2
    assert identities[0] == identities[1] != identities[2]


@pytest.mark.parametrize("quantize", ["none", "fp16"])
def test_forms_without_rows_in_8_bits_are_not_calibrated(cache, monkeypatch, quantize):
    calls = counted(monkeypatch)
    open_engine(truth_base("llama"), quantize=quantize).close()
    assert not calls


def test_the_head_of_int4_is_calibrated(cache, monkeypatch):
    calls = counted(monkeypatch)
    open_engine(truth_base("llama"), quantize="int4").close()
    open_engine(truth_base("llama"), quantize="int4", max_batch=2).close()  # it is in blocks
    assert len(calls) == 2


# The text.


@pytest.mark.parametrize("name", NAMES)
def test_our_text_fills_its_rows(name):
    tokens = Calibration.of(OnnxOptions(quantize="int8")).tokens(Base.open(truth_base(name)))
    assert tokens.shape == (ROWS, LENGTH)
    assert len({row.tobytes() for row in tokens}) == ROWS


def test_a_long_text_is_taken_from_all_over_it():
    base = Base.open(truth_base("llama"))
    words = Calibration("the " * 3000 + "end " * 3000).tokens(base)
    assert len({row.tobytes() for row in words}) > 1
    assert words.shape == (ROWS, LENGTH)


def test_a_short_text_is_one_row():
    assert len(Calibration("hello").tokens(Base.open(truth_base("llama")))) == 1


def test_a_base_without_tokenizer_is_calibrated_on_random_tokens(tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((truth_base("llama") / name).read_bytes())
    base = Base.open(tmp_path)
    tokens = Calibration("hello").tokens(base)
    assert tokens.shape == (ROWS, LENGTH)
    assert 0 <= tokens.min() < tokens.max() < base.decoder.vocabulary
    np.testing.assert_array_equal(tokens, Calibration("hello").tokens(base))


def test_tokens_that_the_model_has_no_row_for_are_left_out(monkeypatch):
    base = Base.open(truth_base("llama"))
    known = Calibration("hello there").tokens(base)
    monkeypatch.setattr(calibration.Tokenizer, "encode", lambda *_, **__: [512, *known[0], 600])
    np.testing.assert_array_equal(Calibration("hello there").tokens(base), known)
    monkeypatch.setattr(calibration.Tokenizer, "encode", lambda *_, **__: [512])
    with pytest.raises(ParameterError, match="no tokens"):
        Calibration("hello there").tokens(base)


@pytest.mark.parametrize(
    ("content", "error"),
    [(None, SourceError), (b"", ParameterError), (b" \n", ParameterError), (b"\xff", FormatError)],
)
def test_a_text_that_cannot_be_used_is_refused(tmp_path, content, error):
    path = tmp_path / "text"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error) as caught:
        open_engine(truth_base("llama"), quantize="int8", calibration=path)
    assert "text" in str(caught.value)


def test_a_text_for_float32_is_refused(tmp_path):
    with pytest.raises(ParameterError, match="quantize is none"):
        OnnxOptions(calibration=tmp_path / "text")


def test_a_text_for_another_engine_is_refused(tmp_path):
    with pytest.raises(CapabilityError, match="calibration"):
        make_options("torch", {"calibration": tmp_path / "text"})


# The run.


def test_one_block_is_in_memory_at_a_time(monkeypatch):
    """Weights are handed to a session per block, and let go of when it has its own."""
    base, held = Base.open(truth_base("llama")), []
    opened = calibration.open_session

    def watched(*given, initializers, **more):
        held.append(initializers)
        assert not any(earlier for earlier in held[:-1])
        return opened(*given, initializers=initializers, **more)

    monkeypatch.setattr(calibration, "open_session", watched)
    found = run(base)
    assert len(held) == len(base.decoder.layers) + 1
    assert len(found) == 4 * len(base.decoder.layers) + 1


def test_rows_run_a_few_at_a_time(monkeypatch):
    """What is seen is a sum over all of them, in as many runs as there are."""
    base = Base.open(truth_base("gemma3"))
    tokens = np.random.default_rng(0).integers(4, 508, (5, 32))
    narrow = [f"{base.decoder.architecture.layout.blocks}.1.mlp.up_proj"]
    found, rows = run(base, tokens, narrow), []
    monkeypatch.setattr(calibration, "TOGETHER", len(tokens))
    inputs = _Part.inputs
    monkeypatch.setattr(
        _Part, "inputs", lambda *given: rows.append(len(given[-1])) or inputs(*given)
    )
    at_once = run(base, tokens, narrow)
    assert set(rows) == {len(tokens)}
    assert sum(seen.feedback is not None for seen in found.values()) == 1
    for x, seen in at_once.items():
        np.testing.assert_allclose(found[x].divisors, seen.divisors, rtol=1e-5)
        if seen.feedback is not None:
            np.testing.assert_allclose(found[x].feedback, seen.feedback, atol=1e-5)
    less = run(base, tokens[:4], narrow)  # the broken variant leaves the last row out
    assert any(
        not np.allclose(found[x].divisors, seen.divisors, rtol=1e-3) for x, seen in less.items()
    )


def test_a_run_sees_what_the_graph_computes():
    """The last norm's output, which the engine gives as hidden states: its mean squares are known
    through a head whose weights are alike."""
    base = Base.open(truth_base("llama"))
    tokens = np.random.default_rng(0).integers(4, 508, (1, 32))
    engine = open_engine(truth_base("llama"))
    states = engine.hidden([(tokens[0], ())])
    engine.close()
    weights = np.square(base.weight("lm_head").astype(np.float32)).sum(axis=0)
    expected = balanced(np.square(states).mean(axis=0), weights)
    np.testing.assert_allclose(run(base, tokens)["model.norm.normed"].divisors, expected, rtol=1e-4)


def test_a_run_ends_when_nobody_waits_for_it():
    before = abandoned.set(lambda: True)
    try:
        with pytest.raises(CancelledError):
            run(Base.open(truth_base("llama")))
    finally:
        abandoned.reset(before)


def run(base, tokens=None, narrow=()):
    if tokens is None:
        tokens = Calibration("hello there").tokens(base)
    found, reading = {}, partial(_Part, base, window_reading(CPU, ()), narrow)
    for block in _run(base, tokens, partial(calibration.open_session, threads=1), reading):
        found |= block
    return found
