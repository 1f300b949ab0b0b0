"""Model: a base model that is ready to generate, with adapters that come and go.

A call here becomes a Generation, waits its turn in the scheduler, runs as a row of the engine and
comes back as text. What happens in between is in runtime/scheduler.py.
"""

from __future__ import annotations

import asyncio
import operator
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from numbers import Real
from typing import Any, Literal, Unpack, overload

from lorakit.adapter_config import AdapterRef, ModelWarning
from lorakit.base import Base
from lorakit.chat.dialogue import Dialogue
from lorakit.chat.messages import Message
from lorakit.engines.protocol import Capabilities, Logits
from lorakit.errors import ParameterError, QueueFullError
from lorakit.loaded import AdapterInfo, AdapterTable, LoadedAdapter, Scales, as_scales
from lorakit.loading import name_of, ready
from lorakit.merged import MergedAdapter
from lorakit.requests import ChatReply, Prompt, Request
from lorakit.runtime.generation import Completion, Generation, Stream
from lorakit.runtime.job import Job
from lorakit.runtime.sampling import SamplingOptions, SamplingParams, sampling_params
from lorakit.runtime.scheduler import KvPolicy, check_prompt
from lorakit.runtime.thread import EngineThread
from lorakit.sources import OnProgress, Progress, Source, fetch
from lorakit.tokenizer import Tokenizer


