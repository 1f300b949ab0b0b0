"""An export run as it is: beside our own graph, in every form, and what its engine promises."""

from dataclasses import replace

import numpy as np
import pytest

import lorakit
from lorakit.base.exported import Exported
from lorakit.base.folder import Base
from lorakit.engines.onnx import exported as exported_module
from lorakit.engines.onnx.exported import ExportedEngine
from lorakit.engines.onnx.kv_cache import KVCache
from lorakit.engines.onnx.lora_feeds import LoraFeeds
from lorakit.engines.onnx.options import OnnxOptions
from lorakit.errors import (
    CapabilityError,
    ClosedError,
    ContextFullError,
    EngineError,
    MismatchError,
    ParameterError,
)
from lorakit.exporting.feeds import lora_feeds, number_feeds
from lorakit.exporting.running import ExportedModel
from lorakit.graph import HEAD
from onnx_cases import DATA, logits_of, open_engine, random_adapter, row, truth_adapter, truth_base
from web_exports import build

IDS = np.random.default_rng(3).integers(4, 508, 60)
FORMS = ("none", "fp16", "q8", "q4", "q4f16")
PAIR = ("plain", "plain_b")


def opened(folder, **options):
    base = Base.open(folder)
    return ExportedEngine.open(base, base.exported, OnnxOptions(threads=1, **options))


def file_of(folder, form):
    base = Base.open(folder)
    return base.exported.folder / base.exported.graphs[form]


def attached(engine, name):
    adapters = [truth_adapter(name, each) for each in PAIR]
    return [engine.attach(engine.prepare(adapter)) for adapter in adapters]


@pytest.fixture(scope="module", params=["gemma3", "llama"])
def name(request):
    return request.param


@pytest.fixture(scope="module")
def folders(tmp_path_factory, name):
    """Exports of a base by kind; the dynamic one in every form."""
    place = tmp_path_factory.mktemp(name)
    adapters = dict(zip(("a", "b"), (truth_adapter(name, each) for each in PAIR), strict=True))
    for kind, given, forms in (
        ("dynamic", {}, FORMS),
        ("composed", adapters, ("none", "q4f16")),
        ("merged", adapters, "none"),
        ("apart", adapters, "none"),
    ):
        lorakit.export(
            truth_base(name),
            place / kind,
            adapter=given,
            mode=kind,
            quantize=forms,
            context=200,
            prove_it=False,
        )
    return place


@pytest.fixture(scope="module")
def engine(folders):
    engine = opened(folders / "dynamic", max_batch=4, cached_sequences=2)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def expected(name):
    """Our own graph's logits: of the base, of one adapter, of both."""
    own = open_engine(truth_base(name))
    one, two = attached(own, name)
    sets = {"base": (), "one": ((one, 1.0),), "both": ((two, -0.5), (one, 0.7))}
    found = {key: logits_of(own, IDS, held) for key, held in sets.items()}
    own.close()
    return found


def test_it_computes_what_our_graph_computes(engine, name, expected):
    one, two = attached(engine, name)
    sets = {"base": (), "one": ((one, 1.0),), "both": ((two, -0.5), (one, 0.7))}
    for key, held in sets.items():
        found = logits_of(engine, IDS, held)
        np.testing.assert_allclose(found, expected[key], rtol=0, atol=5e-5)
        assert key == "base" or np.abs(found - expected["base"]).max() > 0.01
    found = logits_of(engine, IDS, ((one, 0.0),))
    np.testing.assert_array_equal(found, logits_of(engine, IDS))
    for handle in (one, two):
        engine.detach(handle)


