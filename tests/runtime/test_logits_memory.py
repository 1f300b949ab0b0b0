"""Logits that do not fit are refused before memory is taken for them; the runtime goes on."""

import numpy as np
import pytest

from lorakit.engines.fake import FakeEngine
from lorakit.errors import EngineError
from lorakit.runtime import computations
from lorakit.runtime.thread import EngineThread

NEEDED = 200 * 64 * 4  # bytes of 200 tokens of the fake engine's vocabulary, in float32


@pytest.fixture
def thread():
    with_engine = EngineThread(FakeEngine, max_queue=4)
    yield with_engine
    with_engine.close()


@pytest.fixture
def taken(monkeypatch):
    """The sizes of the arrays that are made."""
    sizes, empty = [], np.empty

    def counted(shape, *arguments, **named):
        made = empty(shape, *arguments, **named)
        sizes.append(made.nbytes)
        return made

    monkeypatch.setattr(computations.np, "empty", counted)
    return sizes


def test_what_does_not_fit_is_refused_before_it_is_taken(thread, taken, monkeypatch):
    monkeypatch.setattr(computations, "SMALL", 0)
    monkeypatch.setattr(computations, "free_memory", lambda: NEEDED - 1)
    with pytest.raises(EngineError, match="the logits of 200 tokens, 64 each, take") as found:
        thread.logits([1] * 200, ()).result(30)
    assert (found.value.code, found.value.hint) == (
        "out_of_memory", "ask for those of fewer tokens",
    )  # fmt: skip
    assert NEEDED not in taken
    assert thread.logits([1] * 199, ()).result(30).shape == (199, 64)


@pytest.mark.parametrize("free", [NEEDED, None])  # None: the system does not say
def test_what_fits_or_is_not_known_is_computed(thread, taken, monkeypatch, free):
    monkeypatch.setattr(computations, "SMALL", 0)
    monkeypatch.setattr(computations, "free_memory", lambda: free)
    assert thread.logits([1] * 200, ()).result(30).shape == (200, 64)
    assert NEEDED in taken


def test_nobody_is_asked_about_little(thread, monkeypatch):
    monkeypatch.setattr(computations, "free_memory", lambda: 1 / 0)
    assert thread.logits([1] * 200, ()).result(30).shape == (200, 64)
