"""What the linears of a base read of a text, so that it can be made even: see graph.even.

The base runs in float32 block by block, each as a graph of its own, so that one block's weights are
in memory at a time, and a few rows of the text at a time; of what its linears read only sums of
squares and products leave the graph.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
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
from lorakit.graph.codes4 import feedback_of
from lorakit.graph.even import Seen, balanced, evened_moments
from lorakit.graph.quantize import float32
from lorakit.graph.weights import parts
from lorakit.graph.writer import Shape, Writer
from lorakit.text.tokenizer import Tokenizer

TEXT = Path(__file__).with_name("calibration.txt")  # prose in six languages, code, tool calls
LENGTH, ROWS = 128, 8  # tokens of a row, and rows at most: of a longer text from all over it
TOGETHER = 2  # rows that run at a time: more are not faster, and take more memory


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


class Watcher:
    """What linears read of a text, by its name in the graph; asked in the order of the blocks.

    What goes with wide inputs is large, so one block is held, while the next is run.
    """

    def __init__(
        self,
        base: Base,
        tokens: Tokens,
        *,
        narrow: Collection[str] = (),
        threads: int | None,
        device: Device,
        window: Window,
    ) -> None:
        """tokens: int64 [rows, length]. narrow: modules that the feedback is wanted for."""
        opened = partial(open_session, threads=threads, device=device)
        blocks = _run(base, tokens, opened, partial(_Part, base, window, narrow))
        self._next = partial(copy_context().run, next, blocks)
        self._thread = ThreadPoolExecutor(1)
        self._ahead = self._thread.submit(self._next)
        self._seen: dict[str, Seen] = {}

    def __call__(self, x: str) -> Seen:
        """Raises CancelledError when nobody waits for it any more."""
        while x not in self._seen:
            self._seen = self._ahead.result()
            self._ahead = self._thread.submit(self._next)
        return self._seen[x]


def _run(
    base: Base, tokens: Tokens, opened: Callable[..., Any], part_of: Callable[[], _Part]
) -> Iterator[dict[str, Seen]]:
    embedded = Vocabulary(base, {}).embed(tokens.reshape(-1), ())
    hidden = embedded.reshape(*tokens.shape, base.decoder.hidden)
    for index in range(len(base.decoder.layers) + 1):
        if abandoned.get()():
            raise CancelledError("the model was closed while it was opening")
        part = part_of()
        model = part.build(index)
        held = part.store.arrays
        session = opened(model, initializers=held)
        held.clear()  # the session has its own
        with native_errors("calibrating"):
            sums = part.run(session, index, hidden)
        del session
        yield part.seen(sums)


@dataclass(slots=True)
class _Part:
    """A block of a base as a graph, or what follows the last one: the final norm."""

    base: Base
    window: Window
    narrow: Collection[str]
    store: MemoryStore = field(default_factory=MemoryStore)
    weights: dict[str, npt.NDArray[np.float64]] = field(
        default_factory=dict
    )  # squares, by what they multiply
    outputs: list[str] = field(default_factory=list)  # of what linears read
    _writer: Writer = field(init=False)

    def __post_init__(self) -> None:
        self._writer = Writer(self.store)

    def run(self, session: Any, index: int, hidden: Floats) -> dict[str, Floats]:
        """The outputs' sums over all rows; hidden becomes what the part makes of it."""
        sums: dict[str, Floats] = {}
        for begin in range(0, len(hidden), TOGETHER):
            rows = hidden[begin : begin + TOGETHER]
            rows[:], *found = session.run(["out", *self.outputs], self.inputs(index, rows))
            for name, output in zip(self.outputs, found, strict=True):
                sums[name] = sums[name] + output if name in sums else output
        return sums

    def seen(self, sums: Mapping[str, Floats]) -> dict[str, Seen]:
        """By what linears read, from sums of this part's outputs."""
        found = {}
        for x, weights in self.weights.items():
            if not np.isfinite(sums[f"{x}.squares"]).all():
                raise BaseModelError(
                    f"calibrating: the base computes values at {x} that are not finite",
                    hint="look at it with quantize none, or give a calibration text of its own",
                )
            divisors = balanced(sums[f"{x}.squares"], weights)
            moments = sums.get(f"{x}.moments")
            feedback = None if moments is None else feedback_of(evened_moments(moments, divisors))
            found[x] = Seen(divisors, feedback)
        return found

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
            self._watch(HEAD, x, self.base.weight(HEAD))
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
        self._watch(module, x, weight)
        return float32(writer, module, x, weight)

    def _watch(self, module: str, x: str, weight: Array) -> None:
        w, width = self._writer, weight.shape[1]
        if x not in self.weights:
            squares = self._output(f"{x}.squares", [width])
            w.node("ReduceSumSquare", [x, w.shape(0, 1)], squares, keepdims=0)
            self.weights[x] = np.zeros(width)
        if module in self.narrow and f"{x}.moments" not in self.outputs:
            rows = w.node("Reshape", [x, w.shape(-1, width)], f"{x}.rows")
            columns = w.node("Transpose", [rows], f"{x}.columns", perm=[1, 0])
            w.node("MatMul", [columns, rows], self._output(f"{x}.moments", [width, width]))
        for outputs in parts(weight):
            part = weight[outputs].astype(np.float32)
            self.weights[x] += np.einsum("ij,ij->j", part, part)

    def _output(self, name: str, shape: Shape) -> str:
        self.outputs.append(name)
        return self._writer.output(name, shape)