@pytest.mark.parametrize(
    "family", ["mistral_window", "llama3_rope", "gemma3_softcap", "qwen2", "qwen3"]
)
def test_every_family(family, tmp_path):
    """Windows, scaled rotations, soft caps, biases, norms of heads: in parts, with an adapter."""
    base, graph = Base.open(DATA / "families" / family), "onnx/model.onnx"
    build(base, tmp_path / "x", "none", "dynamic")
    own = Exported(
        folder=tmp_path / "x",
        kind="dynamic",
        graphs={"none": graph},
        form="none",
        names=(),
        base_name=family,
        fingerprint=base.fingerprint,
        context=200,
        digests={f"{graph}_data": "0" * 64},
    )
    linears = [m for m, s in base.decoder.modules().items() if not s.embedding and m != HEAD]
    adapter = random_adapter(base, 1, modules=linears)
    found = []
    for engine in (
        open_engine(base.path),
        ExportedEngine.open(replace(base, exported=own), own, OnnxOptions(threads=1)),
    ):
        handle = engine.attach(engine.prepare(adapter))
        ids = IDS % base.decoder.vocabulary
        found.append(logits_of(engine, ids, ((handle, 0.5),), chunk=7 if found else None))
        engine.close()
    np.testing.assert_allclose(*found, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["merged", "apart"])
def test_adapters_in_it_act_always(folders, name, kind):
    own, other = open_engine(truth_base(name)), opened(folders / kind)
    one, two = attached(own, name)
    whole = logits_of(own, IDS, ((one, 1.0), (two, 1.0)))
    np.testing.assert_allclose(logits_of(other, IDS), whole, rtol=0, atol=1e-4)
    with pytest.raises(CapabilityError, match="without inputs") as found:
        other.prepare(truth_adapter(name, "plain"))
    assert name in found.value.hint
    own.close()
    other.close()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_what_plain_onnxruntime_gives(folders, name, form):
    path = file_of(folders / "dynamic", form)
    engine, plain = opened(path), ExportedModel(path)
    handle, _ = attached(engine, name)
    for held, adapters in (((), []), (((handle, 0.5),), [(truth_adapter(name, "plain"), 0.5)])):
        wanted = plain.logits(IDS.tolist(), lora_feeds(plain, adapters), len(IDS))
        found = logits_of(engine, IDS, held)
        # q4f16 rounds otherwise by the number of threads
        np.testing.assert_allclose(found, wanted, rtol=0, atol=0.1 if form == "q4f16" else 1e-5)
        parts = logits_of(engine, IDS, held, chunk=7)
        np.testing.assert_allclose(parts, found, rtol=0, atol=0.1 if "f16" in form else 5e-5)
    plain.close()
    engine.close()


@pytest.mark.parametrize("form", ["none", "q4f16"])
def test_a_composed_one_has_its_adapters_by_number(folders, name, form):
    path = file_of(folders / "composed", form)
    engine, plain = opened(path), ExportedModel(path)
    held = exported_module.built_in(Base.open(path).exported)
    assert list(held) == ["a", "b"]
    assert engine.prepare(held["b"]).content == 2
    handles = [engine.attach(engine.prepare(adapter)) for adapter in held.values()]
    for number, chosen in enumerate([(), *(((handle, 1.0),) for handle in handles)]):
        wanted = plain.logits(IDS.tolist(), number_feeds(number), len(IDS))
        found = logits_of(engine, IDS, chosen)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=0.1 if form == "q4f16" else 1e-5)
    sequences = [engine.open_sequence() for _ in range(3)]
    rows = [((handles[1], 1.0),), (), ((handles[0], 1.0),)]
    engine.forward([row(s, IDS[:9], a, "none") for s, a in zip(sequences, rows, strict=True)])
    both = engine.forward([row(s, IDS[9:10], a) for s, a in zip(sequences, rows, strict=True)])
    for logits, chosen in zip([each.copy() for each in both], rows, strict=True):
        alone = logits_of(engine, IDS[:10], chosen)[-1:]
        np.testing.assert_allclose(logits, alone, rtol=0, atol=0.1 if form == "q4f16" else 2e-5)
    for chosen in (((handles[0], 0.5),), ((handles[0], 1.0), (handles[1], 1.0))):
        with pytest.raises(CapabilityError, match="one acts at a time") as found:
            engine.forward([row(sequences[0], [5], chosen)])
        assert found.value.items == ("it holds a", "it holds b")
    assert engine.length(sequences[0]) == 10
    with pytest.raises(CapabilityError, match="takes no others"):
        engine.prepare(truth_adapter(name, "rslora"))
    plain.close()
    engine.close()


