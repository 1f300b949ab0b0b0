"""A second device is a value: its memory is used through its own methods, and its name is one."""

import ctypes
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lorakit
from lorakit.base.folder import Base
from lorakit.engines.onnx import kv_cache
from lorakit.engines.onnx.device import CPU, Device
from lorakit.engines.onnx.engine import OnnxEngine
from lorakit.engines.onnx.options import OnnxOptions
from lorakit.engines.onnx.ort import Step
from lorakit.errors import CapabilityError
from onnx_cases import row, truth_adapter, truth_base

IDS = np.random.default_rng(7).integers(4, 508, 40)


class Foreign:
    """A buffer that shows numpy nothing: memory by its address, moved in runs of bytes."""

    def __init__(self, shape):
        self.shape, self.dtype = shape, np.dtype(np.float32)
        self.calls = []
        _, self._heads, self._capacity, self._dim = shape
        self._memory = ctypes.create_string_buffer(4 * math.prod(shape) + 64)
        self._begin = -(-ctypes.addressof(self._memory) // 64) * 64

    def address(self, slot):
        return self._begin + slot * 4 * math.prod(self.shape[1:])

    def copy(self, source, slot, target, length):
        self.calls.append("copy")
        for head in range(self._heads):
            begin, size = source.run(slot, head, length)
            ctypes.memmove(self.run(target, head, length)[0], begin, size)

    def swap(self, one, other, lengths):
        self.calls.append("swap")
        first, second = self.read(one, lengths[0]), self.read(other, lengths[1])
        self.write(other, first)
        self.write(one, second)

    def read(self, slot, length):
        self.calls.append("read")
        runs = [ctypes.string_at(*self.run(slot, head, length)) for head in range(self._heads)]
        found = np.frombuffer(b"".join(runs), np.float32)
        return found.reshape(self._heads, length, self._dim)

    def write(self, slot, tokens):
        self.calls.append("write")
        for head, rows in enumerate(tokens):
            content = np.ascontiguousarray(rows, np.float32).tobytes()
            begin, size = self.run(slot, head, len(rows))
            ctypes.memmove(begin, content, size)

    def run(self, slot, head, length):
        """Where a head's first tokens lie, and their bytes."""
        step = 4 * self._capacity * self._dim
        return self.address(slot) + head * step, 4 * length * self._dim


class NoCopy(Foreign):
    def copy(self, source, slot, target, length):
        pass


class NoSwap(Foreign):
    def swap(self, one, other, lengths):
        pass


class NoWrite(Foreign):
    def write(self, slot, tokens):
        pass


class OneSlot(Foreign):
    def address(self, slot):
        return super().address(0)


def life(device):
    """Logits of a small life: two adapters in a batch, a fork, swapped slots, growth, a state."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kv_cache, "FIRST_CAPACITY", 64)
        return _life(device)


def _life(device):
    engine = OnnxEngine.open(
        Base.open(truth_base("llama")),
        OnnxOptions(threads=1, max_batch=3, cached_sequences=2),
        device,
    )
    held = [
        ((engine.attach(engine.prepare(truth_adapter("llama", name))), 1.0),)
        for name in ("plain", "plain_b")
    ]
    found = []

    def step(*rows):
        found.extend(logits.copy() for logits in engine.forward(rows))

    one, two, three = (engine.open_sequence() for _ in range(3))
    step(row(one, IDS, held[0]), row(two, IDS[:9], held[1]), row(three, IDS[:5]))
    step(row(one, [7], held[0]), row(three, [8]))  # brings their slots together
    engine.close_sequence(two)
    fork = engine.fork(one, 20)
    step(row(fork, IDS[:4], held[0]), row(three, [9]))
    state = engine.save_sequence(fork)
    again = engine.load_sequence(state, 24)
    step(row(again, [3]), row(one, [3], held[0]))
    step(row(fork, np.resize(IDS, 100), held[1]))  # outgrows the buffers
    step(row(one, [4], held[0]), row(three, [5]))
    buffers = engine._kv.buffers[:]
    engine.close()
    return found, state, buffers


@pytest.fixture(scope="module")
def expected():
    return life(CPU)[:2]


def same(found, expected):
    (logits, state), (others, other_state) = found, expected
    return state == other_state and all(
        np.array_equal(one, other) for one, other in zip(logits, others, strict=True)
    )


def test_a_device_with_memory_of_its_own(expected):
    made = []

    def buffer(shape):
        made.append(Foreign(shape))
        return made[-1]

    *found, buffers = life(replace(CPU, buffer=buffer))
    assert same(found, expected)
    assert buffers
    assert all(buffer in made for buffer in buffers)
    assert {call for buffer in made for call in buffer.calls} == {"copy", "swap", "read", "write"}


@pytest.mark.parametrize("broken", [NoCopy, NoSwap, NoWrite, OneSlot])
def test_a_device_that_loses_something_is_seen(expected, broken):
    assert not same(life(replace(CPU, buffer=broken))[:2], expected)


def test_only_the_cache_lies_on_the_device():
    """Its slots are bound under the device's name and index, everything else as the host's."""
    bound = {}

    class IO:
        def bind_input(self, name, *place):
            bound[name] = place

        bind_output = bind_input

    class Session:
        io_binding = IO

    device = Device(provider="Other", name="other", index=3, buffer=Foreign)
    step = Step(Session(), device, batch=2, new=1, hidden=8)
    step.want([0], [0, 1], np.zeros((2, 16), np.float32))
    buffers = [Foreign((4, 2, 16, 8)) for _ in range(2)]
    step.bind_cache(buffers, 1)
    places = {name: place[:2] for name, place in bound.items()}
    cache = {"past.0.key", "past.0.value", "present.0.key", "present.0.value"}
    assert {name for name, place in places.items() if place == ("other", 3)} == cache
    assert {place for name, place in places.items() if name not in cache} == {("cpu", 0)}
    assert bound["past.0.value"] == bound["present.0.value"]
    assert bound["past.0.value"][2:] == (np.float32, (2, 2, 16, 8), buffers[1].address(1))


def test_a_device_that_is_not_there_is_refused():
    """And not replaced by the CPU."""
    device = replace(CPU, provider="NoSuchExecutionProvider")
    with pytest.raises(CapabilityError, match="NoSuchExecutionProvider"):
        OnnxEngine.open(Base.open(truth_base("llama")), OnnxOptions(threads=1), device)


def test_the_words_of_a_device_stand_in_one_file():
    folder = Path(lorakit.__file__).parent / "engines" / "onnx"
    words = ('"cpu"', "ExecutionProvider")
    found = {p.name for p in folder.glob("*.py") if any(w in p.read_text() for w in words)}
    assert found == {"device.py"}
