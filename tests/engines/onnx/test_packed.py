"""Packed runs: rows of different numbers of new tokens in one run, each as it is alone."""

from pathlib import Path

import numpy as np
import pytest

from lorakit import demo
from lorakit.base.folder import Base
from lorakit.engines.onnx import sessions
from lorakit.engines.onnx.lora_inputs import Slab
from lorakit.engines.onnx.ort import Step
from lorakit.engines.onnx.packed_step import PackedStep
from lorakit.engines.onnx.plan import Worth
from lorakit.errors import EngineError
from lorakit.merge import merge
from onnx_cases import DATA, TRUTH, open_engine, random_adapter, row, truth_adapter, truth_base

RANKS = (4, 4, 4, 7, 16)
CODES = ("int8", "int4")  # forms that round to codes, where the last bit may decide
BASES = [
    ("gemma3", "none"),  # windows of 16, norms of heads
    ("gemma3", "int8"),
    ("llama", "fp16"),
    ("llama", "int4"),
    ("phi3", "none"),  # fused projections
    ("mistral_window", "none"),
]


@pytest.fixture(scope="module")
def phi3(tmp_path_factory):
    """Of heads that the operator takes; as llama.cpp's converter wrote it."""
    folder = tmp_path_factory.mktemp("packed") / "phi3"
    merge(TRUTH / "llama_cpp" / "phi3" / "base.f32.gguf", [], folder)
    return folder


def folder_of(name):
    return truth_base(name) if truth_base(name).exists() else DATA / "families" / name


def opened(name, quantize="none", **options):
    """An engine that packs from the first step on, and some adapters' handles."""
    folder = name if isinstance(name, Path) else folder_of(name)
    engine = open_engine(folder, quantize=quantize, **{"max_batch": 12} | options)
    engine._sessions.worth.opening = 0.5
    base = Base.open(folder)
    ranks = enumerate(RANKS)
    return engine, [engine.attach(engine.prepare(random_adapter(base, n, r))) for n, r in ranks]


class Batch:
    """Sequences with some tokens, whose next rows are run again and again."""

    def __init__(self, engine, handles, seed, most=40, count=None):
        rng = np.random.default_rng(seed)
        self.engine, count = engine, count or int(rng.integers(2, 9))
        self.sets = [some_set(rng, handles) for _ in range(count)]
        self.new = [rng.integers(4, 48, rng.integers(1, most + 1)) for _ in range(count)]
        self.new[0] = rng.integers(4, 48, 1 + seed % 2)
        self.new[1] = rng.integers(4, 48, 3)  # one at least has several
        self.sequences = [engine.open_sequence() for _ in range(count)]
        for sequence, held in zip(self.sequences, self.sets, strict=True):
            prompt = rng.integers(4, 48, rng.integers(2, 30))
            engine.forward([row(sequence, prompt, held, "none")])
        self.lengths = [engine.length(sequence) for sequence in self.sequences]

    def rows(self, logits="all"):
        parts = zip(self.sequences, self.new, self.sets, strict=True)
        return [row(s, tokens, held, logits) for s, tokens, held in parts]

    def together(self):
        """Logits of all rows, and of a step that reads what they left in the cache."""
        found = [part.copy() for part in self.engine.forward(self.rows())]
        parts = zip(self.sequences, self.sets, strict=True)
        after = self.engine.forward([row(s, [5], held) for s, held in parts])
        found += [part.copy() for part in after]
        self.truncate()
        return found

    def truncate(self):
        """Sequences as they were before the rows."""
        for sequence, length in zip(self.sequences, self.lengths, strict=True):
            self.engine.truncate(sequence, length)

    def apart(self):
        """The same, with each row of several tokens in a run of its own."""
        most, self.engine._sessions.most = self.engine._sessions.most, 0
        found = self.together()
        self.engine._sessions.most = most
        return found

    def close(self):
        for sequence in self.sequences:
            self.engine.close_sequence(sequence)


def some_set(rng, handles):
    chosen = rng.choice(handles, rng.integers(0, 3), replace=False)
    return tuple((int(h), float(rng.choice([-1.0, 0.0, 0.3, 1.0]))) for h in chosen)


def packed(engine, rows):
    """One packed run, after which no sequence is longer."""
    return engine._packed(rows, [engine._kv.slot(each.sequence) for each in rows])


def error(found, expected):
    """The largest difference, to the largest value."""
    parts = zip(found, expected, strict=True)
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in parts)


def counted(engine, monkeypatch, name="_packed"):
    """How many rows each packed run has, from now on."""
    calls, run = [], getattr(engine, name)
    monkeypatch.setattr(
        engine, name, lambda rows, *rest: (calls.append(len(rows)), run(rows, *rest))[1]
    )
    return calls