def test_what_it_holds_is_read_from_the_graph(folders, name):
    """Values with their scales in them, without the zeros that fill ranks up."""
    held = exported_module.built_in(Base.open(folders / "composed").exported)
    for found, wanted in zip(held.values(), PAIR, strict=True):
        for delta in truth_adapter(name, wanted).deltas:
            own = next(each for each in found.deltas if each.module == delta.module)
            assert own.rank == delta.rank
            product = delta.scale * (delta.b.astype(np.float64) @ delta.a.astype(np.float64))
            np.testing.assert_allclose(own.b.astype(np.float64) @ own.a, product, atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 2, 7, 16, 59])
def test_chunked_prefill_equals_one_shot(engine, chunk):
    np.testing.assert_allclose(
        logits_of(engine, IDS, chunk=chunk), logits_of(engine, IDS), rtol=0, atol=5e-5
    )


def test_long_rows_are_chunked_inside(engine, monkeypatch):
    whole = logits_of(engine, IDS)
    monkeypatch.setattr(exported_module, "MAX_NEW", 16)
    np.testing.assert_allclose(logits_of(engine, IDS), whole, rtol=0, atol=5e-5)
    sequence = engine.open_sequence()
    (last,) = engine.forward([row(sequence, IDS, logits="last")])
    np.testing.assert_allclose(last, whole[-1:], rtol=0, atol=5e-5)
    assert engine.forward([row(sequence, IDS[:3], logits="none")])[0].shape == (0, 512)
    assert engine.forward([row(sequence, IDS[:1], logits="none")])[0].shape == (0, 512)
    for asked in ((), (0,), (2, 3), (1, 4), tuple(range(6))):
        engine.truncate(sequence, 0)
        found = engine.forward([row(sequence, IDS[:6], logits=asked)])[0]
        np.testing.assert_allclose(found, whole[list(asked)], rtol=0, atol=5e-5)
    engine.close_sequence(sequence)


def batch(engine, handles):
    """Rows of several lengths and adapters, prompts and tokens, side by side: their differences
    from what each gets alone."""
    one, two = handles
    sets = [(), ((one, 1.0),), ((one, 0.3), (two, -1.0)), ((two, 1.0),)]
    begins, at = [11, 30, 5, 17], [0, 0, 0, 0]
    sequences = [engine.open_sequence() for _ in sets]
    alone = [logits_of(engine, IDS, held) for held in sets]
    worst = 0.0
    for counts in ([11, 30, 5, 17], [1, 1, 1, 1], [1, 4, 1, 1], [1, 1, 1, 1]):
        rows = [
            row(s, IDS[i : i + n], held)
            for s, i, n, held in zip(sequences, at, counts, sets, strict=True)
        ]
        found = [each.copy() for each in engine.forward(rows)]
        for index, (i, n) in enumerate(zip(at, counts, strict=True)):
            worst = max(worst, float(np.abs(found[index] - alone[index][i : i + n]).max()))
            at[index] += n
    assert begins[0] < at[0]
    for sequence in sequences:
        engine.close_sequence(sequence)
    return worst


def test_rows_of_a_batch_are_alone(engine, name, monkeypatch):
    handles = attached(engine, name)
    assert batch(engine, handles) < 5e-5
    of = LoraFeeds.of
    monkeypatch.setattr(LoraFeeds, "of", lambda self, sets: of(self, [sets[0]] * len(sets)))
    assert batch(engine, handles) > 0.01  # one set for all
    monkeypatch.undo()
    monkeypatch.setattr(KVCache, "arrange", lambda self, s: (0, list(range(len(s)))))
    assert batch(engine, handles) > 0.01  # the slots of others
    monkeypatch.undo()
    for handle in handles:
        engine.detach(handle)
    assert batch(engine, attached(engine, name)) < 5e-5


