"""Generating: answers to prompts and conversations, one or many, at once or piece by piece."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Unpack, cast, overload

from lorakit.chat.calls import cut_off
from lorakit.chat.messages import Message
from lorakit.chat.rendering import DEFAULT, RenderOptions
from lorakit.errors import ParameterError, QueueFullError
from lorakit.model.adapters import Scales
from lorakit.model.chat_stream import ChatStream, Reader
from lorakit.model.choices import several, together
from lorakit.model.conversation import Session
from lorakit.model.fitting import WhenFull
from lorakit.model.prompts import deadline_of, is_conversation, refuse_conversation
from lorakit.model.submitting import Submitting
from lorakit.model.types import (
    ChatKeywords,
    ChatPrompt,
    ChatReply,
    Prompt,
    R_co,
    RenderKeywords,
    Request,
    Tools,
    check_batch,
    check_request,
    repair_of,
    split_keywords,
)
from lorakit.runtime.generation import Completion, Generation, Stream
from lorakit.runtime.params import SamplingOptions, SamplingParams


class Generating(Submitting):
    """The part of a Model that generates. Thread-safe."""

    def complete(
        self,
        prompt: Prompt,
        *,
        adapters: Scales | None = None,
        sampling: SamplingParams | None = None,
        timeout: float | None = None,
        n: int = 1,
        **options: Unpack[SamplingOptions],
    ) -> Completion:
        """Continue a prompt (text, or token ids) and wait for the complete answer.

        sampling and options: see SamplingParams; what they do not say is as in `defaults`. timeout:
        a deadline in seconds. n: how many answers, run together on one computation of the prompt;
        `choices` of the result has all, itself first, the i-th (from 0) with seed + i if there is
        a seed.
        Raises ContextFullError (prompt too long), ParameterError, UnknownAdapterError,
        QueueFullError, DeadlineError, EngineError, ClosedError.
        """
        started: list[Generation] = []
        try:
            for params in several(self._params(sampling, options), n):
                started.append(self._submit(prompt, params, adapters, timeout))
            return together([each.result() for each in started])
        except BaseException:  # Ctrl-C too: the answer would be lost
            _cancel(started)
            raise

    async def acomplete(
        self,
        prompt: Prompt,
        *,
        adapters: Scales | None = None,
        sampling: SamplingParams | None = None,
        timeout: float | None = None,
        n: int = 1,
        **options: Unpack[SamplingOptions],
    ) -> Completion:
        """`complete` for coroutines; cancelling the task cancels the generation."""
        started: list[Generation] = []
        try:
            for params in several(self._params(sampling, options), n):
                await self._prepare(prompt, params)
                started.append(self._submit(prompt, params, adapters, timeout))
            return together([await each.aresult() for each in started])
        except BaseException:
            _cancel(started)
            raise

    @overload
    def stream(
        self,
        prompt: Prompt,
        *,
        adapters: Scales | None = None,
        sampling: SamplingParams | None = None,
        timeout: float | None = None,
        lookahead: int | None = 0,
        **options: Unpack[SamplingOptions],
    ) -> Stream: ...
    @overload
    def stream(
        self,
        prompt: Sequence[Message],
        *,
        tools: Tools | None = None,
        adapters: Scales | None = None,
        sampling: SamplingParams | None = None,
        timeout: float | None = None,
        lookahead: int | None = 0,
        **options: Unpack[ChatKeywords],
    ) -> ChatStream: ...
    def stream(
        self,
        prompt: Prompt | Sequence[Message],
        *,
        tools: Tools | None = None,
        adapters: Scales | None = None,
        sampling: SamplingParams | None = None,
        timeout: float | None = None,
        lookahead: int | None = 0,
        **options: Any,
    ) -> Stream | ChatStream:
        """Continue a prompt piece by piece: `for piece in ...` or `async for piece in ...`.

        Messages, with tools and other arguments as of `chat`, give a ChatStream: events in which
        text, reasoning and calls stand apart.
        A piece never splits a character. With lookahead 0 the next token is computed on demand, so
        a scale changed between two pieces acts on the next one, but for tokens that a constraint
        forces, which come with the one before them; n lets generation run n pieces ahead of the
        reader, None without limit. Raises what `complete` and `chat` raise.
        """
        if is_conversation(prompt):
            render, rest = split_keywords(cast(ChatKeywords, options))
            ids = self._rendered(prompt, tools, render)
            return self.chat_stream(
                ids,
                adapters=adapters,
                sampling=sampling,
                timeout=timeout,
                lookahead=lookahead,
                repair=repair_of(cast(ChatKeywords, options)),
                **rest,
            )
        if tools is not None:
            raise ParameterError(
                "tools are for messages, not for a prompt", hint="stream(messages, tools=tools)"
            )
        params = self._params(sampling, cast(SamplingOptions, options))
        text = cast(Prompt, prompt)
        return Stream(self._submit(text, params, adapters, timeout, lookahead=lookahead), self)

    def batch(
        self, requests: Iterable[Request[R_co]], *, timeout: float | None = None
    ) -> list[R_co]:
        """Run requests together, each with its own adapters; returns results in the same order.

        timeout: a deadline in seconds for each. They wait for room in the queue instead of raising
        QueueFullError. If one fails, the others are cancelled and its error is raised, such as
        `complete` raises.
        """
        check_batch(requests)
        started: list[tuple[Request[R_co], Prompt, Generation]] = []
        try:
            for request in requests:
                prompt, params = self._asked(request)
                generation = self._submit(prompt, params, request.adapters, timeout, wait=True)
                started.append((request, prompt, generation))
            return [self._result(asked, ids, each.result()) for asked, ids, each in started]
        except BaseException:
            _cancel(generation for *_, generation in started)
            raise

    async def abatch(
        self, requests: Iterable[Request[R_co]], *, timeout: float | None = None
    ) -> list[R_co]:
        """`batch` for coroutines."""
        check_batch(requests)
        room = asyncio.Semaphore(min(self.capabilities.max_batch, self._runtime.max_queue))

        requests = list(requests)
        for request in requests:
            check_request(request)

        async def run(request: Request[R_co]) -> R_co:
            deadline = deadline_of(timeout)
            async with room:
                prompt, params = self._asked(request)
                while True:
                    left = None if deadline is None else max(deadline - time.monotonic(), 1e-9)
                    try:
                        completion = await self.acomplete(
                            prompt, adapters=request.adapters, sampling=params, timeout=left
                        )
                        return self._result(request, prompt, completion)
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
        tools: Tools | None = None,
        adapters: Scales | None = None,
        sampling: SamplingParams | None = None,
        timeout: float | None = None,
        n: int = 1,
        **options: Unpack[ChatKeywords],
    ) -> ChatReply:
        """Answer a conversation, formatted with the model's own chat template.

        messages and tools are in OpenAI's format. options: of RenderOptions and SamplingParams. n:
        how many answers, as of `complete`; `choices` of the reply has all, itself first.
        Tool calls in the answer are parsed; append `reply.message` to continue. repair: whether
        those that cannot be read are mended. Raises what `complete` raises, and BaseModelError
        (template_missing).
        """
        render, rest = split_keywords(options)
        ids = self._rendered(messages, tools, render)
        completion = self.complete(
            ids, adapters=adapters, sampling=sampling, timeout=timeout, n=n, **rest
        )
        return self._reply(completion, ids, repair_of(options))

    async def achat(
        self,
        messages: Sequence[Message],
        *,
        tools: Tools | None = None,
        adapters: Scales | None = None,
        sampling: SamplingParams | None = None,
        timeout: float | None = None,
        n: int = 1,
        **options: Unpack[ChatKeywords],
    ) -> ChatReply:
        """`chat` for coroutines."""
        render, rest = split_keywords(options)
        ids = self._rendered(messages, tools, render)
        completion = await self.acomplete(
            ids, adapters=adapters, sampling=sampling, timeout=timeout, n=n, **rest
        )
        return self._reply(completion, ids, repair_of(options))

    def session(
        self,
        *,
        system: str | None = None,
        tools: Tools | None = None,
        adapters: Scales | None = None,
        sampling: SamplingParams | None = None,
        when_full: WhenFull = "stop",
        **options: Unpack[ChatKeywords],
    ) -> Session:
        """A conversation that keeps its messages: send, stream, edit, regenerate, fork, save.

        Arguments as of `chat`; system: what its first message says; when_full: what happens when
        the context is full, see Session. Raises ParameterError.
        """
        render, rest = split_keywords(options)
        return Session(
            self,
            system=system,
            tools=tools,
            adapters=None if adapters is None else self._table.scales(adapters),
            sampling=self._params(sampling, rest) if rest else sampling,
            rendering=render,
            repair=repair_of(options),
            when_full=when_full,
        )

    def chat_prompt(
        self,
        messages: Sequence[Message],
        *,
        tools: Tools | None = None,
        **options: Unpack[RenderKeywords],
    ) -> ChatPrompt:
        """The token ids of a conversation, with its images, ready for the model's answer.

        Raises ParameterError (messages or tools that are none), BaseModelError (template_missing),
        FormatError (a template that fails), and CapabilityError for images if the model does not
        support them.
        """
        return self._rendered(messages, tools, RenderOptions(**options) if options else DEFAULT)

    def chat_stream(
        self,
        prompt: ChatPrompt,
        *,
        adapters: Scales | None = None,
        sampling: SamplingParams | None = None,
        timeout: float | None = None,
        lookahead: int | None = 0,
        repair: bool = False,
        **options: Unpack[SamplingOptions],
    ) -> ChatStream:
        """`stream` for what `chat_prompt` made."""
        refuse_conversation(prompt)
        stream = self.stream(
            prompt,
            adapters=adapters,
            sampling=sampling,
            timeout=timeout,
            lookahead=lookahead,
            **options,
        )
        parse = partial(self.parse_reply, prompt=prompt, repair=repair)
        return ChatStream(stream, self.reader(prompt, repair=repair), parse)

    def reader(self, prompt: Prompt | None = None, *, repair: bool = False) -> Reader:
        """What makes events of the pieces of an answer to a prompt."""
        reasons, tools = _reasons(prompt), _tools(prompt)
        return self._dialogue.reader(reasons=reasons, repair=repair, tools=tools)

    def parse_reply(
        self, completion: Completion, prompt: Prompt | None = None, *, repair: bool = False
    ) -> ChatReply:
        """Parse an answer: its text, tool calls and reasoning.

        What begins like a call and is none is in `malformed`, with the reason. prompt: what it
        answers, if `chat_prompt` made it: that says whether the answer begins within reasoning, and
        of which types the arguments of its tools are.
        repair: whether such calls are mended where it is clear what was meant: see `repairs`.
        """
        parsed = self._dialogue.parse(
            completion.text, reasons=_reasons(prompt), repair=repair, tools=_tools(prompt)
        )
        if completion.finish_reason == "length":
            parsed = cut_off(parsed, completion.text)
        return ChatReply(parsed=parsed, completion=completion)

    # Requests and replies.

    def _reply(self, completion: Completion, prompt: Prompt, repair: bool) -> ChatReply:
        """The reply of an answer, with those of its other choices."""
        parse = partial(self.parse_reply, prompt=prompt, repair=repair)
        first, *others = map(parse, completion.choices)
        return replace(first, others=tuple(others)) if others else first

    def _asked(self, request: Request[Any]) -> tuple[Prompt, SamplingParams]:
        """A request's prompt and parameters. Raises ParameterError."""
        check_request(request)
        render, options = split_keywords(request.keywords)
        params = self._params(request.sampling, options)
        if request.messages is None:
            return cast(Prompt, request.prompt), params
        return self._rendered(request.messages, request.tools, render), params

    def _result(self, request: Request[R_co], prompt: Prompt, completion: Completion) -> R_co:
        if request.messages is None:
            return cast(R_co, completion)
        repair = repair_of(request.keywords)
        return cast(R_co, self.parse_reply(completion, prompt, repair=repair))


def _cancel(generations: Iterable[Generation]) -> None:
    for generation in generations:
        generation.cancel()


def _reasons(prompt: Prompt | None) -> bool | None:
    """Whether the answer to a prompt begins within reasoning; None where that is not known."""
    return prompt.reasons if isinstance(prompt, ChatPrompt) else None


def _tools(prompt: Prompt | None) -> Tools | None:
    """The tools that the answer to a prompt may call; None where they are not known."""
    return prompt.tools if isinstance(prompt, ChatPrompt) else None
