"""What the linears of a base read of a text, so that it can be made even: see graph.even.

The base runs in float32 block by block, each as a graph of its own, so that one block's weights are
in memory at a time; of what its linears read only the mean squares leave the graph.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from onnx import TensorProto

from lorakit.adapter import Array
from lorakit.base.folder import Base
from lorakit.engines.onnx.device import Device, Floats
from lorakit.engines.onnx.options import OnnxOptions
from lorakit.engines.onnx.ort import native_errors, open_session
from lorakit.engines.onnx.vocabulary import Vocabulary
from lorakit.engines.protocol import Tokens, abandoned
from lorakit.errors import BaseModelError, CancelledError, ParameterError, SourceError
from lorakit.files.bounded import read_text
from lorakit.files.cache import digest_of
from lorakit.graph import HEAD, MemoryStore, Window
from lorakit.graph.blocks import Blocks, Cache, Step
from lorakit.graph.even import balanced
from lorakit.graph.quantize import float32
from lorakit.graph.weights import parts
from lorakit.graph.writer import Shape, Writer
from lorakit.text.tokenizer import Tokenizer

TEXT = Path(__file__).with_name("calibration.txt")  # prose in six languages, code, tool calls
LENGTH, ROWS = 128, 8  # tokens of a row, and rows at most: of a longer text from all over it


@dataclass(frozen=True, slots=True)
class Calibration:
    """A text to calibrate with."""

    text: str

    @classmethod
    def of(cls, options: OnnxOptions) -> Calibration:
        """The user's text, or ours. Raises SourceError, FormatError and ParameterError."""
        path = Path(options.calibration or TEXT).expanduser()
        text = read_text(path)
        if not text.strip():
            raise ParameterError(f"the calibration text {path} is empty")
        return cls(text)

    def digest(self, base: Base) -> str:
        """Of the text and of the tokenizer that cuts it, which the base's fingerprint leaves out.

        Raises SourceError.
        """
        found = hashlib.sha256(self.text.encode())
        tokenizer = base.path / "tokenizer.json"
        try:
            if tokenizer.exists():
                found.update(digest_of(tokenizer).encode())
        except OSError as error:
            raise SourceError(f"cannot read {tokenizer}: {error.strerror or error}") from error
        return found.hexdigest()[:16]

    def tokens(self, base: Base) -> Tokens:
        """Rows of the text; of random tokens for a base that has no tokenizer.

        Raises FormatError for a broken tokenizer, ParameterError for a text without tokens.
        """
        try:
            ids = np.array(Tokenizer.open(base.path).encode(self.text, special=False), np.int64)
        except BaseModelError as error:
            if error.code != "tokenizer_missing":
                raise
            rng = np.random.default_rng(0)
            ids = rng.integers(0, base.decoder.vocabulary, LENGTH * ROWS)
        ids = ids[ids < base.decoder.vocabulary]  # tokenizers may know more than there are rows
        if not len(ids):
            raise ParameterError("the calibration text has no tokens that the model knows")
        length = min(LENGTH, len(ids), base.decoder.context)
        rows = ids[: len(ids) // length * length].reshape(-1, length)
        chosen = np.linspace(0, len(rows) - 1, min(ROWS, len(rows))).round().astype(int)
        taken: Tokens = rows[chosen]
        return taken


def divisors(
    base: Base, tokens: Tokens, *, threads: int | None, device: Device, window: Window
) -> dict[str, Floats]:
    """Of everything that linears read, by its name in the graph: see graph.even.

    tokens: int64 [rows, length]. Raises CancelledError when nobody waits for it any more.
    """
    found: dict[str, Floats] = {}
    embedded = Vocabulary(base, {}).embed(tokens.reshape(-1), ())
    hidden = embedded.reshape(*tokens.shape, base.decoder.hidden)
    for index in range(len(base.decoder.layers) + 1):
        if abandoned.get()():
            raise CancelledError("the model was closed while it was opening")
        part = _Part(base, window)
        model = part.build(index)
        held = part.store.arrays
        session = open_session(model, threads=threads, initializers=held, device=device)
        held.clear()  # the session has its own
        with native_errors("calibrating"):
            hidden, *seen = session.run(["out", *part.outputs], part.inputs(index, hidden))
        for (x, weights), squares in zip(part.weights.items(), seen, strict=True):
            found[x] = balanced(squares, weights)
    return found


@dataclass(slots=True)
class _Part:
    """A block of a base as a graph, or what follows the last one: the final norm."""

    base: Base
    window: Window
    store: MemoryStore = field(default_factory=MemoryStore)
    weights: dict[str, Floats] = field(default_factory=dict)  # squares, by what they multiply
    _writer: Writer = field(init=False)

    def __post_init__(self) -> None:
        self._writer = Writer(self.store)

    @property
    def outputs(self) -> list[str]:
        """The mean squares of what linears read, in the order of `weights`."""
        return [f"{x}.squares" for x in self.weights]

    def build(self, index: int) -> bytes:
        w, d = self._writer, self.base.decoder
        blocks = Blocks(
            base=self.base,
            writer=w,
            form=self._watched,
            context=LENGTH,
            exact=True,
            window=self.window,
        )
        x = w.input("hidden", ["batch", "new", d.hidden])
        if index < len(d.layers):
            shape: Shape = ["batch", d.kv_heads, "new", d.head_dim]
            past = (w.input("past.key", shape), w.input("past.value", shape))
            cache = Cache(past=past, present=("present.key", "present.value"))
            step = Step(
                lengths=w.input("lengths", ["batch"], TensorProto.INT32),
                total=w.input("total", [], TensorProto.INT32),
                cache=lambda _: cache,
            )
            x = blocks.block(index, x, step)
        else:
            x = blocks.norm(d.architecture.layout.final_norm, x)
            self._watch(x, self.base.weight(HEAD))
        w.node("Identity", [x], w.output("out", ["batch", "new", d.hidden]))
        return w.finish()

    def inputs(self, index: int, hidden: Floats) -> dict[str, Array]:
        d = self.base.decoder
        if index == len(d.layers):
            return {"hidden": hidden}
        rows, length, _ = hidden.shape
        nothing = np.zeros((rows, d.kv_heads, length, d.head_dim), np.float32)
        return {
            "hidden": hidden,
            "past.key": nothing,
            "past.value": nothing,
            "lengths": np.full(rows, length - 1, np.int32),
            "total": np.array(length, np.int32),
        }

    def _watched(self, writer: Writer, module: str, x: str, weight: Array) -> str:
        """A float32 linear, whose input and weight are noted."""
        self._watch(x, weight)
        return float32(writer, module, x, weight)

    def _watch(self, x: str, weight: Array) -> None:
        if x not in self.weights:
            w, width = self._writer, weight.shape[1]
            square = w.node("Mul", [x, x], f"{x}.square")
            means = w.output(f"{x}.squares", [width])
            w.node("ReduceMean", [square, w.shape(0, 1)], means, keepdims=0)
            self.weights[x] = np.zeros(width, np.float32)
        for rows in parts(weight):
            self.weights[x] += np.square(weight[rows].astype(np.float32)).sum(axis=0)