def test_forks_truncation_and_saved_sequences(engine, monkeypatch):
    whole = logits_of(engine, IDS)

    def tail(sequence, begin):
        found = engine.forward([row(sequence, IDS[begin:])])[0].copy()
        engine.close_sequence(sequence)
        return float(np.abs(found - whole[begin:]).max())

    def parts():
        one = engine.open_sequence()
        engine.forward([row(one, IDS[:30])])
        copy = engine.fork(one, 20)
        state = engine.save_sequence(one)
        engine.forward([row(one, np.flip(IDS[:9]))])
        engine.truncate(one, 25)
        loaded = engine.load_sequence(state, 30)
        assert [engine.length(each) for each in (one, copy, loaded)] == [25, 20, 30]
        return tail(one, 25), tail(copy, 20), tail(loaded, 30)

    assert max(parts()) < 5e-5
    monkeypatch.setattr(KVCache, "save", lambda self, s: bytes(len(save(self, s))))
    monkeypatch.setattr(KVCache, "load", load_zeros)
    assert parts()[2] > 0.01  # KV of nothing
    monkeypatch.undo()
    sequence = engine.open_sequence()
    for call in (
        lambda: engine.truncate(sequence, 1),
        lambda: engine.fork(sequence, 1),
        lambda: engine.load_sequence(b"1234", 1),
        lambda: engine.load_sequence(b"", 10**6),
    ):
        with pytest.raises(EngineError):
            call()
    engine.close_sequence(sequence)


save, load = KVCache.save, KVCache.load


def load_zeros(cache, state, length):
    return load(cache, bytes(len(state)), length)


def test_room_grows_and_is_given_back(folders, monkeypatch):
    monkeypatch.setattr("lorakit.engines.onnx.kv_cache.FIRST_CAPACITY", 16)
    engine = opened(folders / "dynamic")
    one = engine.open_sequence()
    parts = []
    for begin in range(0, 60, 6):
        parts.append(engine.forward([row(one, IDS[begin : begin + 6])])[0].copy())
    assert engine._kv.capacity == 64
    engine.close_sequence(one)
    assert engine._kv.capacity < 64
    assert engine._binding is None  # which would keep the larger buffers
    np.testing.assert_allclose(np.concatenate(parts), logits_of(engine, IDS), rtol=0, atol=5e-5)
    engine.close()


def test_context_is_the_exports_or_less(folders):
    assert opened(folders / "dynamic").capabilities.context == 200
    assert opened(folders / "dynamic", context=4000).capabilities.context == 200
    engine = opened(folders / "dynamic", context=40)
    one, two = engine.open_sequence(), engine.open_sequence()
    engine.forward([row(one, IDS[:39]), row(two, IDS[:5])])
    with pytest.raises(ContextFullError):
        engine.forward([row(two, IDS[5:7]), row(one, IDS[39:41])])
    assert (engine.length(one), engine.length(two)) == (39, 5)
    engine.close()


def test_a_failed_step_leaves_lengths_as_they_were(engine, monkeypatch):
    whole = logits_of(engine, IDS)
    one, two = engine.open_sequence(), engine.open_sequence()
    engine.forward([row(one, IDS[:10]), row(two, IDS[:10])])
    run, calls = exported_module.Binding.run, []

    def fails_second(self):
        calls.append(self)
        if len(calls) == 2:
            raise EngineError("no luck")
        run(self)

    monkeypatch.setattr(exported_module.Binding, "run", fails_second)
    with pytest.raises(EngineError, match="no luck"):
        engine.forward([row(one, IDS[10:11]), row(two, IDS[10:20])])
    monkeypatch.undo()
    assert (engine.length(one), engine.length(two)) == (10, 10)
    for sequence in (one, two):
        found = engine.forward([row(sequence, IDS[10:])])[0]
        np.testing.assert_allclose(found, whole[10:], rtol=0, atol=5e-5)
        engine.close_sequence(sequence)


