"""The reference engine: what other engines, merges and exports are verified against.

A transformers model in float32 with eager attention runs the rows one after another, each under an
overlay of its adapters. It applies every kind of adapter, by lorakit's own reading of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers

from lorakit.adapter import Adapter
from lorakit.base.folder import Base
from lorakit.check import require_fit
from lorakit.engines.onnx.together import effective
from lorakit.engines.protocol import (
    MAX_CONTEXT,
    AdapterSet,
    Capabilities,
    Logits,
    Prepared,
    Row,
    Tokens,
    no_images,
)
from lorakit.engines.steps import check_rows, refuse_images, require_attached
from lorakit.engines.threads import default_threads
from lorakit.engines.torch.loading import (
    cache_argument,
    choose_device,
    load_model,
    native_errors,
)
from lorakit.engines.torch.options import TorchOptions
from lorakit.engines.torch.overlay import Overlays
from lorakit.engines.torch.parts import Attached, Places
from lorakit.engines.torch.sequences import Sequences, State
from lorakit.errors import (
    ClosedError,
)
from lorakit.text.image_ids import Image

MAX_NEW = 512  # new tokens of one run of the model; bounds the memory of its attention
PREFILL_CHUNK = 512  # rows run one after another, so that a longer prompt only waits less


class TorchEngine:
    """An open base model. See lorakit.engines.protocol.Engine for what its methods promise."""

    def __init__(self, base: Base, options: TorchOptions, model: Any, device: Any) -> None:
        self._base = base
        self._device = device
        self._cache_argument = cache_argument(model)
        self._threads = options.threads or default_threads()
        self._attached: dict[int, Attached] = {}
        self._overlays: Overlays | None = Overlays(Places.of(model, base), self._attached)
        self._handles = itertools.count(1)
        self._capabilities = Capabilities(
            engine="torch",
            vocabulary=base.decoder.vocabulary,
            context=min(options.context or MAX_CONTEXT, base.decoder.context),
            max_batch=options.max_batch,
            max_sequences=options.max_batch + options.cached_sequences,
            mixed_batch=False,
            kv_identity=f"torch {torch.__version__}, transformers {transformers.__version__}, f32",
            prefill_chunk=PREFILL_CHUNK,
            longest=base.decoder.context,
            lookup=True,
        )
        self._sequences = Sequences(self._capabilities.max_sequences)

    @classmethod
    def open(cls, base: Base, options: TorchOptions) -> TorchEngine:
        """Load the base into transformers; see TorchOptions.device.

        Raises CapabilityError for a device that is not there, EngineError
        where transformers refuses the base.
        """
        device = choose_device(options.device)
        return cls(base, options, load_model(base, device), device)

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def shortest_row(self, adapters: AdapterSet) -> int:
        return 1

    def prepare(self, adapter: Adapter) -> Prepared:
        places = self._require_open().places
        require_fit(adapter, self._base)
        with native_errors("preparing an adapter"), torch.inference_mode():
            attached = Attached.of(adapter, places, self._device)
        return Prepared(adapter=adapter, content=attached)

    def attach(self, prepared: Prepared) -> int:
        self._require_open()
        handle = next(self._handles)
        self._attached[handle] = prepared.content
        return handle

    def detach(self, handle: int) -> None:
        overlays = self._require_open()
        require_attached(handle, self._attached)
        overlays.drop(handle)
        del self._attached[handle]

    def open_sequence(self) -> int:
        self._require_open()
        return self._sequences.open()

    def length(self, sequence: int) -> int:
        self._require_open()
        return self._sequences.length(sequence)

    def reusable(self, sequence: int, length: int) -> int:
        return min(length, self._sequences.length(sequence))  # every layer keeps every token

    def truncate(self, sequence: int, length: int) -> None:
        self._require_open()
        with native_errors("truncating a sequence"):
            self._sequences.truncate(sequence, length)

    def fork(self, sequence: int, length: int) -> int:
        self._require_open()
        with native_errors("forking a sequence"):
            return self._sequences.fork(sequence, length)

    def close_sequence(self, sequence: int) -> None:
        self._require_open()
        self._sequences.close(sequence)

    def save_sequence(self, sequence: int) -> bytes:
        self._require_open()
        return self._sequences[sequence].save()

    def load_sequence(self, state: bytes, length: int) -> int:
        self._require_open()
        decoder = self._base.decoder
        like = (len(decoder.layers), decoder.kv_heads, decoder.head_dim)
        return self._sequences.open(State.load(state, length, like, self._device))

    def hidden(self, parts: Sequence[tuple[Tokens, AdapterSet]]) -> npt.NDArray[np.float32]:
        overlays = self._require_open()
        state, found = State(), []
        with native_errors("embedding a text"), torch.inference_mode():
            for tokens, adapters in parts:
                for handle, _ in adapters:
                    require_attached(handle, self._attached)
                cache = state.cache()
                result = self._run(
                    overlays,
                    effective(adapters),
                    tokens,
                    cache,
                    output_hidden_states=True,
                    logits_to_keep=1,
                )
                state = state.extended(len(tokens), cache)
                found.append(result.hidden_states[-1][0].float().cpu().numpy())
        return np.concatenate(found)

    def encode_image(self, content: bytes) -> Image:
        raise no_images("torch")

    def interrupt(self) -> None:
        """A step of this engine is not stopped."""

    def close(self) -> None:
        self._overlays = None  # and with it the model
        self._sequences.clear()
        self._attached.clear()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def forward(self, rows: Sequence[Row]) -> list[Logits]:
        overlays = self._require_open()
        self._check(rows)
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        logits: list[Logits] = []
        states: dict[int, State] = {}
        with native_errors("running a step"), torch.inference_mode():
            for row in rows:
                states[row.sequence], found = self._row(overlays, row)
                logits.append(found)
        self._sequences.put(states)  # only now, so that a failure leaves every sequence as it was
        return logits

    def _row(self, overlays: Overlays, row: Row) -> tuple[State, Logits]:
        """What becomes of a row's sequence, and its logits."""
        state, count = self._sequences[row.sequence], len(row.tokens)
        acted = effective(row.adapters)
        wanted = np.asarray(row.positions, np.int64)
        parts = []
        for begin in range(0, count, MAX_NEW):
            end = min(begin + MAX_NEW, count)
            kept = torch.from_numpy(wanted[(wanted >= begin) & (wanted < end)] - begin)
            cache = state.cache()
            tokens = row.tokens[begin:end]
            result = self._run(overlays, acted, tokens, cache, logits_to_keep=kept.to(self._device))
            state = state.extended(end - begin, cache)
            parts.append(result.logits[0].float().cpu().numpy())
        return state, np.concatenate(parts)

    def _run(
        self, overlays: Overlays, held: AdapterSet, tokens: Tokens, cache: Any, **arguments: Any
    ) -> Any:
        """The model's output for new tokens, which the cache takes in."""
        return overlays.run(
            held,
            input_ids=torch.tensor(tokens.copy(), device=self._device)[None],
            use_cache=True,
            **{self._cache_argument: cache},
            **arguments,
        )

    def _check(self, rows: Sequence[Row]) -> None:
        """Refuse what cannot run before anything is touched."""
        check_rows(rows, self._capabilities, self._sequences.length, self._attached)
        refuse_images(rows)

    def _require_open(self) -> Overlays:
        if self._overlays is None:
            raise ClosedError("the engine is closed")
        return self._overlays
