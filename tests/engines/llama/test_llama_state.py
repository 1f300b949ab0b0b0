"""Saved KV from untrusted files: refused before native code reads it, or harmless."""

import struct

import numpy as np
import pytest
from llama_cases import logits_of, open_engine, row

from lorakit.engines.llama import state as states
from lorakit.engines.llama.native import chosen
from lorakit.errors import ContextFullError, EngineError

LENGTH = 20
PROMPT = list(range(5, 5 + LENGTH))
FRAME = 32  # bytes before the first part's size
CACHES = FRAME + 8 + 8  # and before its first cache
SPANS = [(0, 16), (16, LENGTH)]  # Gemma's, in pieces of its window


def rotations() -> bool:
    return chosen().library.numbers >= states.ROTATIONS


@pytest.fixture(scope="module", params=["gemma3", "llama"])
def engine(request):
    found = open_engine(request.param, max_batch=2, cached_sequences=2)
    yield found
    found.close()


@pytest.fixture(scope="module")
def saved(engine):
    sequence = engine.open_sequence()
    engine.forward([row(sequence, PROMPT, (), "none")])
    state = engine.save_sequence(sequence)
    engine.close_sequence(sequence)
    return state


def put(state, offset, form, *values):
    return state[:offset] + struct.pack(form, *values) + state[offset + struct.calcsize(form) :]


CHANGES = {
    "nothing": lambda state: b"",
    "noise": lambda state: np.random.default_rng(0).bytes(len(state)),
    "another magic": lambda state: b"x" + state[1:],
    "more tokens": lambda state: put(state, 16, "<Q", 1 << 40),
    "more parts": lambda state: put(state, 24, "<Q", 1 << 60),
    "a part without end": lambda state: put(state, FRAME, "<Q", (1 << 64) - 1),
    "another native magic": lambda state: put(state, FRAME + 8, "<I", 0),
    "streams": lambda state: put(state, CACHES, "<I", 2),
    "no cells": lambda state: put(state, CACHES, "<II", 1, 0),
    "cells without end": lambda state: put(state, CACHES, "<II", 1, 0xFFFFFFFF),
    "a negative position": lambda state: put(state, CACHES + 8, "<i", -1),
    "a far position": lambda state: put(state, CACHES + 8, "<i", 0x7FFFFFFF),
    "a position twice": lambda state: put(state, CACHES + 8, "<i", 3),
    "no sequences": lambda state: put(state, CACHES + 12, "<I", 0),
    "many sequences": lambda state: put(state, CACHES + 12, "<I", 0x7FFFFFFF),
    "one byte more": lambda state: state + b"\0",
    "one byte less": lambda state: state[:-1],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_state_is_refused_and_harms_no_other_sequence(engine, saved, change):
    other = engine.open_sequence()
    engine.forward([row(other, PROMPT, (), "none")])
    with pytest.raises(EngineError, match=r"not a KV cache|cannot restore"):
        engine.load_sequence(change(saved), LENGTH)
    (found,) = engine.forward([row(other, [9], (), "last")])
    engine.close_sequence(other)
    assert np.abs(found[0] - logits_of(engine, [*PROMPT, 9])[-1]).max() < 2e-3
    assert not engine._pool._seats


@pytest.mark.parametrize("length", [LENGTH - 1, LENGTH + 1, 1])
def test_another_length_is_refused(engine, saved, length):
    with pytest.raises(EngineError, match="not a KV cache"):
        engine.load_sequence(saved, length)


@pytest.mark.parametrize("length", [0, -1, 1 << 40])
def test_a_length_beyond_the_context_is_refused(engine, saved, length):
    with pytest.raises(ContextFullError):
        engine.load_sequence(saved, length)


def test_any_four_bytes_changed_end_neither_the_process_nor_others(engine, saved):
    """Either refused, or only that sequence is affected."""
    rng = np.random.default_rng(1)
    head = rng.integers(0, 700, 300)
    anywhere = rng.integers(0, len(saved) - 4, 300)
    taken = 0
    for offset in np.concatenate([head, anywhere]).tolist():
        value = int(rng.choice([0, 1, 2, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7F800000]))
        try:
            loaded = engine.load_sequence(put(saved, offset, "<I", value), LENGTH)
        except EngineError:
            continue
        taken += 1
        engine.forward([row(loaded, [9], (), "last")])
        engine.close_sequence(loaded)
        assert np.isfinite(logits_of(engine, [5, 6])).all()
    assert taken
    loaded = engine.load_sequence(saved, LENGTH)
    (found,) = engine.forward([row(loaded, [9], (), "last")])
    assert np.abs(found[0] - logits_of(engine, [*PROMPT, 9])[-1]).max() < 2e-3
    engine.close_sequence(loaded)


@pytest.mark.parametrize("kv_type", ["f32", "f16", "q8_0"])
def test_values_that_are_not_finite_would_reach_others_and_are_refused(kv_type):
    engine = open_engine("gemma3", max_batch=2, cached_sequences=2, kv_type=kv_type)
    sequence = engine.open_sequence()
    engine.forward([row(sequence, PROMPT, (), "none")])
    state = engine.save_sequence(sequence)
    parts = states.unpack(state, SPANS, rotations=rotations())
    assert states.pack(parts, LENGTH) == state
    numbers = CACHES + 8 + 16 * 12 + 8 + 8 * rotations() + 12  # keys of the first part
    for value in (float("nan"), float("inf"), float("-inf")):
        form = "<f" if kv_type == "f32" else "<e"
        with pytest.raises(EngineError) as caught:
            engine.load_sequence(put(state, numbers, form, value), LENGTH)
        assert caught.value.items == ("values that are not finite",)
    engine.close()


def test_a_state_of_the_other_layout_is_refused(saved):
    """Which of the two a llama.cpp writes is known by its version; neither is the other."""
    (parts,) = struct.unpack_from("<Q", saved, 24)
    spans = SPANS if parts == 2 else [(0, LENGTH)]
    assert states.unpack(saved, spans, rotations=rotations())
    with pytest.raises(EngineError, match="not a KV cache"):
        states.unpack(saved, spans, rotations=not rotations())
