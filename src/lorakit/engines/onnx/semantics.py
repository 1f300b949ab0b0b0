"""What onnxruntime's operators mean in the version at hand: tried once, then remembered.

Between versions these changed in silence: whether the window of GroupQueryAttention counts the
token itself (it does from 1.24 on: microsoft/onnxruntime#25927), and what becomes of no rows
(ReduceMax in 1.31). The first has two readings, and a graph is built for the one that is found;
all else has one right answer. What is tried is what the graph and its bindings rest on.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from onnx import TensorProto

from lorakit.engines.onnx.device import Buffer, Device
from lorakit.engines.onnx.ort import Binding, native_errors, onnxruntime, open_session
from lorakit.errors import EngineError
from lorakit.files.cache import Memo
from lorakit.graph import LoraTarget, MemoryStore, Window
from lorakit.graph.even import Seen
from lorakit.graph.lora import lora
from lorakit.graph.quantize import form_of
from lorakit.graph.writer import CONTRIB, Shape, Writer

VERSION = 4  # raise it whenever something else is tried
TESTED = "1.22 to 1.32"
WINDOW, TOKENS, DIM = 3, 8, 16
IN, OUT = 128, 64  # large enough for weights to lie outside the model
NEAR = 3.0  # of products of about 50; 8-bit activations and weights lose up to 1
BEFORE: dict[Window, int] = {"inclusive": WINDOW - 1, "exclusive": WINDOW}  # tokens before itself
STEPS = (  # the first slot, and the tokens that are added to it and to those that follow
    (0, (range(2),)),
    (0, (range(2, 5),)),
    (1, (range(6),)),
    (0, (range(5, 6), range(6, 7))),
    (0, (range(6, 7), range(7, 8))),
)


def window_reading(device: Device, forms: tuple[str, ...]) -> Window:
    """How this onnxruntime counts a sliding window.

    Raises EngineError where it computes something else than a graph with weights in these forms
    means.
    """
    ort, forms = onnxruntime(), tuple(sorted(set(forms)))
    machine = f"{sys.platform} {platform.machine()} {device.provider}"
    key = f"onnx {VERSION} {ort.__version__} {ort.get_build_info()} {machine} {forms}"
    found = Memo("kernels").get(key, lambda: _tried(device, forms))
    return "exclusive" if found == "exclusive" else "inclusive"


def _tried(device: Device, forms: tuple[str, ...]) -> Window:
    products = [partial(_product, form) for form in forms]
    adapters = [partial(_adapters, apart) for apart in (False, True)]
    checks: list[Callable[[Device], Window | None]] = [_window, *adapters, *products]
    windows, faults = [], []
    for check in checks:
        try:
            windows.append(check(device))
        except EngineError as error:
            if error.code != EngineError.code:  # no memory, no such device
                raise
            faults.append(str(error))
    if faults:
        raise EngineError(
            f"onnxruntime {onnxruntime().__version__} does not compute what a graph means",
            items=faults,
            hint=f"install another: {TESTED} were tested",
        )
    return next(window for window in windows if window)


def _window(device: Device) -> Window:
    """Keys are alike, so all that is seen weighs the same, and values name their tokens: the output
    says what a token sees, in prompts of one part and of two, and in a batch."""
    session = _attention(device)
    buffers = [device.buffer((2, 1, TOKENS, DIM)) for _ in range(2)]
    seen: dict[tuple[int, int], list[int]] = {}
    for first, rows in STEPS:
        slots = slice(first, first + len(rows))
        seen.update(_seen(Binding(session, device), buffers, slots, rows))
    for window, before in BEFORE.items():
        if all(
            tokens == list(range(max(0, token - before), token + 1))
            for (_, token), tokens in seen.items()
        ):
            return window
    found = "; ".join(f"{token} sees {tokens}" for (_, token), tokens in seen.items())
    raise EngineError(f"a sliding window of {WINDOW} tokens has an unknown reading: {found}")


def _attention(device: Device) -> Any:
    """A session on attention with one head, its node as `graph.blocks` writes it."""
    w = Writer(MemoryStore())
    cache: Shape = ["batch", 1, "capacity", DIM]
    inputs = [
        *(w.input(name, ["batch", "new", DIM]) for name in ("query", "key", "value")),
        *(w.input(f"past.{part}", cache) for part in ("key", "value")),
        w.input("lengths", ["batch"], TensorProto.INT32),
        w.input("total", [], TensorProto.INT32),
        w.weight("cos", np.ones((TOKENS, DIM // 2), np.float32)),
        w.weight("sin", np.zeros((TOKENS, DIM // 2), np.float32)),
    ]
    outputs = [
        w.output("attended", ["batch", "new", DIM]),
        *(w.output(f"present.{part}", cache) for part in ("key", "value")),
    ]
    w.node(
        "GroupQueryAttention",
        inputs,
        "attention",
        domain=CONTRIB,
        outputs=outputs,
        num_heads=1,
        kv_num_heads=1,
        do_rotary=1,
        scale=1.0,
        local_window_size=WINDOW,
    )
    return open_session(w.finish(), threads=1, device=device)


def _seen(
    binding: Binding, buffers: Sequence[Buffer], slots: slice, rows: Sequence[range]
) -> Iterator[tuple[tuple[int, int], list[int]]]:
    """Adds tokens to slots; yields (slot, token) and the tokens that it sees."""
    alike = np.zeros((len(rows), len(rows[0]), DIM), np.float32)
    attended = np.full_like(alike, np.nan)
    lengths = np.array([row.stop - 1 for row in rows], np.int32)
    for name in ("query", "key"):
        binding.input(name, alike)
    binding.input("value", np.eye(DIM, dtype=np.float32)[np.array(rows)])
    binding.input("lengths", lengths)
    binding.input("total", np.array(lengths.max() + 1, np.int32))
    binding.output("attended", attended)
    for part, buffer in zip(("key", "value"), buffers, strict=True):
        binding.slots(f"past.{part}", f"present.{part}", buffer, slots)
    binding.run()
    for slot, (row, weights) in enumerate(zip(rows, attended, strict=True), slots.start):
        for token, given in zip(row, weights, strict=True):
            yield (slot, token), np.flatnonzero(given).tolist()


def _adapters(apart: bool, device: Device) -> None:
    """Views of adapters and activations are read where they lie, at every run, and nothing beside
    the output's view is written; rank 0 adds nothing."""
    w, rng = Writer(MemoryStore()), np.random.default_rng(0)
    target = LoraTarget(module="m", in_features=IN, out_features=OUT, apart=apart)
    y = lora(w, target, w.input("x", [2, 1, IN]), w.input("y", [2, 1, OUT]))
    w.node("Identity", [y], w.output("adapted", [2, 1, OUT]))
    session = open_session(w.finish(), threads=1, device=device)
    for rank in (4, 0):  # in this order: memory that is used again is not zero
        binding = Binding(session, device)
        shapes = {"x": (1, IN), "y": (1, OUT), target.a: (IN, rank), target.b: (rank, OUT)}
        given = {name: np.empty((4, *shape), np.float32) for name, shape in shapes.items()}
        adapted = np.empty((4, 1, OUT), np.float32)
        rows = {name: array[1:3] for name, array in given.items()}
        rows |= target.bound(rows[target.a], rows[target.b], shared=True)
        for name, array in rows.items():
            binding.input(name, array)
        binding.output("adapted", adapted[1:3])
        for _ in range(2):
            for array in given.values():
                array[:] = rng.integers(-4, 5, array.shape)  # so small that sums are exact
            adapted[:] = np.nan
            binding.run()
            expected = np.full_like(adapted, np.nan)
            expected[1:3] = (given["y"] + given["x"] @ given[target.a] @ given[target.b])[1:3]
            if not np.array_equal(adapted, expected, equal_nan=True):
                raise EngineError(f"adapters of rank {rank} are not read where they lie")


