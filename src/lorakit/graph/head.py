"""The end of our engine's graph: final states of some positions, and logits of some of those.

What the host has to know to multiply a few rows of the vocabulary's matrix as the graph does
(engines.onnx.few_rows) stands in the model's metadata, beside the weights that it belongs to.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from onnx import TensorProto

from lorakit.graph.blocks import Blocks
from lorakit.graph.even import Floats
from lorakit.graph.lora import HEAD
from lorakit.graph.quantize import EVEN, Sight, form_of

METADATA = "lorakit.head"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadForm:
    """How a graph multiplies by the vocabulary's matrix.

    name: one of quantize.FORMS. divisors: [hidden], of what it reads, where that is made even.
    narrow: whether scales of blocks are in float16.
    """

    name: str
    divisors: Floats | None = None
    narrow: bool = False

    def metadata(self) -> dict[str, str]:
        """To stand in the model, exact to the bit."""
        divisors = None if self.divisors is None else self.divisors.astype("<f4").tobytes()
        said = {
            "form": self.name,
            "divisors": None if divisors is None else base64.b64encode(divisors).decode(),
            "narrow": self.narrow,
        }
        return {METADATA: json.dumps(said, sort_keys=True)}

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> Self:
        """What `metadata` wrote."""
        said = json.loads(metadata[METADATA])
        text = said["divisors"]
        divisors = None if text is None else np.frombuffer(base64.b64decode(text), "<f4")
        found = None if divisors is None else divisors.astype(np.float32)
        return cls(name=said["form"], divisors=found, narrow=said["narrow"])


def head(blocks: Blocks, x: str, name: str, sight: Sight) -> HeadForm:
    """Adds `keep`, `heads`, `final` and `logits`. sight: see quantize.form_of.

    Logits are of single rows, not of positions: where a few rows of a batch need none, their
    share of the largest product of a step is saved.
    """
    w, d = blocks.writer, blocks.base.decoder
    keep = w.input("keep", ["kept"], TensorProto.INT64)
    heads = w.input("heads", ["headed"], TensorProto.INT64)
    kept = w.node("Gather", [x, keep], "kept", axis=1)
    final = blocks.norm(d.architecture.layout.final_norm, kept)
    seen = sight(final) if name in EVEN else None
    rows = w.node("Reshape", [final, w.shape(1, -1, d.hidden)], "kept.rows")
    some = w.node("Gather", [rows, heads], "headed", axis=1)
    logits = blocks.plain_linear(HEAD, some, form_of(name, lambda _: seen))
    w.node("Identity", [logits], w.output("logits", [1, "headed", d.vocabulary]))
    w.node("Identity", [final], w.output("final", ["batch", "kept", d.hidden]))
    scales = f"{HEAD}.weight.scale"
    return HeadForm(
        name=name,
        divisors=None if seen is None else seen.divisors,
        narrow=w.stored(scales) and w.kind(scales) == TensorProto.FLOAT16,
    )
