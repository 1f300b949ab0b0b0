"""Model: a base model that is ready to generate, with adapters loaded and unloaded at run time.

A call becomes a Generation, waits in the scheduler's queue, runs as a row of the engine, and
returns text. See runtime/scheduler.py for what happens in between.
"""

from __future__ import annotations

import asyncio
import logging
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Literal, TypeVar, get_args, overload

import numpy as np
import numpy.typing as npt

from lorakit.base.folder import Base
from lorakit.chat.dialogue import Dialogue
from lorakit.engines.protocol import AdapterSet, Logits
from lorakit.errors import CapabilityError, ParameterError
from lorakit.files.bounded import as_path
from lorakit.merge.cached import MergedAdapter
from lorakit.model.adapter_config import SAMPLING, AdapterConfig, AdapterRef, ModelWarning
from lorakit.model.adapters import AdapterInfo, LoadedAdapter, Scales
from lorakit.model.defaults import defaults_of
from lorakit.model.load import Ready, name_of, ready, settled
from lorakit.model.pending import Loads, PendingLoad
from lorakit.model.tool_running import RunningTools
from lorakit.model.types import ChatPrompt, Prompt
from lorakit.runtime.prompts import check_ids, check_prompt
from lorakit.runtime.protocol import Runtime
from lorakit.runtime.stages import KvPolicy
from lorakit.runtime.state import read_state, write_state
from lorakit.sources import OnProgress, Progress, Source, fetch
from lorakit.text.image_ids import Vectors
from lorakit.text.tokenizer import TextTokenizer
from lorakit.values import among, shown

Pooling = Literal["mean", "last"]
T = TypeVar("T")
log = logging.getLogger("lorakit")


