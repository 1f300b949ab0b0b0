"""Generating: text from prompts and conversations.

It knows the tokenizer, the dialogue, the table of adapters and the runtime, but not how adapters
are loaded or a model is opened.
"""

from __future__ import annotations

import asyncio
import operator
import time
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Unpack

import numpy as np

from lorakit.chat.dialogue import Dialogue
from lorakit.chat.images import has_images
from lorakit.chat.messages import Message
from lorakit.engines.protocol import Capabilities
from lorakit.errors import ParameterError, QueueFullError
from lorakit.model.adapters import AdapterTable, Scales
from lorakit.model.conversation import Session
from lorakit.model.types import ChatPrompt, ChatReply, Prompt, Request
from lorakit.processes import on_fork
from lorakit.runtime.generation import Completion, Generation, Stream
from lorakit.runtime.prompts import check_ids, check_prompt
from lorakit.runtime.protocol import Runtime, Submission
from lorakit.runtime.sampling import SamplingOptions, SamplingParams, sampling_params
from lorakit.text.tokenizer import TextTokenizer
from lorakit.values import real, shown, whole

FOR_EVER = 1e12  # seconds


class Generating:
    """The part of a Model that generates. Thread-safe."""

    def __init__(self, tokenizer: TextTokenizer, dialogue: Dialogue, runtime: Runtime) -> None:
        """Waits until the runtime is open. Raises what opening it raised."""
        self.tokenizer = tokenizer
        self._dialogue = dialogue
        self._runtime = runtime
        self._table = AdapterTable(runtime)
        on_fork(self._table, AdapterTable.renew_lock)
        self.capabilities: Capabilities = runtime.capabilities

    def complete(
        self,
        prompt: Prompt,
        *,
        adapters: Scales | None = None,
        sampling: SamplingParams | None = None,
        timeout: float | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Completion:
        """Continue a prompt (text, or token ids) and wait for the complete answer.

        sampling and options: see SamplingParams. timeout: a deadline in seconds.
        Raises ContextFullError (prompt too long), ParameterError, UnknownAdapterError,
        QueueFullError, DeadlineError, EngineError, ClosedError.
        """
        params = sampling_params(sampling, options)
        generation = self._submit(self.encode(prompt), params, adapters, timeout)
        try:
            return generation.result()
        except BaseException:  # Ctrl-C too: the answer would be lost
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

        A piece never splits a character. With lookahead 0 the next token is computed on demand, so
        a scale changed between two pieces acts on the next one; n lets generation run n pieces
        ahead of the reader, None without limit. Raises what `complete` raises.
        """
        params = sampling_params(sampling, options)
        ids = self.encode(prompt)
        return Stream(self._submit(ids, params, adapters, timeout, lookahead=lookahead), self)

    def batch(
        self, requests: Iterable[Request], *, timeout: float | None = None
    ) -> list[Completion]:
        """Run requests together, each with its own adapters; returns results in the same order.

        timeout: a deadline in seconds for each. They wait for room in the queue instead of raising
        QueueFullError. If one fails, the others are cancelled and its error is raised, such as
        `complete` raises.
        """
        generations: list[Generation] = []
        try:
            for request in requests:
                _check_request(request)
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
        room = asyncio.Semaphore(min(self.capabilities.max_batch, self._runtime.max_queue))

        requests = list(requests)
        for request in requests:
            _check_request(request)

        async def run(request: Request) -> Completion:
            deadline = deadline_of(timeout)
            async with room:
                while True:
                    left = None if deadline is None else max(deadline - time.monotonic(), 1e-9)
                    try:
                        return await self.acomplete(
                            request.prompt,
                            adapters=request.adapters,
                            sampling=request.sampling,
                            timeout=left,
                        )
                    except QueueFullError:  # other requests filled it
                        await asyncio.to_thread(self._runtime.wait_for_room, deadline)

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
        """Answer a conversation, formatted with the model's own chat template.

        messages and tools are in OpenAI's format. Tool calls in the answer are parsed; append
        `reply.message` to continue. Raises what `complete` raises, and BaseModelError
        (template_missing).
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

    def session(
        self,
        *,
        system: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        adapters: Scales | None = None,
        sampling: SamplingParams | None = None,
    ) -> Session:
        """A conversation that keeps its messages: send, stream, edit, regenerate, fork, save.

        Arguments as of `chat`; system: what its first message says. Raises ParameterError.
        """
        chosen = None if adapters is None else self._table.scales(adapters)
        return Session(self, system=system, tools=tools, adapters=chosen, sampling=sampling)

    def chat_prompt(
        self, messages: Sequence[Message], *, tools: Sequence[Mapping[str, Any]] | None = None
    ) -> ChatPrompt:
        """The token ids of a conversation, with its images, ready for the model's answer.

        Raises ParameterError (messages or tools that are none), BaseModelError (template_missing),
        FormatError (a template that fails), and CapabilityError for images if the model does not
        support them.
        """
        if not has_images(messages):
            return ChatPrompt(self._dialogue.prompt(messages, tools))
        return ChatPrompt(*self._dialogue.illustrated(messages, tools, self._runtime.encode_image))

    def parse_reply(self, completion: Completion) -> ChatReply:
        """Parse an answer: its text, tool calls and reasoning.

        What begins like a call and is none is in `malformed`, with the reason.
        """
        return ChatReply(parsed=self._dialogue.parse(completion.text), completion=completion)

    def encode(self, prompt: Prompt) -> list[int]:
        """The token ids that `complete` runs for a text; ids are returned unchanged.

        Raises ParameterError for what is neither.
        """
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt, special=True)
        if isinstance(prompt, ChatPrompt):
            return prompt
        return as_ids(prompt)

    # Submitting.

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
        deadline = deadline_of(timeout)
        if lookahead is not None and not (whole(lookahead) and lookahead >= 0):
            raise ParameterError(f"lookahead must be None or 0 and more, found {shown(lookahead)}")
        images = ids.images if isinstance(ids, ChatPrompt) else {}
        check_prompt(ids, self.capabilities.context, self.capabilities.vocabulary, images)
        check_ids(params.stop_tokens, self.capabilities.vocabulary)
        stops = frozenset(params.stop_tokens)
        if not params.ignore_eos:
            stops |= self._dialogue.stop_tokens
        decoder = self.tokenizer.stream(continuing=True)
        grammar = params.grammar
        constraint = None if grammar is None else self.tokenizer.constraint(grammar)
        chosen = None if adapters is None else self._table.scales(adapters)
        while True:
            if wait:
                self._runtime.wait_for_room(deadline)
            try:
                with self._table.lock:  # so that no named adapter is unloaded before it is queued
                    return self._runtime.submit(
                        Submission(
                            prompt=tuple(ids),
                            params=params,
                            decoder=decoder,
                            stops=stops,
                            constraint=constraint,
                            adapters=None if chosen is None else self._table.resolve(chosen),
                            deadline=deadline,
                            lookahead=lookahead,
                            images=images,
                        )
                    )
            except QueueFullError:
                if not wait:
                    raise