def _product(form: str, device: Device) -> None:
    """A linear's product for some rows and for none, with weights that every form can store."""
    rng, store = np.random.default_rng(0), MemoryStore()
    w = Writer(store)
    weight = rng.integers(-7, 8, (OUT, IN)).astype(np.float32)
    weight[:, ::16], weight[:, 1::16] = -8, 7  # in every block
    x, keep = w.input("x", [1, "new", IN]), w.input("keep", ["kept"], TensorProto.INT64)
    divisors = np.linspace(0.5, 2, IN, dtype=np.float32)
    seen = None if form == "block4" else Seen(divisors)  # 4 bits would round what is divided
    kept = w.node("Gather", [x, keep], "kept", axis=1)
    kept_rows = w.node("Reshape", [kept, w.shape(1, -1, IN)], "kept.rows")
    y = form_of(form, lambda _: seen)(w, "m", kept_rows, weight)
    w.node("Identity", [y], w.output("y", [1, "kept", OUT]))
    session = open_session(w.finish(), threads=1, initializers=store.arrays, device=device)
    for array in store.arrays.values():
        array.fill(0)  # whoever opens a session lets go of them
    given = rng.standard_normal((1, 3, IN), np.float32)
    for rows in ([0, 2], [], [1]):
        expected = given[:, rows] @ weight.T
        with native_errors("multiplying"):
            (found,) = session.run(None, {"x": given, "keep": np.array(rows, np.int64)})
        if found.shape != expected.shape or not np.allclose(found, expected, rtol=0, atol=NEAR):
            raise EngineError(f"{form} weights times {len(rows)} rows are wrong")
