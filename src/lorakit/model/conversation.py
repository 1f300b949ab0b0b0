"""A conversation with a model: its messages can be edited, forked and saved.

It holds text and no KV. The runtime's prefix cache finds the KV of earlier messages again, so a
fork or another answer to the same message costs only its new tokens.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol, Unpack

from lorakit.chat.messages import Message
from lorakit.chat.rendering import DEFAULT, RenderOptions
from lorakit.chat.spelled import RESULTS
from lorakit.engines.protocol import Capabilities
from lorakit.errors import ContextFullError, ParameterError
from lorakit.model.adapters import Scales, as_scales
from lorakit.model.chat_stream import ChatStream, Reader
from lorakit.model.fitting import Fitted, Fitting, WhenFull, require_when_full
from lorakit.model.session_file import Saved, read_saved, write_saved
from lorakit.model.tool_loop import ToolStream
from lorakit.model.tool_plan import Ask, Functions, Plan
from lorakit.model.tool_types import ToolKeywords, ToolRun
from lorakit.model.types import (
    ChatKeywords,
    ChatPrompt,
    ChatReply,
    Prompt,
    RenderKeywords,
    Tools,
    keywords_of,
    repair_of,
    split_keywords,
)
from lorakit.runtime.generation import Completion, Stream
from lorakit.runtime.params import SamplingOptions, SamplingParams, sampling_params
from lorakit.values import shown

log = logging.getLogger("lorakit")


class Talker(Protocol):
    """What a session needs of a Model."""

    @property
    def capabilities(self) -> Capabilities: ...

    def chat_prompt(
        self,
        messages: Sequence[Message],
        *,
        tools: Tools | None = None,
        **options: Unpack[RenderKeywords],
    ) -> ChatPrompt: ...

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

    def reader(self, prompt: Prompt | None = None, *, repair: bool = False) -> Reader: ...

    def parse_reply(
        self, completion: Completion, prompt: Prompt | None = None, *, repair: bool = False
    ) -> ChatReply: ...


class Session:
    """A conversation. Use it from one thread at a time; the model may serve others meanwhile.

    messages: in OpenAI's format, oldest first; may be read, and changed between two turns.
    adapters: for this conversation only, as in `Model.chat`; None follows the active set.
    when_full: what becomes of a conversation that leaves the context no room for an answer. "stop"
    raises ContextFullError; "drop" drops its oldest turns, "summarise" has the model summarise them
    first, which is waited for. The system message and the tools stay.
    repair: whether calls that cannot be read are mended, where a turn does not say.
    """

    def __init__(
        self,
        model: Talker,
        *,
        system: str | None = None,
        messages: Sequence[Message] = (),
        tools: Tools | None = None,
        adapters: Scales | None = None,
        sampling: SamplingParams | None = None,
        rendering: RenderOptions = DEFAULT,
        repair: bool = False,
        when_full: WhenFull = "stop",
    ) -> None:
        """Made by `Model.session`."""
        require_when_full(when_full)
        self._model = model
        self.messages: list[dict[str, Any]] = [copy.deepcopy(dict(m)) for m in messages]
        if system is not None:
            self.messages.insert(0, {"role": "system", "content": system})
        self.tools = tools
        self.adapters: dict[str, float] | None = None if adapters is None else as_scales(adapters)
        self.sampling = sampling
        self.rendering = rendering
        self.repair = repair
        self.when_full: WhenFull = when_full

    def send(self, content: Any, **options: Unpack[ChatKeywords]) -> ChatReply:
        """Send a message and wait for the answer; both are kept. Raises what `Model.chat` raises;
        the conversation is then unchanged."""
        return _wait(self.stream(content, **options))

    def stream(self, content: Any, **options: Unpack[ChatKeywords]) -> Turn:
        """Send a message and stream the answer; both are kept once it has ended."""
        _refuse_messages(content)
        return self._turn([*self.messages, {"role": "user", "content": content}], options)

    def stream_from(self, messages: Sequence[Message], **options: Unpack[ChatKeywords]) -> Turn:
        """Stream the answer to messages that take the place of the conversation's, with the
        answer, once it has ended. The others here are ways to say which messages."""
        return self._turn([copy.deepcopy(dict(message)) for message in messages], options)

    def answer(self, results: Sequence[Message], **options: Unpack[ChatKeywords]) -> ChatReply:
        """Send the results of tool calls (messages of the role "tool") and wait for the answer.

        `stream_from([*session.messages, *results])` streams it.
        """
        if isinstance(results, str | Mapping) or not all(isinstance(r, Mapping) for r in results):
            raise ParameterError(
                f"the results of tool calls are a list of messages, not {shown(results)}",
                hint='each is {"role": "tool", "tool_call_id": call.id, "name": call.name, '
                '"content": "..."}',
            )
        if others := [result for result in results if result.get("role") not in RESULTS]:
            raise ParameterError(
                f'a result of a tool call has the role "tool", not {shown(others[0].get("role"))}',
                hint="what the user says goes through send or stream",
            )
        if not results:
            raise ParameterError("there is no result to answer", hint="regenerate() answers anew")
        return _wait(self._turn([*self.messages, *map(dict, results)], options))

    def run_tools(self, content: Any, tools: Functions, **options: Unpack[ToolKeywords]) -> ToolRun:
        """Send a message, run the functions that the model calls, and go on until it has no more
        calls, see `Model.run_tools`; the tools are in place of the session's own meanwhile. All of
        it is kept, also where a limit ended it. Where it raises, the conversation is unchanged."""
        return self._tools(content, tools, None, options).run

    async def arun_tools(
        self, content: Any, tools: Functions, **options: Unpack[ToolKeywords]
    ) -> ToolRun:
        """`run_tools` for coroutines."""
        return await self._tools(content, tools, None, options).arun()

    def stream_tools(
        self, content: Any, tools: Functions, **options: Unpack[ToolKeywords]
    ) -> ToolStream:
        """`run_tools` as events, see `Model.stream_tools`; kept once it has ended."""
        return self._tools(content, tools, 0, options)

    def regenerate(self, **options: Unpack[ChatKeywords]) -> ChatReply:
        """Replace the last answer with a new one."""
        end = self._last_user() + 1
        return _wait(self._turn(self.messages[:end], options))

    def edit_last(self, content: Any, **options: Unpack[ChatKeywords]) -> ChatReply:
        """Replace the last user message, drop what follows, and wait for a new answer."""
        _refuse_messages(content)
        start = self._last_user()
        changed = {**self.messages[start], "content": content}
        return _wait(self._turn([*self.messages[:start], changed], options))

    def fork(self) -> Session:
        """An independent copy that continues from here."""
        return Session(
            self._model,
            messages=self.messages,
            tools=self.tools,
            adapters=self.adapters,
            sampling=self.sampling,
            rendering=self.rendering,
            repair=self.repair,
            when_full=self.when_full,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the conversation as JSON, whole or not at all.

        Raises ParameterError for values that JSON cannot hold (images given as bytes, lone
        surrogates, NaN) and for invalid conversations, and WriteError.
        """
        write_saved(
            path,
            Saved(
                messages=self.messages,
                tools=self.tools,
                adapters=self.adapters,
                sampling=self.sampling,
                rendering=self.rendering,
            ),
        )

    def __repr__(self) -> str:
        count = len(self.messages)
        own = "" if self.adapters is None else f", adapters {shown(self.adapters)}"
        return f"<Session of {count} message{'s' * (count != 1)}{own}>"

    @classmethod
    def load(
        cls,
        model: Talker,
        path: str | os.PathLike[str],
        *,
        sampling: SamplingParams | None = None,
        repair: bool = False,
        when_full: WhenFull = "stop",
    ) -> Session:
        """Read what `save` wrote. The adapters it names must be loaded before it continues.

        sampling: replaces the saved one. repair and when_full are not saved. Raises SourceError
        and FormatError.
        """
        saved = read_saved(path)
        return cls(
            model,
            messages=saved.messages,
            tools=saved.tools,
            adapters=saved.adapters,
            sampling=saved.sampling if sampling is None else sampling,
            rendering=saved.rendering,
            repair=repair,
            when_full=when_full,
        )

    def _turn(
        self,
        messages: list[dict[str, Any]],
        options: ChatKeywords,
        *,
        timeout: float | None = None,
        lookahead: int | None = 0,
    ) -> Turn:
        given: ChatKeywords = {
            **keywords_of(self.rendering),
            "repair": self.repair,
            **options,
        }
        render, sampling = split_keywords(given)
        fitted = self._fitting(render, sampling)(messages)
        try:
            stream = self._model.stream(
                fitted.prompt,
                adapters=self.adapters,
                sampling=self.sampling,
                timeout=timeout,
                lookahead=lookahead,
                **sampling,
            )
        except ContextFullError as error:
            if self.when_full == "stop" and len(messages) > 1:
                error.hint = 'shorten the conversation; when_full="drop" drops its oldest turns'
            raise
        if fitted.dropped:
            what = "summarised" if fitted.summary else "dropped"
            if fitted.unsummarised:
                what += f"; there is no summary: {fitted.unsummarised}"
            log.info("the context is full: the oldest %d messages are %s", fitted.dropped, what)
        return Turn(self, fitted, stream, self._model, repair=repair_of(given))

    def _tools(
        self, content: Any, tools: Functions, lookahead: int | None, options: ToolKeywords
    ) -> ToolStream:
        """The run happens in a copy, which takes this one's place at the end."""
        _refuse_messages(content)
        if (
            self.rendering.tool_choice is not None
        ):  # which the plan takes back after the first reply
            options = {"tool_choice": self.rendering.tool_choice, **options}
        before, inner = list(self.messages), self.fork()

        def begin(ask: Ask) -> tuple[ChatStream, Sequence[Message]]:
            inner.tools = ask.tools
            turn = inner._turn(ask.messages, ask.options, timeout=ask.timeout, lookahead=lookahead)
            return turn, turn.messages

        def end(run: ToolRun) -> None:
            _require_unchanged(self.messages == before)
            self.messages[:] = copy.deepcopy(list(run.messages))

        asked = [*self.messages, {"role": "user", "content": content}]
        return ToolStream(Plan(asked, tools, options, None), begin, end)

    def _fitting(self, render: RenderOptions, sampling: SamplingOptions) -> Fitting:
        require_when_full(self.when_full)  # it may be set at any time
        keywords = keywords_of(render)
        return Fitting(
            when_full=self.when_full,
            context=self._model.capabilities.context,
            answer=sampling_params(self.sampling, sampling).max_tokens,
            render=lambda said: self._model.chat_prompt(said, tools=self.tools, **keywords),
            summarise=self._summary,
        )

    def _summary(self, prompt: ChatPrompt, tokens: int) -> str:
        """What the model says to a prompt, greedily."""
        asked = SamplingParams(max_tokens=tokens)
        prompt.set_free()  # a summary calls nothing
        stream = self._model.stream(prompt, adapters=self.adapters, sampling=asked)
        try:
            completion = stream.result()
        except BaseException:  # Ctrl-C too
            stream.cancel()
            raise
        return self._model.parse_reply(completion, prompt).text.strip()

    def _last_user(self) -> int:
        for index in range(len(self.messages) - 1, -1, -1):
            if self.messages[index].get("role") == "user":
                return index
        raise ParameterError("the conversation holds no message of the user yet")


