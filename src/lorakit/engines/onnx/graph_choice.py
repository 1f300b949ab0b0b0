"""Which graph of a base serves a user's options on this machine, and what its KV depends on."""

from __future__ import annotations

import math

from lorakit.architectures import Decoder
from lorakit.base.folder import Base
from lorakit.engines.onnx.calibration import Calibration
from lorakit.engines.onnx.device import Device
from lorakit.engines.onnx.options import CALIBRATED, OnnxOptions, Quantization
from lorakit.engines.onnx.ort import onnxruntime, signed_kernel_exact
from lorakit.engines.onnx.semantics import window_reading
from lorakit.engines.protocol import MAX_CONTEXT
from lorakit.graph import VERSION, GraphOptions
from lorakit.graph.quantize import EVEN

FORMS: dict[Quantization, tuple[str, str]] = {  # of linears and of the vocabulary projection
    "none": ("float32", "float32"),
    "fp16": ("float16", "float16"),
    "int8": ("rowwise8", "rowwise8"),
    "int4": ("block4", "rowwise8"),
}
SMALL_BATCH = 4  # up to so many rows the head is faster in blocks, which are read faster


def kv_identity(graph: GraphOptions) -> str:
    """The head's form is not in it: nothing of the head comes into the KV cache."""
    linear = f"{graph.linear} {graph.calibration}" if graph.linear in EVEN else graph.linear
    return f"onnx, onnxruntime {onnxruntime().__version__}, graph {VERSION}, {linear}, f32"


def graph_of(
    base: Base, options: OnnxOptions, device: Device, text: Calibration | None
) -> GraphOptions:
    """Which graph serves these options on this machine, in this onnxruntime. Raises EngineError."""
    linear, head = FORMS[options.quantize]
    if head == "rowwise8" and options.max_batch <= SMALL_BATCH:
        head = "block8"
    if "rowwise8" in (linear, head) and not signed_kernel_exact():
        linear, head = (name.replace("rowwise8", "rowwise8_unsigned") for name in (linear, head))
    context = min(max(MAX_CONTEXT, options.context or 0), base.decoder.context)
    window = window_reading(device, (linear, head))
    return GraphOptions(
        linear=linear,
        head=head,
        context=context,
        window=window,
        apart=options.quantize in CALIBRATED,
        calibration=text.digest(base) if text and {linear, head} & set(EVEN) else "",
    )


def weights_of(decoder: Decoder, graph: GraphOptions) -> int:
    """Bytes that a session holds of them, about."""
    whole = graph.linear in ("float32", "float16")  # widened when it opens
    return sum(math.prod(shape) for shape in decoder.parameters().values()) * (4 if whole else 1)
