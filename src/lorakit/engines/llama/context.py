"""One llama_context: sequences in its KV cache, and the set of adapters that is active in it.

Changing the active set leaves the KV cache as it is; the new set acts on the tokens decoded next.
A change makes llama.cpp reserve its compute buffers again at the next decode (about 10 ms), so the
engine keeps several contexts: see context_pool.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lorakit.engines.llama.memory import Memory, native_sequences
from lorakit.engines.llama.native import Abort, captured_log, llama
from lorakit.engines.llama.options import LlamaOptions
from lorakit.engines.llama.pace import SHORT, Pace
from lorakit.engines.llama.recurrent import StateMemory, is_recurrent
from lorakit.engines.protocol import Logits
from lorakit.errors import CancelledError, EngineError

Set = tuple[tuple[int, float], ...]  # (address of a native adapter, scale), in order
CELLS = 256  # the smallest KV cache, in tokens; llama.cpp rounds to multiples of it
# From this many cells on, ggml splits the attention of a single token into one part per thread and
# sums in float16, so the number of threads changes the logits and must stay fixed.
SPLIT = 512
_TYPES = {"f32": 0, "f16": 1, "q8_0": 8}
_FLASH = {"off": 0, "on": 1, "auto": -1}


@dataclass(slots=True)  # one per token, and a frozen one takes three times as long to make
class Piece:
    """New tokens of one sequence of the context. With `vectors`, the token ids are ignored.

    tokens: int64 [n]. vectors: float32 [n, embedding], for images. keep: the positions within the
    piece whose logits are returned, ascending. causal: whether an image's positions attend only to
    earlier ones.
    """

    slot: int
    start: int
    tokens: npt.NDArray[np.int64]
    keep: Sequence[int]
    vectors: npt.NDArray[np.float32] | None = None
    causal: bool = True


class Context:
    """One native context. Used by the engine's thread only."""

    def __init__(
        self, model: Any, *, cells: int, slots: int, options: LlamaOptions, pace: Pace,
        outputs: int, abort: Abort, embeddings: bool = False,
    ) -> None:  # fmt: skip
        """Raises EngineError (out_of_memory) if there is no memory for `cells` tokens."""
        api = llama()
        params = api.llama_context_default_params()
        params.n_ctx = self.cells = -(-max(cells, CELLS) // CELLS) * CELLS
        params.n_batch = params.n_ubatch = self._batch = options.micro_batch
        self.recurrent = is_recurrent(model)
        window = 0 if self.recurrent else int(api.llama_model_n_swa(model))
        params.n_seq_max = native_sequences(slots, window)
        self.outputs = min(outputs, options.micro_batch)
        params.n_outputs_max = max(outputs, params.n_seq_max)  # llama.cpp aborts with fewer
        params.n_threads = params.n_threads_batch = self._threads = pace.most
        kind = kv_type(model, options)
        params.type_k = params.type_v = _TYPES[kind]
        params.flash_attn_type = _FLASH[flash_attention(kind, options)]
        params.offload_kqv = options.gpu_layers != 0
        params.embeddings = embeddings
        params.no_perf, params.kv_unified, params.swa_full = True, True, True
        params.abort_callback, params.abort_callback_data = abort.callback, abort.data
        with captured_log() as native_log:
            self.native = api.llama_init_from_model(model, params)
        if not self.native:
            raise EngineError(
                f"llama.cpp cannot make a context of {params.n_ctx} tokens",
                code="out_of_memory",
                items=native_log.reasons,
                hint="use a smaller context or a smaller kv_type, or fewer contexts",
            )
        self._api = api
        self._abort = abort
        self._pace = pace
        self._spreads = not embeddings and (params.flash_attn_type == 0 or options.gpu_layers != 0)
        self._splits = params.flash_attn_type != 0 and self.cells >= SPLIT
        self.tainted = False  # NaN or infinity is, or was, in its cells
        self.set: Set = ()
        self.lengths: dict[int, int] = {}  # tokens written to the KV cache, by slot
        self._memory = (
            StateMemory(self.native, slots)
            if self.recurrent
            else Memory(self.native, slots, window)
        )
        self._get = api.llama_get_embeddings_ith if embeddings else api.llama_get_logits_ith
        self._views: dict[int, Logits] = {}  # of native memory, by address; there are few
        self.width = int(  # of a row of results
            api.llama_model_n_embd(model)
            if embeddings
            else api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
        )
        self._make_batch()

    def _make_batch(self) -> None:
        """The numpy arrays that the native batch points into, refilled for each decode."""
        n = self._batch
        self._tokens = np.zeros(n, np.int32)
        self._positions = np.zeros(n, np.int32)
        self._slots = np.zeros(n, np.int32)
        self._wanted = np.zeros(n, np.int8)
        self._ones = np.ones(n, np.int32)
        step = self._slots.ctypes.data + np.arange(n, dtype=np.uintp) * self._slots.itemsize
        self._slot_pointers = step.astype(np.uintp)
        api, batch = self._api, self._api.llama_batch()
        batch.pos = _pointer(self._positions, api.llama_pos)
        batch.n_seq_id = _pointer(self._ones, ctypes.c_int32)
        batch.seq_id = ctypes.cast(
            self._slot_pointers.ctypes.data, ctypes.POINTER(ctypes.POINTER(api.llama_seq_id))
        )
        batch.logits = _pointer(self._wanted, ctypes.c_int8)
        self._token_pointer = _pointer(self._tokens, api.llama_token)
        self._native_batch = batch

    @property
    def used(self) -> int:
        """Tokens in the KV cache, counted once for each sequence that holds them."""
        return sum(self.lengths.values()) + self._memory.lost

    @property
    def free_slots(self) -> int:
        return self._memory.free

    def use(self, adapters: Set) -> None:
        """Make exactly these adapters active. Costs nothing if they already are."""
        if adapters == self.set:
            return
        count = len(adapters)
        addresses = (ctypes.c_void_p * count)(*(address for address, _ in adapters))
        scales = (ctypes.c_float * count)(*(scale for _, scale in adapters))
        if self._api.llama_set_adapters_lora(self.native, addresses, count, scales):
            raise EngineError("llama.cpp refused to activate the adapters")
        self.set = adapters

    # Sequences.

    def open(self) -> int:
        """A slot for a new sequence. Raises EngineError if none is free."""
        slot = self._memory.open()
        self.lengths[slot] = 0
        return slot

    def close(self, slot: int) -> None:
        """Never raises."""
        self._memory.close(slot, self.lengths.pop(slot))

    def reusable(self, slot: int, length: int) -> int:
        """How many of the first `length` tokens llama.cpp still holds in every layer."""
        return self._memory.whole(slot, min(length, self.lengths[slot]))

    def truncate(self, slot: int, length: int) -> None:
        """Cut a sequence back to `length` tokens, also after a failed decode.

        Raises EngineError if llama.cpp cannot, or holds fewer; the slot can then only be closed.
        """
        self._memory.cut(slot, length)
        if self._memory.whole(slot, length) < length:
            raise EngineError("llama.cpp has dropped part of a sequence from its KV cache")
        self.lengths[slot] = length

    def fork(self, slot: int, length: int) -> int:
        """A new slot sharing the cells of the first `length` tokens. Raises EngineError."""
        copy = self._memory.fork(slot, length)
        self.lengths[copy] = length
        return copy

    def save(self, slot: int) -> list[bytes]:
        """The KV of a sequence; see Memory.save. Raises EngineError."""
        return self._memory.save(slot, self.lengths[slot])

    def load(self, states: Sequence[bytes], length: int) -> int:
        """A new slot with saved KV. Raises EngineError if it does not fit."""
        slot = self.open()
        try:
            self._memory.load(slot, states, length)
        except BaseException:
            self.close(slot)
            raise
        self.lengths[slot] = length
        return slot

    def spans(self, length: int) -> list[tuple[int, int]]:
        """The range of tokens in each part of a saved state of `length` tokens."""
        return self._memory.pieces(length)

    # Running.

    def decode(self, pieces: Sequence[Piece], results: Sequence[Logits]) -> None:
        """Run new tokens; write the logits of each piece's `keep` positions to its result.

        After an error the slots may hold some of the new tokens; cut them back with `truncate`.
        """
        if len(pieces) == 1 and len(pieces[0].tokens) == 1 and pieces[0].vectors is None:
            self._single(pieces[0], results[0])
        else:
            self._chunks(pieces, results)

    def _single(self, piece: Piece, result: Logits) -> None:
        """One token of one sequence: the most frequent step."""
        self._tokens[0], self._positions[0] = piece.tokens[0], piece.start
        self._slots[0], self._wanted[0] = piece.slot, bool(piece.keep) or self._spreads
        self._run(1)
        self._memory.pin(piece.slot, piece.start, piece.start + 1)
        self._require_finite(0)
        if piece.keep:
            result[0] = self._row(0)
        self.lengths[piece.slot] = piece.start + 1

    def _chunks(self, pieces: Sequence[Piece], results: Sequence[Logits]) -> None:
        """All tokens, in as few decodes as the limits on tokens and outputs allow."""
        filled = 0
        kept: list[_Kept] = []
        for piece, result in zip(pieces, results, strict=True):
            count, rows = len(piece.tokens), {at: row for row, at in enumerate(piece.keep)}
            if piece.vectors is not None:
                filled, kept = self._flush(filled, kept)
                self._image(piece, result)
                continue
            for at in range(count):
                last = at == count - 1
                wanted = at in rows or (last and self._spreads)
                if filled == self._batch or (wanted and len(kept) == self.outputs):
                    filled, kept = self._flush(filled, kept)
                self._tokens[filled], self._positions[filled] = piece.tokens[at], piece.start + at
                self._slots[filled], self._wanted[filled] = piece.slot, wanted
                if wanted:
                    kept.append((result, rows.get(at), filled, last))
                filled += 1
            self.lengths[piece.slot] = piece.start + count
        self._flush(filled, kept)

    def _flush(self, filled: int, kept: list[_Kept]) -> tuple[int, list[_Kept]]:
        if filled:
            self._run(filled)
            self._pin(filled)
            for result, row, at, last in kept:
                if last:
                    self._require_finite(at)
                if row is not None:
                    result[row] = self._row(at)
        return 0, []

    def _image(self, piece: Piece, result: Logits) -> None:
        """An image's vectors; in a single decode if their attention is not causal."""
        vectors = np.ascontiguousarray(piece.vectors, np.float32)
        count = len(vectors)
        if count > self._batch and not piece.causal:
            raise EngineError(
                f"an image of {count} tokens does not fit a micro batch of {self._batch}",
                hint=f"open the model with micro_batch={count} or more",
            )
        self._api.llama_set_causal_attn(self.native, piece.causal)
        try:
            for start in range(0, count, self._batch):
                self._image_part(piece, vectors[start : start + self._batch], start, count)
        finally:
            self._api.llama_set_causal_attn(self.native, True)
        self._require_finite((count - 1) % self._batch)
        if piece.keep:  # positions inside an image predict nothing
            result[:] = np.nan
            if piece.keep[-1] == count - 1:
                result[-1] = self._row((count - 1) % self._batch)
        self.lengths[piece.slot] = piece.start + count

    def _image_part(
        self, piece: Piece, vectors: npt.NDArray[np.float32], start: int, count: int
    ) -> None:
        n = len(vectors)
        first = piece.start + start
        self._positions[:n] = np.arange(first, first + n)
        self._slots[:n], self._wanted[:n] = piece.slot, 0
        wanted = bool(piece.keep) or self._spreads
        self._wanted[n - 1] = wanted and start + n == count
        self._run(n, vectors)
        self._memory.pin(piece.slot, first, first + n)

    def _pin(self, count: int) -> None:
        """Pin the cells that the first `count` entries of the batch were written to."""
        if not self._memory.pins:
            return
        slots, starts = np.unique(self._slots[:count], return_index=True)
        for slot, start in zip(slots.tolist(), self._positions[starts].tolist(), strict=True):
            self._memory.pin(slot, start, start + count)

    def _run(self, count: int, vectors: npt.NDArray[np.float32] | None = None) -> None:
        batch = self._native_batch
        batch.n_tokens = count
        if vectors is None:
            batch.token, batch.embd = self._token_pointer, None
        else:
            batch.token = None
            batch.embd = _pointer(vectors, ctypes.c_float)
        splits = count == 1 and self._splits
        threads = self._pace.most if splits else self._pace.threads(count)
        if threads != self._threads:
            self._api.llama_set_n_threads(self.native, threads, threads)
            self._threads = threads
        begun = self._pace.begin()
        with captured_log() as native_log:
            code = self._api.llama_decode(self.native, batch)
        if threads > 1 and count < SHORT:
            self._pace.end(begun)
        if code == 2 and self._abort.is_set:
            raise CancelledError("the step was interrupted")
        if code:
            raise EngineError(
                _REASONS.get(code, f"llama.cpp failed to decode (code {code})"),
                code="out_of_memory" if code == 1 else None,
                items=native_log.reasons,
            )

    def _require_finite(self, at: int) -> None:
        """Raise EngineError if a result is not finite.

        Without flash attention, and on a GPU, the cells of other sequences are multiplied by 0.
        NaN times 0 is NaN, so bad values would spread between sequences, even from freed cells.
        """
        if self._spreads and not np.isfinite(self._row(at).sum()):
            self.tainted = True
            raise EngineError(
                "the logits are not finite",
                hint="use smaller scales; lorakit check ADAPTER finds broken weights",
            )

    def _row(self, at: int) -> Logits:
        """A position's logits [vocabulary], or its hidden state if the context embeds."""
        address = ctypes.addressof(self._get(self.native, at).contents)
        if (view := self._views.get(address)) is None:  # numpy takes 10 us to make one
            buffer = (ctypes.c_float * self.width).from_address(address)
            view = self._views[address] = np.ctypeslib.as_array(buffer)
        return view

    def free(self) -> None:
        """Deactivate the adapters, then free the native context."""
        if self.native:
            self.use(())
            self._api.llama_free(self.native)
            self.native = None


def kv_type(model: Any, options: LlamaOptions) -> str:
    """The data type of the KV cache; see LlamaOptions."""
    if options.kv_type != "auto":
        return options.kv_type
    return "f32" if llama().llama_model_ftype(model) == 0 else "f16"


def flash_attention(kind: str, options: LlamaOptions) -> str:
    """off, on, or auto (llama.cpp chooses); see LlamaOptions."""
    exact = options.flash_attention == "auto" and kind == "f32"
    return "off" if exact else options.flash_attention


_Kept = tuple[
    Logits, int | None, int, bool
]  # result, its row, place in the batch, the piece's last
_REASONS = {1: "llama.cpp's KV cache has no room for this step"}


def _pointer(array: npt.NDArray[Any], kind: Any) -> Any:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))
