"""What onnxruntime computes is what a graph means: tried once, remembered, else refused.

Every trial has broken variants: an onnxruntime whose results are changed on their way to us.
"""

from types import SimpleNamespace

import numpy as np
import pytest

import lorakit
from lorakit.engines.onnx import graph_cache, graph_choice, semantics
from lorakit.engines.onnx.device import CPU
from lorakit.engines.onnx.ort import Binding, onnxruntime
from lorakit.errors import EngineError
from lorakit.files.cache import cache_root
from lorakit.graph.quantize import FORMS
from lorakit.graph.writer import Writer
from onnx_cases import DATA, logits_of, open_engine, row, truth_base

RELEASE = tuple(int(part) for part in onnxruntime().__version__.split(".")[:2])
HERE = "inclusive" if RELEASE >= (1, 24) else "exclusive"
OTHER = "exclusive" if HERE == "inclusive" else "inclusive"
WINDOWS = ("truth/bases/gemma3", "families/gemma3_softcap", "families/mistral_window")


@pytest.fixture(autouse=True)
def _fresh_cache(cache):
    pass


def truth(base):
    folder = DATA / base
    if (folder / "logits.npz").exists():
        record = np.load(folder / "logits.npz")
        return record["ids"], record["logits"]
    record = np.load(folder / "base_logits.npz")
    return record["ids2"], record["logits2"]


def tried(*forms):
    return semantics.window_reading(CPU, forms)


def test_the_reading_of_this_version():
    """1.24 changed it, says microsoft/onnxruntime#25927."""
    assert tried(*FORMS) == HERE


# Windows.


def shifted(monkeypatch, by):
    """An onnxruntime that sees so many tokens more."""
    node = Writer.node

    def other(self, op, *given, **more):
        if op == "GroupQueryAttention":
            more["local_window_size"] += by
        return node(self, op, *given, **more)

    monkeypatch.setattr(Writer, "node", other)


def test_the_other_reading_is_seen(monkeypatch):
    shifted(monkeypatch, 1 if HERE == "inclusive" else -1)
    assert tried() == OTHER


@pytest.mark.parametrize("by", [-2, 2, 20])
def test_a_third_reading_is_refused(monkeypatch, by):
    shifted(monkeypatch, by)
    with pytest.raises(EngineError) as caught:
        tried()
    (item,) = caught.value.items
    assert "sliding window of 3 tokens" in item
    assert onnxruntime().__version__ in str(caught.value)
    assert "1.22" in caught.value.hint


@pytest.mark.parametrize("step", range(len(semantics.STEPS)))
def test_one_step_that_reads_otherwise_is_refused(monkeypatch, step):
    """A prompt may be right and a later chunk, or one row of a batch, not."""
    runs = []

    def result(bound):
        if "attended" in bound:
            runs.append(None)
            if len(runs) - 1 == step:
                bound["attended"][-1, -1] = 1  # sees all

    changed(monkeypatch, result)
    with pytest.raises(EngineError):
        tried()


@pytest.mark.parametrize("base", WINDOWS)
@pytest.mark.parametrize("chunk", [None, 1, 3, 7, 16])
def test_windows_in_prompts_and_chunks(base, chunk):
    ids, logits = truth(base)
    engine = open_engine(DATA / base)
    np.testing.assert_allclose(logits_of(engine, ids, chunk=chunk), logits, rtol=2e-5, atol=3e-5)
    engine.close()


@pytest.mark.parametrize("base", WINDOWS)
def test_windows_in_a_batch_and_after_a_fork(base):
    """Rows of unlike lengths over the edge of the window together; a fork and a shorter one."""
    ids, logits = truth(base)
    engine = open_engine(DATA / base, max_batch=4)
    lengths = [2, 6, 13, 20]
    sequences = [engine.open_sequence() for _ in lengths]
    engine.forward([row(s, ids[:n], (), "none") for s, n in zip(sequences, lengths, strict=True)])
    for step in range(12):
        rows = [row(s, ids[[n + step]]) for s, n in zip(sequences, lengths, strict=True)]
        for n, found in zip(lengths, engine.forward(rows), strict=True):
            np.testing.assert_allclose(found[0], logits[n + step], rtol=2e-5, atol=3e-5)
    for begin in (3, 19, 25):
        copy = engine.fork(sequences[-1], begin)
        (found,) = engine.forward([row(copy, ids[begin:])])
        np.testing.assert_allclose(found, logits[begin:], rtol=2e-5, atol=3e-5)
        engine.close_sequence(copy)
    engine.truncate(sequences[-1], 11)
    (found,) = engine.forward([row(sequences[-1], ids[11:])])
    np.testing.assert_allclose(found, logits[11:], rtol=2e-5, atol=3e-5)
    engine.close()


@pytest.mark.parametrize("base", WINDOWS)
def test_the_wrong_reading_would_be_wrong(monkeypatch, base):
    """The broken variant: a graph of the other reading."""
    monkeypatch.setattr(graph_choice, "window_reading", lambda *_: OTHER)
    ids, logits = truth(base)
    engine = open_engine(DATA / base)
    assert np.abs(logits_of(engine, ids) - logits).max() > 0.1
    engine.close()


# Bound memory.


