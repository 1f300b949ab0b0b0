"""Our engine's graph: from a row's hidden states to the logits of the positions asked for.

Inputs, beside LoRA tensors (see graph.lora):
    hidden   float32 [batch, new, hidden]  embedded tokens, scaled as the architecture wants
    lengths  int32 [batch]                 tokens in the row after this step, less one
    total    int32 []                      the longest row's tokens after this step
    keep     int64 [kept]                  which of the new positions `final` is of
    heads    int64 [headed]                which of those, row after row, get logits
    past.N.key, past.N.value   float32 [batch, kv_heads, capacity, head_dim]
Outputs:
    logits   float32 [1, headed, vocabulary]    before soft-capping
    final    float32 [batch, kept, hidden]      what the vocabulary projection read
    present.N.key, present.N.value         to be bound to the memory of their pasts
`keep` and `heads` may be empty.

What lies between is in graph.blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx import TensorProto

from lorakit.architectures import Decoder, Part
from lorakit.base.folder import Base
from lorakit.errors import CapabilityError
from lorakit.graph.blocks import Blocks, Cache, Step, Window, unsupported
from lorakit.graph.head import head
from lorakit.graph.lora import lora, targets
from lorakit.graph.quantize import Sight, float32, float32_apart, form_of, unseen
from lorakit.graph.weights import Store
from lorakit.graph.writer import Shape, Writer

VERSION = 9  # raise it whenever a graph built before would no longer fit the engine
HEAD_STEP = 16  # what onnxruntime's attention with RoPE wants to divide a head's size
WIDE_PARTS: tuple[Part, ...] = ("value", "down")


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphOptions:
    """What of a graph is a choice. Each field is part of a cached graph's key."""

    linear: str = "float32"  # a name in quantize.FORMS
    head: str = "float32"  # likewise, for the vocabulary projection
    context: int = 8192  # positions in the RoPE tables
    window: Window = "inclusive"  # see Blocks
    apart: bool = False  # rows that share an adapter: see graph.lora
    calibration: str = ""  # a digest of what `divisors` of `build` come from


def require_supported(
    decoder: Decoder,
    who: str = "the onnx engine",
    hint: str = 'open it with engine="torch"',
    *,
    fused: bool = True,
) -> None:
    """Raise CapabilityError for a base whose graph cannot be built, naming all of why.

    fused: whether fused projections and experts are computed.
    """
    faults = unsupported(decoder)
    if not fused and any(shape.parts for shape in decoder.modules().values()):
        faults.append("fused projections")
    if not fused and decoder.experts is not None:
        faults.append("a mixture of experts")
    if decoder.head_dim % HEAD_STEP:
        faults.append(f"heads of {decoder.head_dim}, which {HEAD_STEP} does not divide")
    if faults:
        raise CapabilityError(
            f"{who} does not compute {decoder.architecture.model_type} bases",
            items=faults,
            hint=hint,
        )


def build(
    base: Base,
    options: GraphOptions,
    store: Store,
    sight: Sight = unseen,
) -> bytes:
    """The serialized model; its weights go into `store`, one tensor at a time.

    sight: of what linears read, by its name in the graph, asked block by block; see graph.even.
    Raises CapabilityError for an architecture that the graph does not compute.
    """
    require_supported(base.decoder)
    w, d, adapted = Writer(store), base.decoder, targets(base.decoder, apart=options.apart)
    blocks = Blocks(
        base=base,
        writer=w,
        form=form_of(options.linear, sight, wide_modules(base.decoder)),
        router=float32_apart if options.apart else float32,
        context=options.context,
        adapt=lambda module, x, y: lora(w, adapted[module], x, y),
        exact=options.linear == "float32",
        window=options.window,
    )
    x = w.input("hidden", ["batch", "new", d.hidden])
    step = Step(
        lengths=w.input("lengths", ["batch"], TensorProto.INT32),
        total=w.input("total", [], TensorProto.INT32),
        cache=lambda index: _cache(w, d, index),
    )
    for index in range(len(d.layers)):
        x = blocks.block(index, x, step)
    return w.finish(head(blocks, x, options.head, sight).metadata())


def wide_modules(d: Decoder) -> set[str]:
    """Modules that 4 bits harm most, for what they weigh: values, and the MLP's way down."""
    layout = d.architecture.layout
    names = [linear.name for part in WIDE_PARTS if (linear := layout.linear(part))]
    if d.experts is not None:
        names += [f"mlp.experts.down_proj.{number}" for number in range(d.experts.count)]
    return {f"{layout.blocks}.{index}.{name}" for index in range(len(d.layers)) for name in names}


def _cache(w: Writer, d: Decoder, index: int) -> Cache:
    """A layer's past and present: one buffer, with room for `capacity` tokens."""
    shape: Shape = ["batch", d.kv_heads, "capacity", d.head_dim]
    return Cache(
        past=(w.input(f"past.{index}.key", shape), w.input(f"past.{index}.value", shape)),
        present=(
            w.output(f"present.{index}.key", shape),
            w.output(f"present.{index}.value", shape),
        ),
    )