@pytest.mark.parametrize(("name", "quantize"), BASES)
def test_random_batches_equal_rows_in_runs_of_their_own(name, quantize, phi3, monkeypatch):
    engine, handles = opened(phi3 if name == "phi3" else name, quantize)
    calls = counted(engine, monkeypatch)
    for seed in range(6):
        batch = Batch(engine, handles, seed)
        found, expected = batch.together(), batch.apart()
        assert error(found, expected) <= (0 if quantize in CODES else 3e-6)
        batch.close()
    assert len(calls) == 6
    engine.close()


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_a_row_never_depends_on_its_mates(quantize):
    """To the bit: packed with others, and packed with none."""
    engine, handles = opened("gemma3", quantize)
    for seed in range(4):
        batch = Batch(engine, handles, seed)
        engine.forward(batch.rows())  # lanes are there, and the cache has room
        batch.truncate()
        several = [each for each in batch.rows() if len(each.tokens) > 1 or quantize in CODES]
        together = {s: part.copy() for s, part in packed(engine, batch.rows()).items()}
        for each in several:
            alone = packed(engine, [each])[each.sequence]
            np.testing.assert_array_equal(alone, together[each.sequence])
        batch.close()
    engine.close()


def shifted(engine, monkeypatch):
    """Rows' lanes cut one token too late."""
    fill = PackedStep.fill

    def wrong(self, lanes):
        fill(self, lanes)
        first, last = lanes[0].lane, lanes[-1].lane
        self._sizes[first] += 1
        self._sizes[last] -= 1

    monkeypatch.setattr(PackedStep, "fill", wrong)


def with_the_neighbours_factors(engine, monkeypatch):
    bind = PackedStep.bind_factors

    def wrong(self, shared, lanes):
        keys = list(lanes)
        bind(
            self, shared, dict(zip(keys, [lanes[key] for key in keys[1:] + keys[:1]], strict=True))
        )

    monkeypatch.setattr(PackedStep, "bind_factors", wrong)


@pytest.mark.parametrize("broken", [shifted, with_the_neighbours_factors])
def test_what_is_cut_wrongly_is_found(broken, monkeypatch):
    engine, handles = opened("gemma3")
    batch = Batch(engine, handles, 1, count=4)
    batch.sets = [((handle, 1.0),) for handle in handles[:4]]
    batch.new[-1] = np.arange(5, 9)
    expected = batch.apart()
    assert error(batch.together(), expected) < 3e-6
    broken(engine, monkeypatch)
    assert error(batch.together(), expected) > 1e-2
    engine.close()


def test_ranks_of_mates_would_show_in_codes(monkeypatch):
    """Where the factors of all lie in one slab, as wide as its largest rank."""
    base = Base.open(demo.base_path())
    engine = open_engine(demo.base_path(), quantize="int8", max_batch=4)
    engine._sessions.worth.opening = 0.5
    ranks = enumerate((64, 128, 40))
    handles = [engine.attach(engine.prepare(random_adapter(base, n, r))) for n, r in ranks]
    batch = Batch(engine, handles, 1, count=3)
    batch.sets, batch.new = [((h, 1.0),) for h in handles], [np.arange(5, 45)] * 3
    expected = batch.apart()
    assert error(batch.together(), expected) == 0
    monkeypatch.setattr(Slab, "exact", lambda *_: True)
    assert error(batch.together(), expected) > 0
    engine.close()


@pytest.mark.parametrize("quantize", ["none", "int8"])
@pytest.mark.parametrize("held", [(), "one", "scales"])
def test_rows_that_share(quantize, held, monkeypatch):
    """The base, one adapter, and one at different scales."""
    engine, handles = opened("llama", quantize)
    batch = Batch(engine, handles, 3, count=5)
    scales = np.linspace(0.2, 1, 5) if held == "scales" else np.ones(5)
    batch.sets = [((handles[0], float(scale)),) if held else () for scale in scales]
    calls = counted(engine, monkeypatch)
    found = batch.together()
    assert error(found, batch.apart()) <= (0 if quantize in CODES else 3e-6)
    assert calls == [5]
    engine.close()