def as_ids(prompt: Iterable[int]) -> list[int]:
    """Token ids as a list. Raises ParameterError for bytes, booleans and other types."""
    if isinstance(prompt, bytes | bytearray | memoryview | Mapping | AbstractSet):
        raise ParameterError(
            f"a prompt is text or token ids, not {type(prompt).__name__}",
            hint="give text, or a list of ids",
        )
    try:
        ids = list(prompt)
        if any(isinstance(token, bool | np.bool_) for token in ids):
            raise ParameterError("a prompt is text or token ids, found a boolean among them")
        return [operator.index(token) for token in ids]
    except TypeError as error:
        raise ParameterError(f"a prompt is text or token ids: {error}") from error


def deadline_of(timeout: float | None) -> float | None:
    """The deadline for a timeout, on the clock of time.monotonic. Raises ParameterError."""
    if timeout is None:
        return None
    if not (real(timeout) and timeout > 0):
        raise ParameterError(f"timeout must be above 0 seconds, found {shown(timeout)}")
    return time.monotonic() + float(min(timeout, FOR_EVER))


def _check_request(request: object) -> None:
    if not isinstance(request, Request):
        raise ParameterError(
            f"a batch is of lorakit.Request, not {shown(request)}",
            hint='lorakit.Request(prompt="...", adapters={"name": 1.0})',
        )