def changed(monkeypatch, result):
    """An onnxruntime that leaves other results: `result(bound)` changes the bound arrays."""
    run = Binding.run

    def other(self):
        run(self)
        result(self._alive)

    monkeypatch.setattr(Binding, "run", other)


def test_a_view_that_is_copied_when_it_is_bound_is_refused(monkeypatch):
    bind = Binding.input

    def copied(self, name, array):
        bind(self, name, array.copy() if name.endswith("lora_A") else array)

    monkeypatch.setattr(Binding, "input", copied)
    with pytest.raises(EngineError) as caught:
        tried()
    assert set(caught.value.items) == {"adapters of rank 4 are not read where they lie"}


def test_a_sum_over_nothing_that_is_not_zero_is_refused(monkeypatch):
    def result(bound):
        if "m.lora_A" in bound and not bound["m.lora_A"].size:
            bound["adapted"] += 1

    changed(monkeypatch, result)
    with pytest.raises(EngineError) as caught:
        tried()
    assert set(caught.value.items) == {"adapters of rank 0 are not read where they lie"}


def test_a_result_beside_its_view_is_refused(monkeypatch):
    def result(bound):
        if "adapted" in bound:
            bound["adapted"].base[3] = 0

    changed(monkeypatch, result)
    with pytest.raises(EngineError, match="does not compute"):
        tried()


# Products, and no rows.


class Changed:
    """A session that gives other results."""

    def __init__(self, session, result):
        self._session, self._result = session, result

    def __getattr__(self, name):
        return getattr(self._session, name)

    def run(self, names, given):
        return [self._result(array) for array in self._session.run(names, given)]


BROKEN = {
    "a row of none": lambda y: y if y.size else np.zeros((1, 1, semantics.OUT), np.float32),
    "no outputs": lambda y: y if y.size else np.zeros((1, 0, 1), np.float32),
    "another weight": lambda y: y + 5,
    "not a number": lambda y: y * np.float32(np.nan),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("result", BROKEN.values(), ids=BROKEN.keys())
def test_a_wrong_product_is_refused(monkeypatch, form, result):
    open_session = semantics.open_session
    monkeypatch.setattr(
        semantics,
        "open_session",
        lambda *given, **more: Changed(open_session(*given, **more), result),
    )
    with pytest.raises(EngineError) as caught:
        tried(form)
    (item,) = caught.value.items
    assert form in item


@pytest.mark.parametrize("form", sorted(set(FORMS)))
def test_weights_that_are_read_after_the_session_opened_are_refused(monkeypatch, form):
    """The broken variant: onnxruntime gets arrays that hold what ours do when it has opened."""
    open_session = semantics.open_session

    def later(*given, initializers=None, **more):
        emptied = {name: np.zeros_like(array) for name, array in (initializers or {}).items()}
        return open_session(*given, initializers=emptied, **more)

    monkeypatch.setattr(semantics, "open_session", later)
    with pytest.raises(EngineError) as caught:
        tried(form)
    assert any(form in item for item in caught.value.items)


# Once, and for every version.


def test_it_is_tried_once_and_remembered(monkeypatch):
    assert tried("float32") == HERE
    monkeypatch.setattr(semantics, "_tried", lambda *_: pytest.fail("tried again"))
    assert tried("float32") == HERE


@pytest.mark.parametrize("other", ["version", "build", "forms"])
def test_another_onnxruntime_is_tried_anew(monkeypatch, other):
    tried("float32")
    ort = onnxruntime()
    fake = SimpleNamespace(
        __version__="1.99.0" if other == "version" else ort.__version__,
        get_build_info=lambda: "mine" if other == "build" else ort.get_build_info(),
    )
    monkeypatch.setattr(semantics, "onnxruntime", lambda: fake)
    runs = []
    monkeypatch.setattr(semantics, "_tried", lambda *given: runs.append(given) or OTHER)
    assert tried("block4" if other == "forms" else "float32") == OTHER
    assert len(runs) == 1


def test_a_refusal_is_not_remembered(monkeypatch):
    with monkeypatch.context() as broken:
        shifted(broken, 5)
        with pytest.raises(EngineError):
            tried()
    assert tried() == HERE


def test_what_is_wrong_is_refused_when_a_base_is_opened(monkeypatch):
    shifted(monkeypatch, 5)
    with pytest.raises(EngineError, match="does not compute") as caught:
        lorakit.open(truth_base("gemma3"))
    assert caught.value.code == "engine_failed"
    assert not (cache_root() / "graphs").exists()


def test_each_version_has_its_own_cached_graph(monkeypatch):
    open_engine(truth_base("gemma3")).close()
    monkeypatch.setattr(graph_cache, "onnxruntime", lambda: SimpleNamespace(__version__="1.99.0"))
    open_engine(truth_base("gemma3")).close()
    assert len(list((cache_root() / "graphs").iterdir())) == 2


def test_each_reading_has_its_own_cached_graph(monkeypatch):
    open_engine(truth_base("gemma3")).close()
    monkeypatch.setattr(graph_choice, "window_reading", lambda *_: OTHER)
    open_engine(truth_base("gemma3")).close()
    assert len(list((cache_root() / "graphs").iterdir())) == 2