class Model:
    """An open base model. Every method may be called from any thread.

    `adapters=` of a request names the adapters for that request alone ({} for the plain base); left
    out, the request follows the model's active set, changes in mid-generation included.
    """

    def __init__(
        self,
        base: Base,
        tokenizer: Tokenizer,
        thread: EngineThread,
        *,
        offline: bool | None = None,
        progress: OnProgress | None = None,
    ) -> None:
        self.base = base
        self.warnings: tuple[ModelWarning, ...] = ()  # what `open` went on in spite of
        self.merged: tuple[MergedAdapter, ...] = ()  # what `open` put into the base's weights
        self._offline = offline
        self._progress = progress
        self.tokenizer = tokenizer
        self._dialogue = Dialogue(base.path, tokenizer)
        self._thread = thread
        self._table = AdapterTable(self._thread)
        self._loaders = ThreadPoolExecutor(2, thread_name_prefix="lorakit-load")
        self._finalizer = weakref.finalize(self, _shut_down, self._thread, self._loaders)
        self.capabilities: Capabilities = thread.wait_open()

    # Adapters.

    @overload
    def load_adapter(
        self,
        adapter: AdapterRef,
        name: str | None = None,
        *,
        source: Source = "auto",
        wait: Literal[True] = True,
    ) -> LoadedAdapter: ...
    @overload
    def load_adapter(
        self,
        adapter: AdapterRef,
        name: str | None = None,
        *,
        source: Source = "auto",
        wait: Literal[False],
    ) -> Future[LoadedAdapter]: ...
    def load_adapter(
        self,
        adapter: AdapterRef,
        name: str | None = None,
        *,
        source: Source = "auto",
        wait: bool = True,
    ) -> LoadedAdapter | Future[LoadedAdapter]:
        """Get an adapter, check it against the base and make it available; it is not active yet.

        adapter: a path (any format that lorakit reads), an https:// URL, hf:org/repo, or an
        Adapter. name: how to call it; by default the last part of the reference. source: of which
        kind the reference must be. With wait=False a Future comes back at once and generation goes
        on meanwhile.
        Raises SourceError, FormatError, MismatchError, NameTakenError, CapabilityError, ClosedError
        and leaves the model as it was.
        """
        name = name or name_of(adapter)
        self._thread.require_open()
        self._table.reserve(name)
        if wait:
            return self._load(adapter, name, source)
        try:
            future = self._loaders.submit(self._load, adapter, name, source)
        except RuntimeError:  # closed just now
            self._table.release(name)
            self._thread.require_open()
            raise
        future.add_done_callback(partial(self._release_cancelled, name))
        return future

    async def aload_adapter(
        self, adapter: AdapterRef, name: str | None = None, *, source: Source = "auto"
    ) -> LoadedAdapter:
        """`load_adapter` for coroutines."""
        load = self.load_adapter(adapter, name, source=source, wait=False)
        return await asyncio.wrap_future(load)

    def apply(self, adapters: Scales, *, kv: KvPolicy = "keep") -> None:
        """Make exactly these adapters active, all at once: {"a": 0.7, "b": 0.3}.

        Scales multiply the adapters' own effective scales; 0 is off. Running generations that
        follow the active set change with their next token; `kv` says whether the KV of their
        earlier tokens is kept or recomputed.
        Raises ParameterError, UnknownAdapterError, ClosedError, and then changes nothing.
        """
        self._table.activate(adapters, kv).result()

    async def aapply(self, adapters: Scales, *, kv: KvPolicy = "keep") -> None:
        """`apply` for coroutines."""
        await asyncio.wrap_future(self._table.activate(adapters, kv))

    def clear_adapters(self, *, kv: KvPolicy = "keep") -> None:
        """Back to the plain base; the adapters stay loaded."""
        self.apply({}, kv=kv)

    async def aclear_adapters(self, *, kv: KvPolicy = "keep") -> None:
        """`clear_adapters` for coroutines."""
        await self.aapply({}, kv=kv)

    @property
    def adapters(self) -> tuple[AdapterInfo, ...]:
        """All loaded adapters: the active ones in their order, then the rest."""
        return self._table.all_info()

    def find(self, name: str) -> LoadedAdapter | None:
        """The loaded adapter of that name, if there is one."""
        return self._table.find(name)

    # Generation.

    def complete(
        self,
        prompt: Prompt,
        *,
        adapters: Scales | None = None,
        sampling: SamplingParams | None = None,
        timeout: float | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Completion:
        """Continue a prompt (text, or token ids as they are) and wait for the whole of it.

        sampling and options (see SamplingParams) say how; timeout is a deadline in seconds.
        Raises ContextFullError (prompt too long), ParameterError, UnknownAdapterError,
        QueueFullError, DeadlineError, EngineError, ClosedError.
        """
        params = sampling_params(sampling, options)
        generation = self._submit(self.encode(prompt), params, adapters, timeout)
        try:
            return generation.result()
        except BaseException:  # Ctrl-C too: nothing goes on behind the caller's back
            generation.cancel()
            raise

    async def acomplete(
        self,
        prompt: Prompt,
        *,
        adapters: Scales | None = None,
        sampling: SamplingParams | None = None,
        timeout: float | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Completion:
        """`complete` for coroutines; cancelling the task cancels the generation."""
        params = sampling_params(sampling, options)
        generation = self._submit(self.encode(prompt), params, adapters, timeout)
        try:
            return await generation.aresult()
        except BaseException:
            generation.cancel()
            raise

    def stream(
        self,
        prompt: Prompt,
        *,
        adapters: Scales | None = None,
        sampling: SamplingParams | None = None,
        timeout: float | None = None,
        lookahead: int | None = 0,
        **options: Unpack[SamplingOptions],
    ) -> Stream:
        """Continue a prompt piece by piece: `for piece in ...` or `async for piece in ...`.

        A piece never splits a character. With lookahead 0 the next token is computed when it is
        asked for, so a scale changed between two pieces acts on the next one; n lets generation
        run n pieces ahead of the reader, None as fast as it can. Errors as of `complete`.
        """
        params = sampling_params(sampling, options)
        ids = self.encode(prompt)
        return Stream(self._submit(ids, params, adapters, timeout, lookahead=lookahead))

    def batch(
        self, requests: Iterable[Request], *, timeout: float | None = None
    ) -> list[Completion]:
        """Run requests together, each with its own adapters; results in their order.

        If one of them fails the others are cancelled and its error is raised.
        """
        generations: list[Generation] = []
        try:
            for request in requests:
                ids = self.encode(request.prompt)
                generations.append(
                    self._submit(ids, request.sampling, request.adapters, timeout, wait=True)
                )
            return [generation.result() for generation in generations]
        except BaseException:
            for generation in generations:
                generation.cancel()
            raise

    async def abatch(
        self, requests: Iterable[Request], *, timeout: float | None = None
    ) -> list[Completion]:
        """`batch` for coroutines."""
        room = asyncio.Semaphore(min(self.capabilities.max_batch, self._thread.max_queue))

        async def run(request: Request) -> Completion:
            async with room:
                return await self.acomplete(
                    request.prompt,
                    adapters=request.adapters,
                    sampling=request.sampling,
                    timeout=timeout,
                )

        tasks = [asyncio.ensure_future(run(request)) for request in requests]
        try:
            return await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    # Conversations.

    def chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        adapters: Scales | None = None,
        sampling: SamplingParams | None = None,
        timeout: float | None = None,
        **options: Unpack[SamplingOptions],
    ) -> ChatReply:
        """Answer a conversation through the model's own chat template.

        messages and tools have OpenAI's shapes. The answer's tool calls are parsed; append
        `reply.message` to go on. Errors as of `complete`, and BaseModelError (template_missing).
        """
        ids = self.chat_prompt(messages, tools=tools)
        return self.parse_reply(
            self.complete(ids, adapters=adapters, sampling=sampling, timeout=timeout, **options)
        )

    async def achat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        adapters: Scales | None = None,
        sampling: SamplingParams | None = None,
        timeout: float | None = None,
        **options: Unpack[SamplingOptions],
    ) -> ChatReply:
        """`chat` for coroutines."""
        ids = self.chat_prompt(messages, tools=tools)
        return self.parse_reply(
            await self.acomplete(
                ids, adapters=adapters, sampling=sampling, timeout=timeout, **options
            )
        )

    def chat_prompt(
        self, messages: Sequence[Message], *, tools: Sequence[Mapping[str, Any]] | None = None
    ) -> list[int]:
        """The token ids of a conversation, ready for the model's answer."""
        return self._dialogue.prompt(messages, tools)

    def parse_reply(self, completion: Completion) -> ChatReply:
        """Find the tool calls in an answer."""
        return ChatReply(parsed=self._dialogue.parse(completion.text), completion=completion)

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a text as `complete` runs it; ids are passed on as they are."""
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt, special=True)
        try:
            return [operator.index(token) for token in prompt]
        except TypeError as error:
            raise ParameterError(f"a prompt is text or token ids: {error}") from error

    def logits(self, prompt: Prompt, *, adapters: Scales | None = None) -> Logits:
        """Logits of every position, float32 [tokens, vocabulary], computed afresh."""
        ids = self.encode(prompt)
        if not ids:
            raise ParameterError("the prompt holds no tokens")
        check_prompt(ids[:-1], self.capabilities.context, self.capabilities.vocabulary)
        with self._table.lock:
            chosen = None if adapters is None else self._table.resolve(adapters)
            future = self._thread.call(
                lambda scheduler: scheduler.logits(
                    ids, scheduler.active if chosen is None else chosen
                )
            )
        return future.result()

    # Life and death.

    @property
    def closed(self) -> bool:
        return self._thread.closed

    def close(self) -> None:
        """End running requests with ClosedError and free everything. Twice does no harm."""
        self._finalizer()

    async def aclose(self) -> None:
        """`close` for coroutines."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> Model:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    # The way in.

    def _load(self, reference: AdapterRef, name: str, source: Source) -> LoadedAdapter:
        get = partial(fetch, source=source, offline=self._offline, progress=self._report)
        try:
            return self._table.load(name, *ready(reference, self.base, get))
        except BaseException:
            self._table.release(name)
            raise

    def _report(self, progress: Progress) -> None:
        self._thread.require_open()  # a download does not outlive its model
        if self._progress is not None:
            self._progress(progress)

    def _release_cancelled(self, name: str, load: Future[LoadedAdapter]) -> None:
        if load.cancelled():
            self._table.release(name)

    def _submit(
        self,
        ids: Sequence[int],
        params: SamplingParams,
        adapters: Scales | None,
        timeout: float | None,
        *,
        lookahead: int | None = None,
        wait: bool = False,
    ) -> Generation:
        if not ids:
            raise ParameterError("the prompt holds no tokens")
        if timeout is not None and not (isinstance(timeout, Real) and timeout > 0):
            raise ParameterError(f"timeout must be above 0 seconds, found {timeout!r}")
        if lookahead is not None and not (isinstance(lookahead, int) and lookahead >= 0):
            raise ParameterError(f"lookahead must be None or 0 and more, found {lookahead!r}")
        check_prompt(ids, self.capabilities.context, self.capabilities.vocabulary)
        stops = frozenset(params.stop_tokens)
        if not params.ignore_eos:
            stops |= self._dialogue.stop_tokens
        deadline = None if timeout is None else time.monotonic() + float(timeout)
        decoder = self.tokenizer.stream(continuing=True)
        chosen = None if adapters is None else as_scales(adapters)
        while True:
            if wait:
                self._thread.wait_for_room()
            try:
                with self._table.lock:  # nothing may be unloaded between naming and queueing it
                    generation = Generation(
                        tuple(ids),
                        params,
                        adapters=None if chosen is None else self._table.resolve(chosen),
                        deadline=deadline,
                        lookahead=lookahead,
                    )
                    return self._thread.submit(Job(generation, decoder, stops))
            except QueueFullError:
                if not wait:
                    raise


def _shut_down(thread: EngineThread, loaders: ThreadPoolExecutor) -> None:
    thread.close()
    loaders.shutdown(wait=False)  # what is still to load meets the closed thread and says so
