"""The boundary to onnxruntime: sessions, bound steps, and its errors as ours.

onnxruntime is imported here and nowhere else, when the first session opens, with its telemetry
switched off.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper

from lorakit.adapter import Array
from lorakit.engines.onnx.device import CPU, HOST, Buffer, Device
from lorakit.engines.onnx.lora_inputs import Slab
from lorakit.engines.threads import default_threads
from lorakit.errors import CapabilityError, EngineError, MissingExtraError

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
SPINNING = {  # a short wait between operators: nearly as fast as a long one, and kind to others
    "session.intra_op.allow_spinning": "1",
    "session.intra_op.spin_duration_us": "50",
    "session.force_spinning_stop": "1",  # none between steps: an idle engine burns nothing
}
WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


def onnxruntime() -> Any:
    """The onnxruntime module. Raises MissingExtraError where it is not installed."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime as module
    except ImportError as error:
        raise MissingExtraError(
            f"onnxruntime cannot be imported: {error}", hint="pip install onnxruntime"
        ) from error
    return module


@contextmanager
def native_errors(doing: str) -> Iterator[None]:
    """Whatever onnxruntime raises inside, or a lack of memory, becomes an EngineError."""
    try:
        yield
    except Exception as error:
        native = type(error).__module__.startswith("onnxruntime")
        if not native and not isinstance(error, (RuntimeError, MemoryError)):
            raise
        code = "out_of_memory" if isinstance(error, MemoryError) else None
        raise EngineError(f"the ONNX engine failed while {doing}: {error}", code=code) from error


def open_session(
    model: str | bytes,
    *,
    threads: int | None,
    initializers: Mapping[str, Array] | None = None,
    folder: Path | None = None,
    device: Device = CPU,
) -> Any:
    """An InferenceSession on a device from a path, or from bytes with its weights in memory or in
    files of a folder.

    onnxruntime copies the arrays in `initializers` while it opens. Raises CapabilityError where it
    cannot use the device.
    """
    ort = onnxruntime()
    _require(device, ort.get_available_providers())
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or default_threads()  # its own choice pins them to cores
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # failures are raised, not printed
    for key, value in SPINNING.items():
        options.add_session_config_entry(key, value)
    if folder is not None:
        options.add_session_config_entry(WEIGHTS_FOLDER, str(folder))
    with native_errors("opening the model"):
        if initializers:
            values = [ort.OrtValue.ortvalue_from_numpy(array) for array in initializers.values()]
            options.add_external_initializers(list(initializers), values)
        providers = [(device.provider, {"device_id": str(device.index)})]
        session = ort.InferenceSession(model, options, providers=providers)
    _require(device, session.get_providers())
    return session


def _require(device: Device, providers: Sequence[str]) -> None:
    """onnxruntime itself would say a word and compute on the CPU."""
    if device.provider not in providers:
        raise CapabilityError(
            f"onnxruntime cannot use {device.provider} here, only {', '.join(providers)}",
            hint="install the onnxruntime that is built for the device, or run on the CPU",
        )


