"""Running tools: a Model's methods that go on until it has no more calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from lorakit.chat.messages import Message
from lorakit.errors import ParameterError
from lorakit.model.adapters import Scales
from lorakit.model.chat_stream import ChatStream
from lorakit.model.generating import Generating
from lorakit.model.tool_loop import ToolStream
from lorakit.model.tool_plan import Ask, Functions, Plan
from lorakit.model.tool_types import ToolKeywords, ToolRun
from lorakit.runtime.params import SamplingParams


class RunningTools(Generating):
    """The part of a Model that runs tools. Thread-safe."""

    def run_tools(
        self,
        messages: Sequence[Message],
        tools: Functions,
        *,
        adapters: Scales | None = None,
        sampling: SamplingParams | None = None,
        timeout: float | None = None,
        **options: Unpack[ToolKeywords],
    ) -> ToolRun:
        """Answer a conversation, run the functions that the model calls, and go on until it has no
        more calls.

        tools: Python functions, whose annotations and docstrings are declared, or lorakit.Tool.
        timeout: for each answer; other arguments as of `chat`, and of the loop: limits, a
        ToolLimits; on_tool_error, "report" (the model reads what a function raised) or "raise";
        concurrent, to run the calls of one reply at the same time; approve, called with each
        ToolCall, which says True, or False or why not; declare=False, not to declare the tools in
        the prompt. A tool_choice that demands a call holds for the first answer alone.
        What is wrong with a call is told to the model. Raises what `chat` raises; ParameterError
        for functions that cannot be tools; with "raise", what a function raised.
        """
        asked = self._tools(messages, tools, adapters, sampling, timeout, None, options)
        return asked.run

    async def arun_tools(
        self,
        messages: Sequence[Message],
        tools: Functions,
        *,
        adapters: Scales | None = None,
        sampling: SamplingParams | None = None,
        timeout: float | None = None,
        **options: Unpack[ToolKeywords],
    ) -> ToolRun:
        """`run_tools` for coroutines: coroutine functions run in this event loop, the others in
        threads. Cancelling the task stops the answer."""
        asked = self._tools(messages, tools, adapters, sampling, timeout, None, options)
        return await asked.arun()

    def stream_tools(
        self,
        messages: Sequence[Message],
        tools: Functions,
        *,
        adapters: Scales | None = None,
        sampling: SamplingParams | None = None,
        timeout: float | None = None,
        lookahead: int | None = 0,
        **options: Unpack[ToolKeywords],
    ) -> ToolStream:
        """`run_tools` as events, sync or async: those of each answer, ToolStarted, ToolFinished,
        and RunEnd at the end. Nothing runs before it is read."""
        return self._tools(messages, tools, adapters, sampling, timeout, lookahead, options)

    def _tools(
        self,
        messages: Sequence[Message],
        tools: Functions,
        adapters: Scales | None,
        sampling: SamplingParams | None,
        timeout: float | None,
        lookahead: int | None,
        options: ToolKeywords,
    ) -> ToolStream:
        if "lookahead" in options:  # no checker saw it
            raise ParameterError("lookahead is for stream_tools, which may be read slowly")
        chosen = None if adapters is None else self._table.scales(adapters)

        def begin(ask: Ask) -> tuple[ChatStream, Sequence[Message]]:
            stream = self.stream(
                ask.messages,
                tools=ask.tools,
                adapters=chosen,
                sampling=sampling,
                timeout=ask.timeout,
                lookahead=lookahead,
                **ask.options,
            )
            return stream, ask.messages

        return ToolStream(Plan(messages, tools, options, timeout), begin)
