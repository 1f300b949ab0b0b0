"""With a sliding window no KV is lost unnoticed: interleavings equal cold runs."""

import numpy as np
import pytest
from kv_driver import Driver
from llama_cases import TRUTH, logits_of, open_engine, open_file, row

from lorakit.engines.llama import context, memory
from lorakit.errors import EngineError, ParameterError
from lorakit.files.gguf import Value, open_gguf
from lorakit.files.gguf_write import write_gguf_file

PROMPT = [4 + (7 * at) % 490 for at in range(200)]


@pytest.mark.parametrize(
    ("kv_type", "seeds"), [("f32", range(6)), ("f16", range(2)), ("q8_0", range(2))]
)
def test_any_interleaving_equals_cold_runs_under_a_window(kv_type, seeds):
    for seed in seeds:
        driver = Driver("gemma3", seed, kv_type, contexts=1 + seed % 3)
        driver.run(25)
        assert not driver.lost
        driver.close()


def test_without_shadows_the_driver_finds_cells_that_were_dropped(monkeypatch):
    """The broken variant: llama.cpp's own cache, unchecked."""
    monkeypatch.setattr(context, "Memory", lambda native, slots, window: Trusting(native, slots, 0))
    with pytest.raises((AssertionError, EngineError)):
        drive(range(6))


def test_without_shadows_the_engine_reports_lost_cells(monkeypatch):
    monkeypatch.setattr(
        context, "Memory", lambda native, slots, window: memory.Memory(native, slots, 0)
    )
    engine = open_engine("gemma3", max_batch=2, cached_sequences=2)
    passing, first = engine.open_sequence(), engine.open_sequence()
    engine.forward([row(passing, PROMPT[:100], (), "none")])
    engine.forward([row(first, PROMPT[:120], (), "none")])
    engine.close_sequence(passing)
    second = engine.open_sequence()
    engine.forward([row(second, PROMPT[:100], (), "none")])  # where the passing one was
    engine.forward([row(second, PROMPT[:10], (), "none")])  # behind the window of the first one
    assert engine.length(first) == 120
    assert engine.reusable(first, 100) == 0
    for refused in (engine.truncate, engine.fork):
        with pytest.raises(EngineError, match="holds only 0"):
            refused(first, 100)
    assert engine.length(first) == 120
    engine.close()


def drive(seeds):
    for seed in seeds:
        driver = Driver("gemma3", seed)
        driver.run(25)
        driver.close()


class Trusting(memory.Memory):
    def whole(self, slot, length):
        return length

    def _require(self, slot, length):
        pass


def test_a_copy_between_contexts_is_exact_and_whole():
    for kv_type in ("f32", "f16", "q8_0"):
        engine = open_engine("gemma3", max_batch=2, cached_sequences=4, kv_type=kv_type)
        sequence = engine.open_sequence()
        engine.forward([row(sequence, PROMPT, (), "none")])
        state = engine.save_sequence(sequence)
        again = engine.load_sequence(state, len(PROMPT))
        assert engine.save_sequence(again) == state
        for length in (200, 100, 17, 1):
            assert engine.reusable(again, length) == length
        forks = [engine.fork(name, 60) for name in (sequence, again)]
        one, other = engine.forward([row(name, [9], (), "last") for name in forks])
        assert np.abs(one - other).max() < 2e-3
        engine.close()


def test_a_window_halves_the_number_of_sequences():
    with pytest.raises(ParameterError, match="at most 127 rows"):
        open_engine("gemma3", max_batch=128)
    engine = open_engine("gemma3", max_batch=127, cached_sequences=100)
    assert engine.capabilities.max_sequences == 127
    opened = [engine.open_sequence() for _ in range(127)]
    prompts = [PROMPT[at : at + 3] for at in range(127)]
    rows = [row(*parts, (), "last") for parts in zip(opened, prompts, strict=True)]
    found = [logits[0].copy() for logits in engine.forward(rows)]
    for at in (0, 63, 126):
        engine.close_sequence(opened[at])
        expected = logits_of(engine, prompts[at])[-1]
        assert np.abs(found[at] - expected).max() < 2e-3
    engine.close()


SHORT = [4 + at % 40 for at in range(50)]
PHI3 = TRUTH / "llama_cpp" / "phi3" / "base.f32.gguf"


@pytest.fixture(scope="module")
def two_factors(tmp_path_factory):
    """A Phi 3 with RoPE factors for up to 300 tokens, and for more."""
    path, file = tmp_path_factory.mktemp("longrope") / "phi3.gguf", open_gguf(PHI3, model=True)
    rotated = int(file.values["phi3.rope.dimension_count"].data) // 2
    tensors = {name: tensor.array() for name, tensor in file.tensors.items()}
    tensors["rope_factors_short.weight"] = np.ones(rotated, np.float32)
    tensors["rope_factors_long.weight"] = np.linspace(1, 9, rotated, dtype=np.float32)
    numbers = {"rope.scaling.original_context_length": 300, "context_length": 1024}
    changed = {f"phi3.{key}": Value("u32", number) for key, number in numbers.items()}
    values = {**file.values, **changed}
    with path.open("wb") as out:
        write_gguf_file(out, values, tensors)
    return path


def in_a_small_and_a_large_context(path, length):
    """Logits of one prompt in a small context, their difference in a large one, the identity."""
    engine = open_file(path, context=length, max_batch=2)
    small = logits_of(engine, SHORT)[-1].copy()
    others = [engine.open_sequence() for _ in range(2)]
    for other in others:  # the context of the first one grows beyond 300 cells
        engine.forward([row(other, SHORT * 4, (), "none")])
    assert max(place.cells for place in engine._pool) > 300
    large = logits_of(engine, SHORT)[-1].copy()
    identity = engine.capabilities.kv_identity
    engine.close()
    return small, np.abs(large - small).max(), identity


def test_rope_factors_depend_on_the_option_not_on_other_sequences(two_factors):
    short, moved, identity = in_a_small_and_a_large_context(two_factors, 256)
    assert moved < 1e-4
    assert "RoPE factors short" in identity
    long, moved, identity = in_a_small_and_a_large_context(two_factors, 400)
    assert moved < 1e-4
    assert "RoPE factors long" in identity
    assert np.abs(long - short).max() > 1e-2


def test_llama_cpp_alone_chooses_factors_by_the_cells(two_factors, monkeypatch):
    """The broken variant."""
    monkeypatch.setattr("lorakit.engines.llama.engine.rope_factors", lambda *_: "")
    assert in_a_small_and_a_large_context(two_factors, 256)[1] > 1e-2


def test_the_identity_of_kv_names_all_that_it_depends_on():
    options = [{}, {"kv_type": "f16"}, {"kv_type": "f16", "flash_attention": "off"}]
    found = set()
    for chosen in options:
        engine = open_engine("llama", max_batch=2, **chosen)
        found.add(engine.capabilities.kv_identity)
        engine.close()
    assert len(found) == len(options)
    engine = open_engine("llama", max_batch=8, contexts=2)
    assert engine.capabilities.kv_identity in found
    engine.close()