def test_what_cannot_run_is_refused(engine, name):
    opened_ones = [engine.open_sequence() for _ in range(6)]
    with pytest.raises(EngineError, match="sequences are open"):
        engine.open_sequence()
    with pytest.raises(EngineError, match="max_batch"):
        engine.forward([row(s, [5]) for s in opened_ones[:5]])
    assert engine.forward([]) == []
    with pytest.raises(ParameterError, match="below 512"):
        engine.forward([row(opened_ones[0], [512])])
    with pytest.raises(ParameterError, match="negative"):
        engine.forward([row(opened_ones[0], [-1])])
    with pytest.raises(EngineError, match="handle"):
        engine.forward([row(opened_ones[0], [5], ((99, 1.0),))])
    with pytest.raises(EngineError, match="handle"):
        engine.detach(99)
    for sequence in opened_ones:
        engine.close_sequence(sequence)
    with pytest.raises(EngineError, match="no open sequence"):
        engine.length(opened_ones[0])
    with pytest.raises(CapabilityError, match="hidden states"):
        engine.hidden([(IDS, ())])
    with pytest.raises(CapabilityError, match="images"):
        engine.encode_image(b"")
    for case in {"gemma3": ("dora", "embed_tied"), "llama": ("dora", "embed_lmhead")}[name]:
        with pytest.raises(CapabilityError, match="at run time") as found:
            engine.prepare(truth_adapter(name, case))
        assert found.value.items
    other = "llama" if name == "gemma3" else "gemma3"
    with pytest.raises(MismatchError):
        engine.prepare(truth_adapter(other, "plain"))


def test_values_that_float16_does_not_hold(folders, name):
    engine = opened(file_of(folders / "dynamic", "fp16"))
    handle, _ = attached(engine, name)
    sequence = engine.open_sequence()
    with pytest.raises(CapabilityError, match="too large for float16"):
        engine.forward([row(sequence, IDS[:4], ((handle, 1e9),))])
    assert engine.length(sequence) == 0
    assert np.isfinite(engine.forward([row(sequence, IDS[:4], ((handle, 1.0),))])[0]).all()
    engine.close()


def test_use_after_close(folders, name):
    engine = opened(folders / "dynamic")
    handle, _ = attached(engine, name)
    sequence = engine.open_sequence()
    engine.forward([row(sequence, IDS[:4], ((handle, 1.0),))])
    engine.close()
    engine.close()
    calls = [
        lambda: engine.forward([row(sequence, [5])]),
        engine.open_sequence,
        lambda: engine.length(sequence),
        lambda: engine.attach(engine.prepare(truth_adapter(name, "plain"))),
        lambda: engine.detach(handle),
        lambda: engine.fork(sequence, 0),
        lambda: engine.save_sequence(sequence),
    ]
    for call in calls:
        with pytest.raises(ClosedError):
            call()


def test_a_window_that_is_counted_otherwise_is_refused(folders, name, monkeypatch):
    monkeypatch.setattr(exported_module, "window_reading", lambda device, forms: "exclusive")
    if name == "llama":  # has none
        opened(folders / "merged").close()
    else:
        with pytest.raises(EngineError, match="sliding window"):
            opened(folders / "merged")


def test_kv_is_of_one_graph_with_its_weights(folders):
    """Another form, another graph, or the same graph with other weights: another identity."""
    paths = [file_of(folders / "dynamic", form) for form in ("none", "fp16")]
    paths += [folders / "merged", folders / "apart"]
    found = [opened(path).capabilities.kv_identity for path in paths]
    assert len(set(found)) == len(found)
    assert opened(paths[0]).capabilities.kv_identity == found[0]