def test_some_positions_and_few_columns():
    engine, handles = opened("gemma3", "int8")
    batch = Batch(engine, handles, 5, count=4, most=9)
    whole = [part.copy() for part in engine.forward(batch.rows())]
    batch.truncate()
    rows, some = batch.rows(), np.array([3, 7, 50])
    rows = [
        row(rows[0].sequence, rows[0].tokens, rows[0].adapters, "none"),
        row(rows[1].sequence, rows[1].tokens, rows[1].adapters, (0, 2)),
        type(rows[2])(
            sequence=rows[2].sequence,
            tokens=rows[2].tokens,
            adapters=rows[2].adapters,
            among=some,
        ),
        row(rows[3].sequence, rows[3].tokens, rows[3].adapters, "last"),
    ]
    none, two, few, last = engine.forward(rows)
    assert none.shape[0] == 0
    np.testing.assert_array_equal(two, whole[1][[0, 2]])
    np.testing.assert_allclose(few, whole[2][-1:, some], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(last, whole[3][-1:])
    engine.close()


def test_more_rows_than_lanes(monkeypatch):
    """In several runs, and in one once that has become worth a session with more lanes."""
    engine, handles = opened("llama", "int8")
    few, batch = (Batch(engine, handles, 7, count=count, most=5) for count in (4, 8))
    both = few.rows() + batch.rows()

    def forward():
        found = [part.copy() for part in engine.forward(both)]
        for one in (few, batch):
            one.truncate()
        return found

    few.together()
    engine._sessions.worth = Worth(opening=2.0, balance=4.0)
    calls = counted(engine, monkeypatch)
    assert error(forward(), forward()) == 0
    assert calls == [8, 4, 12]
    assert engine._sessions.lanes == 12
    engine._sessions.most, found = 0, forward()
    engine._sessions.most = 12
    assert error(forward(), found) == 0
    engine.close()


def test_sequences_come_and_go(monkeypatch):
    """Lanes are bound anew when slots change hands, ranks grow and the cache moves."""
    engine, handles = opened("gemma3", "int8")
    kept = Batch(engine, handles, 11, count=3)
    for seed in range(4):
        batch = Batch(engine, handles[: 2 + seed], seed, count=4)
        both = kept.rows() + batch.rows()
        found = [part.copy() for part in engine.forward(both)]
        for one in (kept, batch):
            one.truncate()
        engine._sessions.most, expected = 0, engine.forward(both)
        assert error(found, expected) == 0
        engine._sessions.most = 8
        kept.truncate()
        batch.close()
    engine.close()


def test_a_failure_leaves_every_sequence_as_it_was(monkeypatch):
    engine, handles = opened("gemma3", "int8")
    batch = Batch(engine, handles, 2, count=4)
    expected = batch.together()

    def fails(self):
        raise EngineError("no luck")

    with monkeypatch.context() as patched:
        patched.setattr(Step, "run", fails)
        with pytest.raises(EngineError, match="no luck"):
            engine.forward(batch.rows())
    assert [engine.length(sequence) for sequence in batch.sequences] == batch.lengths
    assert error(batch.together(), expected) == 0
    engine.close()


def test_rows_with_gains_run_on_their_own(monkeypatch):
    engine, handles = opened("llama", "int8")
    batch = Batch(engine, handles, 4, count=5, most=6)
    before = batch.together()
    dora = engine.attach(engine.prepare(truth_adapter("llama", "dora")))  # another session
    assert engine._sessions.lanes
    assert error(batch.together(), before) == 0
    calls = counted(engine, monkeypatch)
    batch.sets[2] = ((dora, 1.0),)
    found = batch.together()
    assert calls == [4]
    assert error(found, batch.apart()) == 0
    engine.detach(dora)
    engine.close()


def test_lanes_are_opened_when_they_are_worth_it_and_closed_again(monkeypatch):
    engine, handles = opened("llama")
    engine._sessions.worth.opening = 4.0
    batch = Batch(engine, handles, 6, count=4, most=4)
    batch.new = [np.arange(5, 8)] * 4  # in one run instead of four
    lanes = []
    for _ in range(3):
        engine.forward(batch.rows())
        lanes.append(engine._sessions.lanes)
    assert lanes == [0, 8, 8]
    first, steps = engine._session, 0
    while engine._sessions.lanes:
        engine.forward([row(s, [5]) for s in batch.sequences])
        steps += 1
        if steps % 20 == 0:
            for sequence in batch.sequences:
                engine.truncate(sequence, 5)
    assert 40 < steps < 120
    assert engine._session is not first
    engine.close()


def test_where_no_session_with_lanes_opens_rows_run_on_their_own(monkeypatch, caplog):
    engine, handles = opened("llama", "int8")
    batch = Batch(engine, handles, 6, count=4, most=4)

    def fails(**_):
        raise EngineError("no memory", code="out_of_memory")

    engine._sessions.opened = fails
    found = batch.together()
    assert "stay not packed: no memory" in caplog.text
    caplog.clear()
    assert error(batch.together(), found) == 0
    assert not caplog.text
    engine.close()


def test_where_there_is_no_room_for_two_sessions_none_is_opened(monkeypatch, caplog):
    engine, handles = opened("llama")
    batch = Batch(engine, handles, 6, count=4, most=4)
    monkeypatch.setattr(sessions, "free_memory", lambda: 1 << 10)
    engine.forward(batch.rows())
    assert not engine._sessions.lanes
    assert "0 MB are free" in caplog.text
    engine.close()


def test_a_mixture_of_experts_is_not_packed():
    engine = open_engine(DATA / "families/qwen3_moe")
    assert engine._sessions.most == 0
    engine.close()