class Turn(ChatStream):
    """One answer in progress, which the conversation keeps once it has ended: a ChatStream.

    messages: what it answers. dropped: how many of the conversation's oldest messages went, as the
    context was full; summary: what the model said of those, "" if it was not asked; unsummarised:
    why there is no summary, where one was to be.
    """

    def __init__(
        self,
        session: Session,
        fitted: Fitted,
        stream: Stream,
        model: Talker,
        *,
        repair: bool = False,
    ) -> None:
        """Made by a Session."""
        parse = partial(model.parse_reply, prompt=fitted.prompt, repair=repair)
        super().__init__(stream, model.reader(fitted.prompt, repair=repair), parse)
        self._session = session
        self._before = list(session.messages)
        self.messages = tuple(fitted.messages)
        self.dropped = fitted.dropped
        self.summary = fitted.summary
        self.unsummarised = fitted.unsummarised

    def cancel(self) -> None:
        """Stop the answer; the conversation stays as it was before this turn."""
        super().cancel()

    close = cancel

    def _finish(self, completion: Completion) -> ChatReply:
        _require_unchanged(self._session.messages == self._before)
        reply = super()._finish(completion)
        self._session.messages[:] = [*self.messages, reply.message]
        return reply


def _refuse_messages(content: object) -> None:
    """Raise ParameterError for messages where what one of the user says is expected."""
    parts = content if isinstance(content, list | tuple) else [content]
    if any(isinstance(part, Mapping) and "role" in part for part in parts):
        raise ParameterError(
            "expected what the user says, a text or a list of parts, found messages",
            hint="answer(results) sends the results of calls; stream_from([*session.messages, "
            "*results]) streams the answer to them",
        )


def _require_unchanged(same: bool) -> None:
    if not same:
        raise ParameterError(
            "the conversation was changed while this answer was written",
            hint="read one answer to its end before the next turn; fork() for two at once",
        )


def _wait(turn: Turn) -> ChatReply:
    try:
        return turn.reply
    except BaseException:  # Ctrl-C too
        turn.cancel()
        raise
