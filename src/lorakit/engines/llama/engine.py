"""The llama.cpp engine: a GGUF model with adapters that change at any step.

Rows with the same adapters run in one decode. Each set of adapters has its own context, up to the
limit on contexts, so that mixed batches do not switch sets at every step.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lorakit.adapter import Adapter
from lorakit.base.folder import Base
from lorakit.check import require_fit
from lorakit.engines.llama.acting import require_acting
from lorakit.engines.llama.adapter_file import native_file, require_rows
from lorakit.engines.llama.child_process import library_digest
from lorakit.engines.llama.context import Context, Piece, Set, flash_attention, kv_type
from lorakit.engines.llama.context_pool import ContextPool
from lorakit.engines.llama.memory import most_slots
from lorakit.engines.llama.model import Factors, load_model, repacks, rope_factors
from lorakit.engines.llama.native import Abort, captured_log, llama
from lorakit.engines.llama.options import LlamaOptions
from lorakit.engines.llama.pace import Pace
from lorakit.engines.llama.preflight import preflight_projector
from lorakit.engines.llama.recurrent import is_recurrent
from lorakit.engines.llama.row_pieces import decodes, pieces, require_whole_images
from lorakit.engines.llama.vision import Vision
from lorakit.engines.protocol import (
    MAX_CONTEXT,
    AdapterSet,
    Capabilities,
    Logits,
    Prepared,
    Row,
    Tokens,
)
from lorakit.engines.steps import check_rows, require_attached
from lorakit.engines.threads import default_threads
from lorakit.errors import (
    CapabilityError,
    ClosedError,
    EngineError,
    ParameterError,
)
from lorakit.text.image_ids import Image

KNOWN_SETS = 1024  # checked adapter sets to remember
TRIAL = (1, 2, 3, 4)  # tokens that show whether a delta acts; one alone attends to itself
PREFILL_CHUNK = 128  # tokens per prefill step while other rows decode


class LlamaEngine:
    """An open GGUF model. Its methods are documented in lorakit.engines.protocol.Engine."""

    @classmethod
    def open(cls, base: Base, options: LlamaOptions) -> LlamaEngine:
        """Load the base's file, and the projector if LlamaOptions names one.

        Raises EngineError with llama.cpp's log.
        """
        engine = cls(base, options)
        try:
            if options.mmproj is not None:
                engine.open_vision(Path(options.mmproj))
        except BaseException:
            engine.close()
            raise
        return engine

    def __init__(self, base: Base, options: LlamaOptions) -> None:
        self._base = base
        self._options = options
        self._threads = options.threads or default_threads()
        architecture = base.decoder.architecture.gguf or ""
        trained = int(base.config.get("max_position_embeddings") or MAX_CONTEXT)
        longest = min(options.context or MAX_CONTEXT, trained)
        factors = rope_factors(base.path, architecture, longest)
        self._model = load_model(base.path, options, architecture=architecture, factors=factors)
        api = llama()
        most = most_slots(int(api.llama_model_n_swa(self._model)))
        if options.max_batch > most:
            api.llama_model_free(self._model)
            raise ParameterError(f"max_batch: this model runs at most {most} rows at once")
        made_for = int(api.llama_model_n_ctx_train(self._model))
        self._capabilities = Capabilities(
            engine="llama",
            vocabulary=int(api.llama_vocab_n_tokens(api.llama_model_get_vocab(self._model))),
            context=min(longest, made_for),
            max_batch=options.max_batch,
            max_sequences=min(options.max_batch + options.cached_sequences, most),
            mixed_batch=False,
            kv_identity=_kv_identity(self._model, options, factors),
            prefill_chunk=min(PREFILL_CHUNK, options.micro_batch),
            prefill_alone=options.micro_batch,
            longest=min(trained, made_for),
        )
        self._abort = Abort()
        self._pace = Pace(self._threads)
        self._pool = ContextPool(self._new_context, options.contexts, self._capabilities)
        self._adapters: dict[int, Any] = {}  # native adapters by handle
        self._sets: dict[AdapterSet, Set] = {}  # by what was asked for, see _effective
        self._acting: set[str] = set()  # see acting.py
        self._handles = itertools.count(1)
        self._vision: Vision | None = None
        self._logits = np.zeros((options.max_batch, self._capabilities.vocabulary), np.float32)

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    # Images.

    def open_vision(self, path: Path) -> None:
        """Load a projector (mmproj), so that prompts may contain images.

        It is first tried in a child process. Raises what Vision and preflight_projector raise.
        """
        self._require_open()
        if self._vision is not None:
            raise EngineError("a projector is already loaded")
        preflight_projector(path, self._base.path, self._threads)
        self._vision = Vision(self._model, path, threads=self._threads)

    def encode_image(self, content: bytes) -> Image:
        """An image file as a prompt's ids and vectors. Thread-safe.

        Raises CapabilityError if no projector is loaded, and what Vision.encode raises.
        """
        vision = self._vision
        if vision is None:
            self._require_open()
            raise CapabilityError(
                "this model was opened without a projector, so it cannot read images",
                hint="open it with mmproj=, the second GGUF file of a vision model",
            )
        return vision.encode(content)

    # Adapters.

    def shortest_row(self, adapters: AdapterSet) -> int:
        return 1

    def prepare(self, adapter: Adapter) -> Prepared:
        """Check an adapter and write its GGUF file into the cache."""
        require_rows(adapter, self._base)
        require_fit(adapter, self._base)
        with native_file(adapter, self._base):
            """Written to the cache, and verified."""
        return Prepared(adapter=adapter)

    def attach(self, prepared: Prepared) -> int:
        self._require_open()
        if self._base.decoder.is_foreign:
            modules = [delta.module for delta in prepared.adapter.deltas]
            require_acting(modules, self._base.decoder, self._acting, self._tried)
        native = self._load(prepared.adapter)
        handle = next(self._handles)
        self._adapters[handle] = native
        return handle

    def _load(self, adapter: Adapter) -> Any:
        with native_file(adapter, self._base) as path, captured_log() as native_log:
            native = llama().llama_adapter_lora_init(self._model, os.fsencode(path))
        if not native:
            raise EngineError("llama.cpp cannot load the adapter", items=native_log.reasons)
        return native

    def _tried(self, adapter: Adapter) -> Logits:
        """Logits of a few tokens in a context of their own."""
        tokens = np.asarray(TRIAL, np.int64) % self._capabilities.vocabulary
        result = np.empty((len(tokens), self._capabilities.vocabulary), np.float32)
        native = self._load(adapter) if adapter.deltas else None
        context = self._new_context(len(tokens))
        try:
            slot = context.open()
            context.use(((native, 1.0),) if native else ())
            context.decode([Piece(slot, 0, tokens, range(len(tokens)))], [result])
        finally:
            context.free()
            if native:
                llama().llama_adapter_lora_free(native)
        return result

    def detach(self, handle: int) -> None:
        self._require_open()
        require_attached(handle, self._adapters)
        self._pool.forget(self._adapters[handle])
        native = self._adapters.pop(handle)
        self._sets.clear()
        llama().llama_adapter_lora_free(native)

    # Sequences.

    def open_sequence(self) -> int:
        self._require_open()
        return self._pool.open()

    def length(self, sequence: int) -> int:
        self._require_open()
        return self._pool.length(sequence)

    def reusable(self, sequence: int, length: int) -> int:
        self._require_open()
        return self._pool.reusable(sequence, length)

    def truncate(self, sequence: int, length: int) -> None:
        self._require_open()
        self._pool.truncate(sequence, length)

    def fork(self, sequence: int, length: int) -> int:
        self._require_open()
        return self._pool.fork(sequence, length)

    def close_sequence(self, sequence: int) -> None:
        self._require_open()
        self._pool.close(sequence)

    def save_sequence(self, sequence: int) -> bytes:
        self._require_open()
        self._require_kv()
        return self._pool.save(sequence)

    def load_sequence(self, state: bytes, length: int) -> int:
        self._require_open()
        self._require_kv()
        return self._pool.load(state, length)

    def _require_kv(self) -> None:
        if is_recurrent(self._model):
            raise CapabilityError(
                "states of models with a recurrent state are not saved",
                hint="keep the model open: a conversation goes on from its state",
            )

    # Running.

    def hidden(self, parts: Sequence[tuple[Tokens, AdapterSet]]) -> npt.NDArray[np.float32]:
        self._require_open()
        self._abort.clear()
        context = self._new_context(sum(len(tokens) for tokens, _ in parts), embeddings=True)
        found = []
        try:
            slot = context.open()
            for tokens, adapters in parts:
                context.use(self._effective(adapters))
                found.append(np.empty((len(tokens), context.width), np.float32))
                piece = Piece(slot, context.lengths[slot], tokens, range(len(tokens)))
                context.decode([piece], found[-1:])
            return np.concatenate(found)
        finally:
            context.free()

    def interrupt(self) -> None:
        """Make a running `forward` raise CancelledError. Thread-safe."""
        self._abort.set()

    def forward(self, rows: Sequence[Row]) -> list[Logits]:
        self._require_open()
        self._check(rows)
        self._abort.clear()
        results = self._results(rows)
        lengths = {row.sequence: self._pool.length(row.sequence) for row in rows}
        groups: dict[Set, list[int]] = {}
        for index, row in enumerate(rows):
            groups.setdefault(self._effective(row.adapters), []).append(index)
        try:
            for chosen in self._pool.in_order(groups):
                self._run(chosen, [(rows[i], results[i]) for i in groups[chosen]], groups)
        except BaseException:
            for sequence, length in lengths.items():
                self._pool.restore(sequence, length)
            raise
        return results

    def _run(
        self, chosen: Set, work: list[tuple[Row, Logits]], step: Mapping[Set, list[int]]
    ) -> None:
        """Decode rows that share a set of adapters: at once, if one context can hold them all."""
        by_sequence = {row.sequence: (row, result) for row, result in work}
        tokens = {row.sequence: len(row.tokens) for row, _ in work}
        causal = self._vision is None or self._vision.causal
        for context, sequences in self._pool.place(chosen, tokens, step):
            parts: list[tuple[Piece, Logits]] = []
            for name in sequences:
                seat = self._pool[name]
                parts += pieces(*by_sequence[name], seat.slot, seat.length, causal=causal)
            for decoded in decodes(parts):
                context.decode([piece for piece, _ in decoded], [result for _, result in decoded])

    def _results(self, rows: Sequence[Row]) -> list[Logits]:
        """Buffers for the rows' logits; the engine's own for rows of at most one position."""
        wide = self._capabilities.vocabulary
        return [
            np.empty((count, wide), np.float32)
            if (count := len(row.positions)) > 1
            else self._logits[at : at + count]
            for at, row in enumerate(rows)
        ]

    def _new_context(self, cells: int, *, embeddings: bool = False) -> Context:
        return Context(
            self._model,
            cells=cells,
            slots=self._capabilities.max_sequences,
            options=self._options,
            pace=self._pace,
            outputs=self._capabilities.max_sequences,
            abort=self._abort,
            embeddings=embeddings,
        )

    # Checks.

    def _effective(self, adapters: AdapterSet) -> Set:
        """Native adapters with scales; the scales of an adapter named twice are added.

        Raises EngineError for an unknown handle, ParameterError for a scale that is not finite.
        """
        if (known := self._sets.get(adapters)) is not None:
            return known
        scales: dict[int, float] = {}
        for handle, scale in adapters:
            require_attached(handle, self._adapters)
            if not math.isfinite(scale):
                raise ParameterError(f"a scale must be finite, found {scale}")
            scales[handle] = scales.get(handle, 0.0) + scale
        found = tuple((self._adapters[h], s) for h, s in scales.items() if s != 0.0)
        if len(self._sets) >= KNOWN_SETS:
            self._sets.clear()
        self._sets[adapters] = found
        return found

    def _check(self, rows: Sequence[Row]) -> None:
        """Refuse rows that cannot run, before anything changes."""
        check_rows(rows, self._capabilities, self._pool.length, self._adapters)
        for row in rows:
            if int(row.tokens[0] if len(row.tokens) == 1 else row.tokens.min()) < 0:
                require_whole_images(row, self._vision, self._options.micro_batch)

    def _require_open(self) -> None:
        if self._model is None:
            raise ClosedError("the engine is closed")

    def close(self) -> None:
        """Contexts first, then adapters, then the model: any other order crashes llama.cpp."""
        if self._model is None:
            return
        if self._vision:  # first: it uses the model's vocabulary
            self._vision.close()
        self._pool.free()
        for native in self._adapters.values():
            llama().llama_adapter_lora_free(native)
        self._adapters.clear()
        llama().llama_model_free(self._model)
        self._model = None
        self._logits = self._logits[:0].copy()


def _kv_identity(model: Any, options: LlamaOptions, factors: Factors) -> str:
    """See Capabilities. It names all that changes rounding: kernels, attention, device."""
    kind = kv_type(model, options)
    parts = {
        "llama.cpp": library_digest()[:16],
        "KV": kind,
        "flash attention": flash_attention(kind, options),
        "device": "gpu" if options.gpu_layers else "cpu",
        "repacked": repacks(options),
        "RoPE factors": factors or "of the file",
    }
    return ", ".join(f"{name} {value}" for name, value in parts.items())