class Model(RunningTools):
    """An open base model. Thread-safe.

    `adapters=` names the adapters of a single request ({} for the plain base). Without it, the
    request follows the model's active set, even when that changes during generation.
    """

    def __init__(
        self,
        base: Base,
        tokenizer: TextTokenizer,
        runtime: Runtime,
        *,
        offline: bool | None = None,
        progress: OnProgress | None = None,
        allow_private: bool = False,
        templates: Mapping[str, str] | None = None,
    ) -> None:
        """Made by `lorakit.open`. Waits until the runtime is open; raises what opening raised."""
        self.base = base
        self._offline = offline
        self._progress = progress
        self._allow_private = allow_private
        self._begin(runtime)
        self.defaults, ignored = defaults_of(base)
        self.warnings += tuple(
            ModelWarning(code=SAMPLING, message=text, adapter="") for text in ignored
        )
        if templates is None and base.is_gguf:
            templates = base.templates
        super().__init__(tokenizer, Dialogue(base.path, tokenizer, templates), runtime)

    def _begin(self, runtime: Runtime) -> None:
        """What a model of any runtime has before it is open."""
        self.warnings: tuple[ModelWarning, ...] = ()  # failures that `open` tolerated
        self.merged: tuple[MergedAdapter, ...] = ()  # adapters that `open` merged into the weights
        self._loads = Loads(runtime)
        # Finalizers may run at any point of any thread, so this one signals and never waits.
        finalizer = weakref.finalize(self, _let_go, runtime, self._loads)
        finalizer.atexit = False  # at exit the thread closes itself, see lorakit.processes

    @property
    def name(self) -> str:
        """The base's name, to show."""
        return self.base.name

    @property
    def runtime_name(self) -> str:
        """What answers: onnx, llama or torch, or "api" for a server."""
        return self.capabilities.engine

    # Adapters.

    @overload
    def load_adapter(
        self,
        adapter: AdapterRef | AdapterConfig,
        name: str | None = None,
        *,
        source: Source = "auto",
        allow_private: bool | None = None,
        progress: OnProgress | None = None,
        wait: Literal[True] = True,
    ) -> LoadedAdapter: ...
    @overload
    def load_adapter(
        self,
        adapter: AdapterRef | AdapterConfig,
        name: str | None = None,
        *,
        source: Source = "auto",
        allow_private: bool | None = None,
        progress: OnProgress | None = None,
        wait: Literal[False],
    ) -> Future[LoadedAdapter]: ...
    def load_adapter(
        self,
        adapter: AdapterRef | AdapterConfig,
        name: str | None = None,
        *,
        source: Source = "auto",
        allow_private: bool | None = None,
        progress: OnProgress | None = None,
        wait: bool = True,
    ) -> LoadedAdapter | Future[LoadedAdapter]:
        """Fetch an adapter, check it against the base and load it, without activating it.

        adapter: a path (any format that lorakit reads), an https:// URL, hf:org/repo, an Adapter,
        or an AdapterConfig, of which the path, what it says of reading and absolute_scale count.
        name: by default the last part of the reference. source: the kind that the reference must
        be. allow_private: allow URLs of machines in a private network; None is as the model was
        opened. progress: called for what is fetched; None is what the model was opened with. wait:
        False returns a Future at once; generation continues meanwhile. Its `cancel` also stops a
        download that runs.
        What reading it had to decide, such as parts for images that are left out, is logged as a
        warning, and stands in the `reading.notes` of the handle's `adapter`.
        Raises SourceError, FormatError, MismatchError, NameTakenError, CapabilityError and
        ClosedError; the model is then unchanged.
        """
        name = name or name_of(adapter)
        self._runtime.require_open()
        self._table.reserve(name)
        if wait:
            report = partial(self._report, progress, lambda: None)
            return self._load(adapter, name, source, allow_private, report)
        future = PendingLoad()
        report = partial(self._report, progress, future.require_wanted)
        load = partial(self._load, adapter, name, source, allow_private, report)
        self._loads.start(future, load, partial(self._table.release, name))
        return future

    async def aload_adapter(
        self,
        adapter: AdapterRef | AdapterConfig,
        name: str | None = None,
        *,
        source: Source = "auto",
        allow_private: bool | None = None,
        progress: OnProgress | None = None,
    ) -> LoadedAdapter:
        """`load_adapter` for coroutines."""
        load = self.load_adapter(
            adapter,
            name,
            source=source,
            allow_private=allow_private,
            progress=progress,
            wait=False,
        )
        return await asyncio.wrap_future(load)

    def apply(self, adapters: Scales, *, kv: KvPolicy = "keep") -> None:
        """Make exactly these adapters active, in one step: {"a": 0.7, "b": 0.3}.

        Scales multiply the adapters' own effective scales; 0 is off. Running generations that
        follow the active set change with their next token; `kv` chooses whether the KV of their
        earlier tokens is kept or recomputed. That two of them are the same adapter, whose scales
        then add up, is logged as a warning; `warnings` holds only what `open` found.
        Raises ParameterError, UnknownAdapterError, ClosedError; nothing is changed then.
        """
        self._table.activate(adapters, kv).result()

    async def aapply(self, adapters: Scales, *, kv: KvPolicy = "keep") -> None:
        """`apply` for coroutines."""
        await asyncio.wrap_future(self._table.activate(adapters, kv))

    def clear_adapters(self, *, kv: KvPolicy = "keep") -> None:
        """Deactivate all adapters; they stay loaded. Raises ParameterError, ClosedError."""
        self.apply({}, kv=kv)

    async def aclear_adapters(self, *, kv: KvPolicy = "keep") -> None:
        """`clear_adapters` for coroutines."""
        await self.aapply({}, kv=kv)

    @property
    def adapters(self) -> tuple[AdapterInfo, ...]:
        """All loaded adapters: first the active ones, in their order, then the rest."""
        return self._table.all_info()

    def find(self, name: str) -> LoadedAdapter | None:
        """The loaded adapter of that name, or None."""
        return self._table.find(name)

    # Logits, embeddings, saved states.

    def logits(self, prompt: Prompt, *, adapters: Scales | None = None) -> Logits:
        """Logits of every position, float32 [tokens, vocabulary], computed without cached KV.

        Where they do not fit into the memory that is there: EngineError (out_of_memory), before it
        is taken; Linux says what is there.
        Raises ContextFullError, ParameterError, UnknownAdapterError, QueueFullError, EngineError,
        ClosedError.
        """
        ids, images = self._whole(prompt)
        self._check(ids, images)
        return self._compute(adapters, lambda chosen: self._runtime.logits(ids, chosen, images))

    def embed(
        self,
        prompt: Prompt,
        *,
        adapters: Scales | None = None,
        pooling: Pooling = "mean",
        normalize: bool = True,
    ) -> npt.NDArray[np.float32]:
        """The prompt as one vector, float32 [hidden size]: its last hidden states, pooled.

        normalize: divide by the length. Raises what `logits` raises, and CapabilityError for
        images.
        """
        if not among(pooling, get_args(Pooling)):
            raise ParameterError(f"pooling must be 'mean' or 'last', not {shown(pooling)}")
        ids, images = self._whole(prompt)
        if images:
            raise CapabilityError("images have no embedding", hint="embed text only")
        self._check(ids, {})
        states = self._compute(adapters, lambda chosen: self._runtime.hidden(ids, chosen))
        vector = states[-1] if pooling == "last" else states.mean(axis=0, dtype=np.float64)
        length = float(np.linalg.norm(vector)) if normalize else 1.0
        return np.asarray(vector / (length or 1.0), np.float32)

    def save_state(
        self, prompt: Prompt, path: str | os.PathLike[str], *, adapters: Scales | None = None
    ) -> int:
        """Compute a prompt's KV and write it to a file; returns how many tokens it holds.

        Only requests with the same base, engine, adapters, scales and tokens reuse it.
        Raises WriteError, ContextFullError, ParameterError, UnknownAdapterError, QueueFullError,
        EngineError, ClosedError.
        """
        ids, images = self._whole(prompt)
        if images:
            raise CapabilityError("the KV of images is not saved", hint="save text only")
        self._check(ids, {})
        place = as_path(path)
        state = self._compute(adapters, lambda chosen: self._runtime.save_state(ids, chosen))
        write_state(place, state, self._about())
        return len(ids)

    def load_state(self, path: str | os.PathLike[str]) -> int:
        """Load saved KV into the prefix cache; returns how many tokens it holds.

        Raises SourceError, FormatError, MismatchError (of another base or engine), QueueFullError,
        EngineError, ClosedError.
        """
        most, kv = self.capabilities.context, self._most_kv()
        state = read_state(as_path(path), self._about(), max_tokens=most, max_kv=kv)
        self._runtime.load_state(state).result()
        return len(state.tokens)

    def _about(self) -> dict[str, str]:
        return {"engine": self.capabilities.kv_identity, "base": self.base.fingerprint}

    def _most_kv(self) -> int:
        """An upper bound on the bytes of KV of a full context, in any engine."""
        d = self.base.decoder
        token = 2 * len(d.layers) * d.kv_heads * d.head_dim * 4  # keys and values, float32
        return 2 * (token + 64) * self.capabilities.context + (1 << 20)

    def _check(self, ids: Sequence[int], images: Mapping[int, Vectors]) -> None:
        about = self.capabilities
        check_prompt(ids[:-1], about.context, about.vocabulary, images, longest=about.longest)
        check_ids(ids[-1:], self.capabilities.vocabulary, images)

    def _whole(self, prompt: Prompt) -> tuple[list[int], Mapping[int, Vectors]]:
        ids = self.encode(prompt)
        if not ids:
            raise ParameterError("the prompt holds no tokens")
        return ids, ids.images if isinstance(ids, ChatPrompt) else {}

    def _compute(
        self, adapters: Scales | None, queue: Callable[[AdapterSet | None], Future[T]]
    ) -> T:
        """Queue a computation with the named adapters, or the active set, and wait for it."""
        with self._table.lock:  # so that no named adapter is unloaded before it is queued
            chosen = None if adapters is None else self._table.resolve(adapters)
            future = queue(chosen)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # after Ctrl-C; one that is already running completes
            raise

    # Closing.

    @property
    def closed(self) -> bool:
        """Whether it was closed; then generating, loading and applying raise ClosedError."""
        return self._runtime.closed

    def close(self) -> None:
        """End running requests with ClosedError and free everything. Idempotent."""
        self._runtime.close()
        self._loads.close()

    async def aclose(self) -> None:
        """`close` for coroutines."""
        await asyncio.to_thread(self.close)

    def __repr__(self) -> str:
        """One line, from what is at hand: no lock, nothing computed, also after it was closed."""
        name = shown(self.base.path.name)
        if not hasattr(self, "capabilities"):  # its constructor waits for the engine, or failed
            return f"<Model {name}, not open>"
        state = "closed" if self.closed else repr(self._table)
        return f"<Model {name} on {self.capabilities.engine}, {state}>"

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> Model:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    # Loading.

    def _load(
        self,
        reference: AdapterRef | AdapterConfig,
        name: str,
        source: Source,
        private: bool | None,
        report: OnProgress,
    ) -> LoadedAdapter:
        if isinstance(reference, AdapterConfig):
            source = reference.source
        get = partial(
            fetch,
            source=source,
            offline=self._offline,
            progress=report,
            allow_private=self._allow_private if private is None else private,
        )
        try:
            found = ready(reference, self.base, get)
            loaded = self._attach(name, found)
        except BaseException:
            self._table.release(name)
            raise
        for note in found.adapter.reading.notes:
            log.warning("%s: %s", found.source, note)
        return loaded

    def _attach(self, name: str, found: Ready) -> LoadedAdapter:
        return self._table.load(name, found.adapter, found.source, found.default_scale)

    def _take(self, name: str, found: Ready) -> LoadedAdapter:
        """Load an adapter that was read before, under an unused name."""
        self._table.reserve(name)
        try:
            return self._attach(name, settled(found, self.base))
        except BaseException:
            self._table.release(name)
            raise

    def _report(
        self, told: OnProgress | None, require_wanted: Callable[[], None], progress: Progress
    ) -> None:
        self._runtime.require_open()  # stops a download when the model is closed
        require_wanted()
        if told := told or self._progress:
            told(progress)


def _let_go(runtime: Runtime, loads: Loads) -> None:
    runtime.begin_close()
    loads.close()