@cache
def signed_kernel_exact() -> bool:
    """Whether uint8 x int8 products are exact on this CPU.

    x86 without VNNI adds pairs of them in 16 bits, which saturates; tried with the largest values.
    """
    nodes = [helper.make_node("MatMulInteger", ["x", "w"], ["y"])]
    x = helper.make_tensor_value_info("x", TensorProto.UINT8, [4, 64])
    y = helper.make_tensor_value_info("y", TensorProto.INT32, [4, 32])
    weight = numpy_helper.from_array(np.full((64, 32), 127, np.int8), "w")
    graph = helper.make_graph(nodes, "probe", [x], [y], initializer=[weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = open_session(model.SerializeToString(), threads=1)
    (result,) = session.run(None, {"x": np.full((4, 64), 255, np.uint8)})
    return bool((result == 255 * 127 * 64).all())


@dataclass(slots=True)
class Binding:
    """Named tensors bound to a session: inputs and outputs are read and written in place.

    Numpy's arrays lie in the host's memory, the KV cache's buffers in the device's.
    """

    session: Any
    device: Device
    _io: Any = field(init=False)
    _alive: dict[str, Array | Buffer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._io = self.session.io_binding()

    def input(self, name: str, array: Array) -> None:
        self._alive[name] = array
        self._io.bind_input(name, *_place(array))

    def output(self, name: str, array: Array) -> None:
        self._alive[name] = array
        self._io.bind_output(name, *_place(array))

    def slots(self, past: str, present: str, buffer: Buffer, slots: slice) -> None:
        """An input and an output over the same slots of a buffer."""
        self._alive[past] = buffer
        shape = (slots.stop - slots.start, *buffer.shape[1:])
        address = buffer.address(slots.start)
        place = (self.device.name, self.device.index, buffer.dtype.type, shape, address)
        self._io.bind_input(past, *place)
        self._io.bind_output(present, *place)

    def run(self) -> None:
        with native_errors("running a step"):
            self.session.run_with_iobinding(self._io)


def _place(array: Array) -> tuple[Any, ...]:
    """What onnxruntime wants to know of an array that it is to read or write in place."""
    address = array.__array_interface__["data"][0]
    return HOST.name, HOST.index, array.dtype.type, array.shape, address


class Step:
    """A bound step of one shape: its small tensors are written in place before each run.

    hidden float32 [batch, new, hidden], lengths int32 [batch], total int32 []; what is wanted of
    it is bound by `want`: final float32 [batch, kept, hidden].
    Large tensors are bound by `bind_cache` and `bind_lora`, which do nothing where nothing moved.
    """

    def __init__(self, session: Any, device: Device, *, batch: int, new: int, hidden: int) -> None:
        self.hidden = np.zeros((batch, new, hidden), np.float32)
        self.lengths = np.zeros(batch, np.int32)
        self.total = np.zeros((), np.int32)
        self.final = np.zeros((batch, 0, hidden), np.float32)
        self._keep, self._heads = np.zeros((2, 0), np.int64)
        self._binding = Binding(session, device)
        self._bound: dict[str, Any] = {}
        for name in ("hidden", "lengths", "total"):
            self._binding.input(name, getattr(self, name))

    def want(self, keep: Sequence[int] | Ids, heads: Sequence[int] | Ids, logits: Floats) -> None:
        """Ask for final states of some new positions, and for logits of some of those.

        heads: of the kept positions, row after row. logits: [heads, vocabulary], to be written.
        """
        if len(keep) != self.final.shape[1] or "want" not in self._bound:
            self._keep = np.zeros(len(keep), np.int64)
            batch, _, hidden = self.final.shape
            self.final = np.zeros((batch, len(keep), hidden), np.float32)
            self._binding.input("keep", self._keep)
            self._binding.output("final", self.final)
        if len(heads) != len(self._heads) or "want" not in self._bound:
            self._heads = np.zeros(len(heads), np.int64)
            self._binding.input("heads", self._heads)
        self._keep[:], self._heads[:] = keep, heads
        self._binding.output("logits", logits[np.newaxis])
        self._bound["want"] = True

    def bind_cache(self, buffers: Sequence[Buffer], first: int) -> None:
        """Point past and present of every layer at the same slots of the KV cache."""
        if self._bound.get("cache") == first:
            return
        slots = slice(first, first + len(self.lengths))
        for index, buffer in enumerate(buffers):
            name = f"{index // 2}.{'value' if index % 2 else 'key'}"
            self._binding.slots(f"past.{name}", f"present.{name}", buffer, slots)
        self._bound["cache"] = first

    def bind_lora(self, slab: Slab, rows: slice) -> None:
        """Point every LoRA input at some rows of a slab."""
        if self._bound.get("lora") == (slab, rows):
            return
        shared = len(self.lengths) > rows.stop - rows.start
        for module, (a, b) in slab.arrays.items():
            held = slab.targets[module].bound(a[rows], b[rows], shared=shared)
            for name, array in held.items():
                self._binding.input(name, array)
        for name, vector in slab.vectors.items():
            self._binding.input(name, vector[rows])
        self._bound["lora"] = (slab, rows)

    def run(self) -> None:
        self._binding.run()
