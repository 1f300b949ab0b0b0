"""The llama.cpp engine: a GGUF model with adapters that change at any step.

Rows with the same adapters run in one decode. Each set of adapters has a lane of its own as long
as there are lanes to be had, so that mixed batches do not switch sets at every step.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lorakit.adapter import Adapter
from lorakit.base import Base
from lorakit.check import require_fit
from lorakit.engines.llama.adapters import native_file
from lorakit.engines.llama.lane import CELLS, Lane, Piece, Set
from lorakit.engines.llama.model import load_model
from lorakit.engines.llama.native import Abort, captured_log, llama
from lorakit.engines.llama.options import LlamaOptions
from lorakit.engines.llama.rehearsal import rehearse_projector
from lorakit.engines.llama.vision import Vision
from lorakit.engines.protocol import AdapterSet, Capabilities, EngineOptions, Logits, Row, Tokens
from lorakit.errors import (
    CapabilityError,
    ClosedError,
    ContextFullError,
    EngineError,
    ParameterError,
)
from lorakit.images import Image, Run, runs

MAX_SEQUENCES = 256  # of a native context
MAX_CONTEXT = 8192  # tokens per sequence where the user does not say
KNOWN_SETS = 1024  # sets of adapters whose native form is kept
PREFILL_CHUNK = 128  # what a scheduler should ask for while other rows decode


@dataclass(slots=True)
class _Sequence:
    """Where a sequence lives. It has no lane before its first token."""

    lane: Lane | None = None
    slot: int = 0

    @property
    def length(self) -> int:
        return self.lane.lengths[self.slot] if self.lane else 0


class LlamaEngine:
    """An open GGUF model. See lorakit.engines.protocol.Engine for what its methods promise."""

    @classmethod
    def open(cls, base: Base, options: EngineOptions) -> LlamaEngine:
        """Load the base's file, and its projector where LlamaOptions name one.

        Raises CapabilityError for quantize and device, which are the other engines', and
        EngineError with what llama.cpp says.
        """
        if options.quantize != "none":
            raise CapabilityError(
                "the llama engine runs a GGUF file as it is stored",
                hint="lorakit quantize IN.gguf OUT.gguf --type Q8_0, and open that",
            )
        if options.device not in (None, "cpu"):
            raise CapabilityError(
                f"the llama engine takes no device {options.device!r}",
                hint="llama=LlamaOptions(gpu_layers=-1) puts the layers on a GPU",
            )
        native = options.llama or LlamaOptions()
        engine = cls(base, options, native)
        try:
            if native.mmproj is not None:
                engine.open_vision(Path(native.mmproj))
        except BaseException:
            engine.close()
            raise
        return engine

    def __init__(self, base: Base, options: EngineOptions, native: LlamaOptions) -> None:
        if options.max_batch > MAX_SEQUENCES:
            raise ParameterError(f"the llama engine runs at most {MAX_SEQUENCES} rows (max_batch)")
        self._base = base
        self._native = native
        self._threads = options.threads or os.cpu_count() or 1
        self._model = load_model(base.path, native)
        api = llama()
        trained = int(api.llama_model_n_ctx_train(self._model))
        self._capabilities = Capabilities(
            engine="llama",
            vocabulary=int(api.llama_vocab_n_tokens(api.llama_model_get_vocab(self._model))),
            context=min(options.context or MAX_CONTEXT, trained),
            max_batch=options.max_batch,
            max_sequences=min(options.max_batch + options.cached_sequences, MAX_SEQUENCES),
            mixed_batch=False,
            prefill_chunk=min(PREFILL_CHUNK, native.micro_batch),
            prefill_alone=native.micro_batch,
        )
        self._abort = Abort()
        self._lanes: list[Lane] = []  # least recently used first
        self._sequences: dict[int, _Sequence] = {}
        self._adapters: dict[int, Any] = {}  # native adapters by handle
        self._sets: dict[AdapterSet, Set] = {}  # what was checked, see _effective
        self._handles = itertools.count(1)
        self._vision: Vision | None = None
        self._logits = np.zeros((options.max_batch, self._capabilities.vocabulary), np.float32)

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    # Images.

    def open_vision(self, path: Path) -> None:
        """Load a projector (mmproj), so that prompts may hold images.

        Its first use is rehearsed in a child process. Raises as Vision and rehearse_projector do.
        """
        self._require_open()
        if self._vision is not None:
            raise EngineError("a projector is loaded already")
        rehearse_projector(path, self._base.path, self._threads)
        self._vision = Vision(self._model, path, threads=self._threads)

    def encode_image(self, content: bytes) -> Image:
        """A picture file as a prompt's ids and vectors; any thread may call it at any time.

        Raises CapabilityError where no projector is loaded, and what Vision.encode raises.
        """
        vision = self._vision
        if vision is None:
            self._require_open()
            raise CapabilityError(
                "this model was opened without a projector, so it sees no images",
                hint="open it with mmproj=, the second GGUF file of a vision model",
            )
        return vision.encode(content)

    # Adapters.

    def prepare(self, adapter: Adapter) -> None:
        """Check an adapter and write its GGUF file into the cache; may run on any thread."""
        require_fit(adapter, self._base.decoder)
        native_file(adapter, self._base)

    def attach(self, adapter: Adapter) -> int:
        self._require_open()
        self.prepare(adapter)
        path = native_file(adapter, self._base)
        with captured_log() as said:
            native = llama().llama_adapter_lora_init(self._model, os.fsencode(path))
        if not native:
            raise EngineError("llama.cpp does not take the adapter", items=said.reasons)
        handle = next(self._handles)
        self._adapters[handle] = native
        return handle

    def detach(self, handle: int) -> None:
        self._require_open()
        self._require_attached(handle)
        native = self._adapters.pop(handle)
        self._sets.clear()
        address = _address(native)
        for lane in self._lanes:  # a freed adapter in force would be read, or taken for a new one
            if any(used == address for used, _ in lane.set):
                lane.use(())
        llama().llama_adapter_lora_free(native)

    # Sequences.

    def open_sequence(self) -> int:
        self._require_open()
        if len(self._sequences) >= self._capabilities.max_sequences:
            raise EngineError("every sequence of the engine is in use")
        return self._add(_Sequence())

    def length(self, sequence: int) -> int:
        return self._sequence(sequence).length

    def truncate(self, sequence: int, length: int) -> None:
        found = self._sequence(sequence)
        if found.lane:
            found.lane.truncate(found.slot, length)

    def fork(self, sequence: int, length: int) -> int:
        found = self._sequence(sequence)
        if len(self._sequences) >= self._capabilities.max_sequences:
            raise EngineError("every sequence of the engine is in use")
        if not found.lane or not length:
            return self._add(_Sequence())
        return self._add(_Sequence(found.lane, found.lane.fork(found.slot, length)))

    def close_sequence(self, sequence: int) -> None:
        found = self._sequence(sequence)
        if found.lane:
            found.lane.close(found.slot)
        del self._sequences[sequence]

    def save_sequence(self, sequence: int) -> bytes:
        """The KV of a sequence, for `load_sequence` on the same base."""
        found = self._sequence(sequence)
        return found.lane.save(found.slot) if found.lane else b""

    def load_sequence(self, state: bytes, length: int) -> int:
        """A new sequence with saved KV. Raises EngineError where it does not fit the model."""
        self._require_open()
        if not 0 < length <= self._capabilities.context:
            raise ContextFullError(f"the state holds {length} tokens, more than the context")
        sequence = self.open_sequence()
        found = self._sequences[sequence]
        try:
            lane = self._lane_with_room(self._lanes[-1] if self._lanes else None, length)
            found.lane, found.slot = lane, lane.open()
            lane.load(found.slot, state, length)
        except BaseException:
            self.close_sequence(sequence)
            raise
        return sequence

    # Running.

    def hidden(self, parts: Sequence[tuple[Tokens, AdapterSet]]) -> npt.NDArray[np.float32]:
        self._require_open()
        self._abort.clear()
        lane = self._new_lane(sum(len(tokens) for tokens, _ in parts), embeddings=True)
        found = []
        try:
            slot = lane.open()
            for tokens, adapters in parts:
                lane.use(self._effective(adapters))
                found.append(np.empty((len(tokens), lane.width), np.float32))
                piece = Piece(slot, lane.lengths[slot], tokens, len(tokens))
                lane.decode([piece], found[-1:])
            return np.concatenate(found)
        finally:
            lane.free()

    def interrupt(self) -> None:
        """Make a running `forward` end with CancelledError; may be called from any thread."""
        self._abort.set()

    def forward(self, rows: Sequence[Row]) -> list[Logits]:
        self._require_open()
        self._check(rows)
        self._abort.clear()
        results = self._results(rows)
        lengths = {row.sequence: self._sequences[row.sequence].length for row in rows}
        groups: dict[Set, list[int]] = {}
        for index, row in enumerate(rows):
            groups.setdefault(self._effective(row.adapters), []).append(index)
        try:
            for chosen in self._in_order(groups):
                work = [(rows[i], results[i]) for i in groups[chosen]]
                lane = self._lane_for(chosen, [row for row, _ in work], groups)
                self._run(lane, chosen, work)
        except BaseException:
            for sequence, length in lengths.items():
                self.truncate(sequence, length)
            raise
        return results

    def _run(self, lane: Lane | None, chosen: Set, work: list[tuple[Row, Logits]]) -> None:
        """One decode of rows that share a set of adapters."""
        need = sum(len(row.tokens) for row, _ in work)
        need += sum(
            found.length
            for row, _ in work
            if (found := self._sequences[row.sequence]).lane is not lane
        )
        lane = self._lane_with_room(lane, need, sequences=len(work))
        for row, _ in work:
            self._move(self._sequences[row.sequence], lane)
        lane.use(chosen)
        parts = [part for row, result in work for part in self._parts(row, result)]
        lane.decode([piece for piece, _ in parts], [result for _, result in parts])
        self._lanes.append(self._lanes.pop(self._lanes.index(lane)))

    def _parts(self, row: Row, result: Logits) -> list[tuple[Piece, Logits]]:
        """A row as runs of text and images, each with its part of the row's logits."""
        found = self._sequences[row.sequence]
        if not row.images:
            return [(Piece(found.slot, found.length, row.tokens, len(result)), result)]
        total, kept = len(row.tokens), len(result)
        parts = []
        for run in runs(row.tokens):
            keep = min(max(run.end - (total - kept), 0), run.end - run.start)
            last = run.end - (total - kept)
            share = result[max(last - keep, 0) : max(last, 0)]
            parts.append((self._piece(row, run, found, keep), share))
        return parts

    def _piece(self, row: Row, run: Run, found: _Sequence, keep: int) -> Piece:
        image = run.digest is not None
        return Piece(
            found.slot,
            found.length + run.start,
            row.tokens[run.start : run.end],
            keep,
            vectors=row.images[run.digest] if run.digest is not None else None,
            causal=not image or self._vision is None or self._vision.causal,
        )

    def _results(self, rows: Sequence[Row]) -> list[Logits]:
        """Where each row's logits go: at most one goes into the engine's own buffer."""
        wide = self._capabilities.vocabulary
        sizes = {"none": 0, "last": 1}
        return [
            np.empty((len(row.tokens), wide), np.float32)
            if row.logits == "all"
            else self._logits[at : at + sizes[row.logits]]
            for at, row in enumerate(rows)
        ]

    # Lanes.

    def _in_order(self, groups: dict[Set, list[int]]) -> list[Set]:
        """The sets of a step, those that are in force in some lane first: they need no switch."""
        in_force = {lane.set for lane in self._lanes}
        return sorted(groups, key=lambda chosen: chosen not in in_force)

    def _lane_for(
        self, chosen: Set, rows: Sequence[Row], groups: dict[Set, list[int]]
    ) -> Lane | None:
        """The lane with the set, else the one where the rows live and nobody else does, else a new
        one (None), else the least recently used one that no group of this step needs, else home."""
        for lane in self._lanes:
            if lane.set == chosen:
                return lane
        homes = [self._sequences[row.sequence].lane for row in rows]
        home = max(homes, key=lambda lane: homes.count(lane) if lane else 0)
        if home and home.set not in groups and not self._shared(home, rows):
            return home
        if len(self._lanes) < self._native.contexts:
            return None
        free = [lane for lane in self._lanes if lane.set not in groups]
        return free[0] if free else home or self._lanes[0]

    def _shared(self, lane: Lane, rows: Sequence[Row]) -> bool:
        """Whether sequences of others live in a lane, who would find their set changed."""
        own = {row.sequence for row in rows}
        return any(found.lane is lane for name, found in self._sequences.items() if name not in own)

    def _lane_with_room(self, lane: Lane | None, tokens: int, sequences: int = 1) -> Lane:
        """The lane, or a new one, with cells for so many more tokens; a lane grows by doubling."""
        if lane is None:
            lane = self._new_lane(tokens)
            self._lanes.append(lane)
            return lane
        need = lane.used + tokens
        if need <= lane.cells:
            return lane
        grown = self._new_lane(max(need, min(2 * lane.cells, need + self._capabilities.context)))
        residents = [found for found in self._sequences.values() if found.lane is lane]
        try:
            moved = [(found, *self._copied(found, grown)) for found in residents]
        except BaseException:
            grown.free()
            raise
        for found, slot in moved:
            found.lane, found.slot = grown, slot
        grown.use(lane.set)
        self._lanes[self._lanes.index(lane)] = grown
        lane.free()
        return grown

    def _new_lane(self, tokens: int, *, embeddings: bool = False) -> Lane:
        return Lane(
            self._model,
            cells=max(tokens, CELLS),
            slots=self._capabilities.max_sequences,
            options=self._native,
            threads=self._threads,
            outputs=self._capabilities.max_sequences,
            abort=self._abort,
            embeddings=embeddings,
        )

    def _copied(self, found: _Sequence, lane: Lane) -> tuple[int]:
        """A slot of another lane with a copy of the sequence's KV."""
        assert found.lane is not None
        slot = lane.open()
        if found.length:
            lane.load(slot, found.lane.save(found.slot), found.length)
        return (slot,)

    def _move(self, found: _Sequence, lane: Lane) -> None:
        if found.lane is lane:
            return
        if found.lane is None:
            found.slot = lane.open()
        else:
            (slot,) = self._copied(found, lane)
            found.lane.close(found.slot)
            found.slot = slot
        found.lane = lane

    # Small things.

    def _effective(self, adapters: AdapterSet) -> Set:
        """Native adapters with scales; one that is named twice counts once with both scales.

        Raises EngineError for an unknown handle, ParameterError for a scale that is not finite.
        """
        if (known := self._sets.get(adapters)) is not None:
            return known
        scales: dict[int, float] = {}
        for handle, scale in adapters:
            self._require_attached(handle)
            if not math.isfinite(scale):
                raise ParameterError(f"a scale must be finite, found {scale}")
            scales[handle] = scales.get(handle, 0.0) + scale
        found = tuple((_address(self._adapters[h]), s) for h, s in scales.items() if s != 0.0)
        if len(self._sets) >= KNOWN_SETS:
            self._sets.clear()
        self._sets[adapters] = found
        return found

    def _add(self, sequence: _Sequence) -> int:
        name = next(self._handles)
        self._sequences[name] = sequence
        return name

    def _check(self, rows: Sequence[Row]) -> None:
        """Refuse what cannot run before anything is touched."""
        limit = self._capabilities
        if len(rows) > limit.max_batch:
            raise EngineError(f"{len(rows)} rows in one step; max_batch is {limit.max_batch}")
        if len({row.sequence for row in rows}) < len(rows):
            raise EngineError("a step names one sequence twice")
        for row in rows:
            tokens = row.tokens
            if tokens.ndim != 1 or not len(tokens):
                raise ParameterError("a row needs a 1-D array of at least one token")
            low = high = int(tokens[0])
            if len(tokens) > 1:
                low, high = int(tokens.min()), int(tokens.max())
            if high >= limit.vocabulary:
                raise ParameterError(f"token ids must be below {limit.vocabulary}")
            if low < 0:
                self._check_images(row)
            total = self._sequence(row.sequence).length + len(tokens)
            if total > limit.context:
                raise ContextFullError(
                    f"a sequence would hold {total} tokens; the context is {limit.context}"
                )
            self._effective(row.adapters)

    def _check_images(self, row: Row) -> None:
        """Negative ids must be whole images whose vectors the row brings."""
        if self._vision is None:
            raise ParameterError("a row holds negative token ids, and no projector is loaded")
        for run in runs(row.tokens):
            if run.digest is None:
                continue
            vectors = row.images.get(run.digest)
            count = run.end - run.start
            if vectors is None or run.position or vectors.shape != (count, self._vision.width):
                raise ParameterError(
                    "a row's negative token ids must be whole images of this model, with vectors",
                    items=[f"token {run.start}: {count} positions from {run.position} on"],
                )
            if not self._vision.causal and count > self._native.micro_batch:
                raise EngineError(
                    f"an image of {count} tokens does not fit a micro batch of "
                    f"{self._native.micro_batch}",
                    hint=f"open the model with micro_batch={count} or more",
                )

    def _sequence(self, name: int) -> _Sequence:
        self._require_open()
        if name not in self._sequences:
            raise EngineError(f"no sequence {name} is open")
        return self._sequences[name]

    def _require_open(self) -> None:
        if self._model is None:
            raise ClosedError("the engine is closed")

    def _require_attached(self, handle: int) -> None:
        if handle not in self._adapters:
            raise EngineError(f"no adapter is attached with handle {handle}")

    def close(self) -> None:
        """Contexts first, then adapters, then the model: llama.cpp crashes in other orders."""
        if self._model is None:
            return
        if self._vision:  # it reads the model's vocabulary
            self._vision.close()
        for lane in self._lanes:
            lane.free()
        self._lanes.clear()
        self._sequences.clear()
        for native in self._adapters.values():
            llama().llama_adapter_lora_free(native)
        self._adapters.clear()
        llama().llama_model_free(self._model)
        self._model = None
        self._logits = self._logits[:0].copy()


def _address(native: Any) -> int:
    """The address behind a native pointer, whichever way ctypes holds it."""
    return int(ctypes.cast(native, ctypes.c_void_p).value or 0)
