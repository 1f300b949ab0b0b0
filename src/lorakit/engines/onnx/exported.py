"""An exported model: a graph that `lorakit export --to onnx` wrote, run as it is.

The graph goes from token ids to logits (graph.web). Keys and values are read and written in place,
as for our own graph: a step runs once for all rows with a single new token, whose lengths the mask
says, and once for each row with more. Adapters are those that the graph has inputs for, or holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from lorakit.adapter import Adapter, Array
from lorakit.base.exported import Exported
from lorakit.base.folder import Base
from lorakit.check import require_fit
from lorakit.engines.onnx.device import CPU, HostBuffer
from lorakit.engines.onnx.graph_file import built_in, read_graph
from lorakit.engines.onnx.kv_cache import KVCache
from lorakit.engines.onnx.lora_feeds import LoraFeeds
from lorakit.engines.onnx.options import OnnxOptions
from lorakit.engines.onnx.ort import Binding, onnxruntime, open_session
from lorakit.engines.onnx.plan import MAX_NEW
from lorakit.engines.onnx.semantics import window_reading
from lorakit.engines.onnx.sequences import SequenceEngine, capabilities_of
from lorakit.engines.onnx.together import effective
from lorakit.engines.protocol import AdapterSet, Logits, Prepared, Row, Tokens
from lorakit.engines.steps import check_rows, refuse_images, require_attached
from lorakit.errors import CapabilityError, EngineError, FormatError
from lorakit.formats.web import cannot_express
from lorakit.graph import targets
from lorakit.graph.composed import SELECTOR

TOKENS, MASK, KEEP, LOGITS = "input_ids", "attention_mask", "num_logits_to_keep", "logits"
DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
}


class ExportedEngine(SequenceEngine):
    """An open export."""

    def __init__(
        self, base: Base, exported: Exported, options: OnnxOptions, session: Any, digest: str
    ) -> None:
        dtype = _hidden_dtype(session, base, exported)
        capabilities = capabilities_of(
            options,
            vocabulary=base.decoder.vocabulary,
            context=exported.context,
            kv_identity=f"onnx export, onnxruntime {onnxruntime().__version__}, {digest}, {dtype}",
        )
        kv = KVCache(
            base.decoder,
            partial(HostBuffer.untouched, dtype=dtype),
            slots=capabilities.max_sequences,
            context=capabilities.context,
            dtype=dtype,
        )
        super().__init__(base, session, capabilities, kv)
        self._exported = exported
        self._lora = LoraFeeds(targets(base.decoder) if exported.kind == "dynamic" else {}, dtype)
        held = built_in(exported) if exported.kind == "composed" else {}
        self._numbers = {adapter.digest: n for n, adapter in enumerate(held.values(), 1)}
        self._attached: dict[int, int] = {}  # number in the graph by handle; 0: an input
        self._binding: Binding | None = None
        self._bound: dict[str, Any] = {}  # what of it need not be bound again
        self._logits: Logits = np.zeros((options.max_batch, 1, base.decoder.vocabulary), np.float32)

    @classmethod
    def open(cls, base: Base, exported: Exported, options: OnnxOptions) -> ExportedEngine:
        """Load the graph in the form that the options name, or the export's own default.

        Raises CapabilityError for a form that it has not, FormatError and SourceError for files
        that are missing or damaged, EngineError where onnxruntime refuses or computes otherwise.
        """
        if options.calibration is not None:
            raise CapabilityError(
                f"{base.name} is an exported model: it was calibrated when it was made",
                hint="leave the calibration text out",
            )
        exported = exported.in_form(options.quantize)
        _, content = read_graph(exported)
        if window_reading(CPU, ()) != "inclusive" and any(x.window for x in base.decoder.layers):
            raise EngineError(
                f"onnxruntime {onnxruntime().__version__} counts a sliding window otherwise than "
                "the export means",
                hint="install onnxruntime 1.24 or newer",
            )
        session = open_session(str(exported.graph), threads=options.threads)
        weights = exported.digests[f"{exported.graphs[exported.form]}_data"]
        digest = hashlib.sha256(content + weights.encode()).hexdigest()
        return cls(base, exported, options, session, digest)

    def shortest_row(self, adapters: AdapterSet) -> int:
        return 1

    def prepare(self, adapter: Adapter) -> Prepared:
        number = self._numbers.get(adapter.digest, 0)
        if not number:
            require_applicable(adapter, self._exported)
            require_fit(adapter, self._base)
        return Prepared(adapter=adapter, content=number)

    def attach(self, prepared: Prepared) -> int:
        self._require_open()
        handle = next(self._handles)
        self._attached[handle] = prepared.content
        self._lora.attach(handle, prepared.adapter)
        return handle

    def detach(self, handle: int) -> None:
        self._require_open()
        require_attached(handle, self._attached)
        del self._attached[handle]
        self._lora.detach(handle)
        self._unbind()  # they keep its tensors alive

    def hidden(self, parts: Sequence[tuple[Tokens, AdapterSet]]) -> npt.NDArray[np.float32]:
        raise CapabilityError(
            "an exported model gives logits, and no hidden states to embed a text with",
            hint=f"open the base that it was made from: {self._exported.base_name}",
        )

    def close(self) -> None:
        self._unbind()
        self._attached.clear()
        self._kv.free()
        self._lora, self._logits = LoraFeeds({}, self._kv.dtype), self._logits[:0].copy()
        self._session = None

    def _decode(self, rows: Sequence[Row], first: int) -> dict[int, Logits]:
        """One new token for each of several rows, in one run; they sit in slots from `first`."""
        lengths = [self._kv.length(row.sequence) + 1 for row in rows]
        mask = (np.arange(max(lengths)) < np.array(lengths)[:, np.newaxis]).astype(np.int64)
        found = self._run(np.stack([row.tokens for row in rows]), mask, rows, first, keep=1)
        return {row.sequence: found[at, : len(row.positions)] for at, row in enumerate(rows)}

    def _prefill(self, row: Row) -> Logits:
        """Many new tokens of one row, in chunks."""
        first, _ = self._kv.arrange([row.sequence])
        length, positions = self._kv.length(row.sequence), np.array(row.positions, np.int64)
        parts: list[Logits] = []
        for begin in range(0, len(row.tokens), MAX_NEW):
            tokens = row.tokens[np.newaxis, begin : begin + MAX_NEW]
            end = begin + tokens.shape[1]
            mask = np.ones((1, length + end), np.int64)
            asked = positions[(begin <= positions) & (positions < end)]
            keep = end - int(asked[0]) if len(asked) else 1  # the graph gives the last ones
            found = self._run(tokens, mask, [row], first, keep=keep)[0]
            if not 1 < len(asked) == keep:  # of one there is one buffer for all
                found = found[asked - (end - keep)]
            parts.append(found)
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def _run(
        self, tokens: Tokens, mask: Tokens, rows: Sequence[Row], first: int, *, keep: int
    ) -> Logits:
        """Logits [rows, keep, vocabulary] of rows that sit in slots from `first`."""
        shape = (len(rows), keep, self._capabilities.vocabulary)
        logits = self._logits[: len(rows)] if keep == 1 else np.empty(shape, np.float32)
        fed = self._feeds([effective(row.adapters) for row in rows])
        binding = self._bind(slice(first, first + len(rows)), fed)
        binding.input(TOKENS, np.ascontiguousarray(tokens, np.int64))
        binding.input(MASK, mask)
        binding.input(KEEP, np.array(keep, np.int64))
        binding.output(LOGITS, logits)
        binding.run()
        return logits

    def _feeds(self, sets: Sequence[AdapterSet]) -> dict[str, Array]:
        if self._exported.kind == "dynamic":
            return self._lora.of(sets)
        if self._exported.kind == "composed":
            numbers = [self._attached[held[0][0]] if held else 0 for held in sets]
            return {SELECTOR: np.array(numbers, np.int64)}
        return {}

    def _bind(self, slots: slice, fed: dict[str, Array]) -> Binding:
        """A binding with the slots of the KV cache and these inputs."""
        if self._binding is None:
            self._binding = Binding(self._session, CPU)
        if self._bound.get("slots") != slots:
            for index, buffer in enumerate(self._kv.buffers):
                name = f"{index // 2}.{'value' if index % 2 else 'key'}"
                self._binding.slots(f"past_key_values.{name}", f"present.{name}", buffer, slots)
            self._bound["slots"] = slots
        if self._bound.get("fed") is not fed:
            for name, array in fed.items():
                self._binding.input(name, array)
            self._bound["fed"] = fed
        return self._binding

    def _unbind(self) -> None:
        self._binding = None
        self._bound.clear()

    def _check(self, rows: Sequence[Row]) -> None:
        """Refuse what cannot run before anything is touched."""
        check_rows(rows, self._capabilities, self._kv.length, self._attached)
        refuse_images(rows)
        if self._exported.kind == "composed":
            for row in rows:
                _require_choice(effective(row.adapters), self._exported.names)


def _hidden_dtype(session: Any, base: Base, exported: Exported) -> np.dtype[Any]:
    """Of keys, values and LoRA tensors. Raises FormatError where the graph is another's than the
    config and the record describe."""
    decoder = base.decoder
    names = {TOKENS, MASK, KEEP} | ({SELECTOR} if exported.kind == "composed" else set())
    for target in targets(decoder).values() if exported.kind == "dynamic" else ():
        names |= {target.a, target.b}
    parts = [f"{n}.{part}" for n in range(len(decoder.layers)) for part in ("key", "value")]
    cache = {f"past_key_values.{part}" for part in parts}
    given = {each.name: each for each in session.get_inputs()}
    outputs = {each.name: each for each in session.get_outputs()}
    faults = [f"{name}: there is no such input" for name in sorted((names | cache) - set(given))]
    faults += [f"{name}: nothing is known of it" for name in sorted(set(given) - names - cache)]
    wanted = {LOGITS, *(f"present.{part}" for part in parts)}
    faults += [f"{name}: there is no such output" for name in sorted(wanted - set(outputs))]
    if LOGITS in outputs and outputs[LOGITS].shape[-1] != decoder.vocabulary:
        found = f"{outputs[LOGITS].shape[-1]!r:.40}"
        faults.append(f"{LOGITS}: expected {decoder.vocabulary} of a token, found {found}")
    shape = (decoder.kv_heads, decoder.head_dim)
    faults += [
        f"{name}: expected {shape[0]} heads of {shape[1]}, found {given[name].shape!r:.80}"
        for name in sorted(cache & set(given))
        if tuple(given[name].shape[1::2]) != shape
    ]
    kinds = {given[name].type for name in cache & set(given)}
    if faults or not kinds <= DTYPES.keys() or len(kinds) != 1:
        raise FormatError(
            f"{exported.graph} is not the graph that config.json and the record describe",
            items=faults[:20] or sorted(kinds),
            hint="export again",
        )
    return DTYPES[kinds.pop()]


def _require_choice(held: AdapterSet, names: Sequence[str]) -> None:
    """A composed graph adds one of its adapters to a row, as it was exported."""
    if len(held) > 1 or any(scale != 1 for _, scale in held):
        raise CapabilityError(
            "this export holds adapters of which one acts at a time, at the scale that it was "
            "exported with: 1, or 0 for the base",
            items=[f"it holds {name}" for name in names],
            hint="export with --adapters dynamic for several at once, or other scales",
        )


def require_applicable(adapter: Adapter, exported: Exported) -> None:
    """Raise CapabilityError for what an export has no inputs for, or what those cannot say; where
    an adapter begins to act is the runtime's business."""
    name = exported.base_name
    if exported.kind == "composed":
        raise CapabilityError(
            "this export holds its adapters, and takes no others",
            items=[f"it holds {each}" for each in exported.names],
            hint=f"apply one of them by its name, or open the base that it was made from: {name}",
        )
    if exported.kind != "dynamic":
        held = f", and has {', '.join(exported.names)} in it" if exported.names else ""
        raise CapabilityError(
            f"this export was made without inputs for adapters{held}",
            hint=f"open the base that it was made from: {name}; or export that with "
            "--adapters dynamic",
        )
    faults = cannot_express(replace(adapter, invocation_tokens=()))
    if faults:
        raise CapabilityError(
            "an exported model cannot apply this adapter at run time",
            items=[str(fault) for fault in faults],
            hint=f"open the base that it was made from, {name}, or export it with the adapter "
            "merged",
        )
