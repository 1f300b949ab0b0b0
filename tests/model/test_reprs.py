"""What the user's objects say of themselves: one line, at once, in any state, without secrets."""

import copy
import threading
import traceback
from dataclasses import replace

import numpy as np
import pytest

import lorakit
from folders import DATA
from lorakit import demo
from lorakit.adapter import Adapter, Delta, Magnitude, Replacement
from lorakit.errors import ClosedError, LorakitError

EVIL = "a\nb\x1b[31m " + "x" * 200
RUNNING = "<Stream running>"
OTHERS = DATA / "truth/peft/llama/plain"  # an adapter of another base, which no engine takes


@pytest.fixture(scope="module")
def shared():
    with lorakit.open(demo.base_path(), threads=1, context=256) as model:
        model.load_adapter(demo.adapter_path("home"))
        yield model


@pytest.fixture
def model(shared):
    shared.clear_adapters()
    yield shared
    for info in shared.adapters:
        if info.name != "home":
            shared.find(info.name).unload()


def tiny(module="model.layers.0.mlp.gate_proj"):
    return Adapter(
        deltas=(
            Delta(
                module=module,
                a=np.zeros((4, 128), np.float32),
                b=np.zeros((256, 4), np.float32),
                scale=0.5,
            ),
        )
    )


def one_line(value):
    said = repr(value)
    assert said.isprintable(), said
    assert len(said) < 400, said
    return said


def test_a_model_names_its_adapters(model):
    assert one_line(model) == "<Model 'base' on onnx, adapters: 'home' not active>"
    model.apply({"home": 0.5})
    assert one_line(model) == "<Model 'base' on onnx, adapters: 'home' at 0.5>"
    for number in range(5):
        model.load_adapter(tiny(), f"{number}{EVIL}")
    assert one_line(model).endswith(" not active, and 2 more>")


def test_a_model_that_is_closed_or_not_open_yet():
    with lorakit.open(demo.base_path(), threads=1, context=64) as model:
        assert one_line(model) == "<Model 'base' on onnx, no adapters>"
        handle = model.load_adapter(tiny(), "tiny")
    assert one_line(model) == "<Model 'base' on onnx, closed>"
    assert one_line(handle) == "<LoadedAdapter 'tiny', its model is closed>"
    with pytest.raises(ClosedError):
        model.apply({})
    raw = object.__new__(lorakit.Model)
    raw.base = model.base
    assert one_line(raw) == "<Model 'base', not open>"


def test_a_model_whose_opening_fails_is_shown_in_its_traceback():
    """Tools that print the values of variables find half a model in the frames."""
    with pytest.raises(LorakitError) as caught:
        lorakit.open(demo.base_path(), adapter=OTHERS, threads=1, context=64)
    frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    models = [v for f in frames for v in f.f_locals.values() if isinstance(v, lorakit.Model)]
    assert models
    assert {one_line(each) for each in models} == {"<Model 'base' on onnx, closed>"}


def test_a_loaded_adapter_in_each_of_its_states(model):
    handle = model.load_adapter(tiny(), EVIL)
    assert one_line(handle).endswith(", rank 4, not active: apply() activates it>")
    handle.apply(2)
    assert one_line(handle).endswith(", rank 4, active at 2>")
    handle.unload()
    assert one_line(handle).endswith(", unloaded>")
    successor = model.load_adapter(tiny(), EVIL)
    assert one_line(handle).endswith(", unloaded>")
    assert one_line(successor).endswith(" not active: apply() activates it>")


def test_the_bytes_of_no_adapter_are_read(monkeypatch):
    def refuse(*_):
        raise AssertionError("a repr reads values")

    adapter = tiny()
    monkeypatch.setattr("lorakit.adapter._digest", refuse)
    assert one_line(adapter) == "<Adapter of 1 modules, rank 4, 6,144 bytes>"
    with pytest.raises(AssertionError, match="reads values"):
        adapter.digest  # noqa: B018  # so that it would be seen
    monkeypatch.undo()
    assert one_line(adapter).count(adapter.digest[:12]) == 0
    adapter.digest  # noqa: B018
    assert f", digest {adapter.digest[:12]}>" in one_line(adapter)


def test_parts_of_an_adapter():
    (delta,) = tiny("m\x1b").deltas
    assert one_line(delta) == (
        "<Delta 'm\\x1b' (linear), A float32[4, 128], B float32[256, 4], scale 0.5>"
    )
    value = np.ones(3, np.float16)
    rows = replace(Replacement(name="n", value=np.ones((1, 3))), rows=np.array([4]))
    assert (
        one_line(Replacement(name="n", value=value))
        == "<Replacement 'n' (replacement), float16[3]>"
    )
    assert one_line(rows) == "<Replacement 'n' (replaced rows), float64[1, 3]>"
    assert one_line(Magnitude(module="m", value=value)) == "<Magnitude 'm', float16[3]>"
    both = replace(tiny(), replacements=(rows,), magnitudes=(Magnitude(module="m", value=value),))
    assert one_line(both) == "<Adapter of 1 modules, rank 4, 6,174 bytes, dora, rows>"


def test_a_base():
    said = one_line(lorakit.Base.open(demo.base_path()))
    assert said == f"<Base {str(demo.base_path())!r} (gemma3_text, 6 layers)>"


def test_streams_answers_and_conversations(model):
    stream = model.stream("hello", max_tokens=3)
    assert one_line(stream) == RUNNING
    completion = stream.result()
    assert one_line(stream) == "<Stream ended (length, 3 tokens)>"
    assert ", tokens=" not in one_line(completion)
    cancelled = model.stream("hello", max_tokens=100)
    cancelled.cancel()
    assert one_line(cancelled) == "<Stream cancelled>"
    late = model.stream("hello", max_tokens=100, timeout=1e-6)
    with pytest.raises(lorakit.DeadlineError):
        late.result()
    assert one_line(late) == "<Stream failed (deadline_exceeded)>"
    session = model.session(adapters={"home": 0.5})
    assert one_line(session) == "<Session of 0 messages, adapters {'home': 0.5}>"
    turn = session.stream("hello", max_tokens=3)
    assert one_line(turn) == "<Turn of <Stream running>>"
    assert one_line(turn.reply).startswith("ChatReply(parsed=ParsedReply(text=")
    assert one_line(session).startswith("<Session of 2 messages, ")
    assert one_line(copy.copy(session)) == one_line(session)


def test_it_waits_for_no_lock(model):
    """In a debugger, or in a log line of another thread, while a change is made."""
    handle, said = model.find("home"), []
    stream = model.stream("hello", max_tokens=3)

    def show():
        said.extend(map(repr, (model, handle, stream)))

    with model._table.lock, stream._generation._condition:
        thread = threading.Thread(target=show, daemon=True)
        thread.start()
        thread.join(30)
        assert len(said) == 3
    stream.cancel()


def test_waiting_for_the_lock_would_be_seen(model):
    done = threading.Event()

    def wait():
        model._table.find("home")
        done.set()

    with model._table.lock:
        threading.Thread(target=wait, daemon=True).start()
        assert not done.wait(0.2)
    assert done.wait(30)


def test_references_hide_their_secrets():
    url = "https://user:secret@host/adapter?token=secret"
    assert "secret" not in one_line(lorakit.AdapterConfig(url))
