"""What a base must not lose: requests, its own answers to them, and examples made of those.

Without replay a base's own tools are lost with the first new ones. Nobody has its training data;
but it can be asked, and what it answers is what it should go on answering. Answers are taken as
the very tokens that were generated, one that was cut without its end.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lorakit.chat.calls import ParsedReply
from lorakit.chat.tools import validate_call
from lorakit.errors import FormatError
from lorakit.files.bounded import parse_json, read_text
from lorakit.training.data import Example
from lorakit.training.data.everyday import everyday_tools, requests_apart_from
from lorakit.training.data.shapes import call_message
from lorakit.training.render import Rendered

ANSWER_TOKENS = 64  # of a replayed answer
DECLARED = 1 / 3  # of the everyday requests are asked with declarations in the prompt too
MOST_DECLARED = 5  # tools


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request to the base: a conversation that waits for its answer."""

    place: str
    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A request with the base's own answer. complete: it ended by itself."""

    asked: Asked
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    reply: ParsedReply
    complete: bool

    def rendered(self) -> Rendered:
        """The row to learn it from."""
        marks = (False,) * len(self.prompt) + (True,) * len(self.tokens)
        return Rendered(ids=self.prompt + self.tokens, answers=marks)

    def example(self) -> Example | None:
        """The example to measure by; None for an answer that cannot be compared.

        Calls that the declared tools refuse cannot: an evaluation counts them as invalid.
        """
        message, tools = self.reply.to_message(), self.asked.tools
        if not self.complete or self.reply.malformed or not (message["content"] or self.calls):
            return None
        if tools and any(validate_call(call, tools) for call in self.reply.tool_calls):
            return None
        if self.calls:
            message["tool_calls"] = [
                call_message(call.name, dict(call.arguments)) for call in self.reply.tool_calls
            ]
        return Example(
            task="calls" if self.calls else "chat",
            place=self.asked.place,
            messages=(*self.asked.messages, message),
            tools=tools,
        )

    @property
    def calls(self) -> bool:
        """Whether it calls tools."""
        return bool(self.reply.tool_calls)


def everyday(examples: Sequence[Example]) -> list[Asked]:
    """The shipped everyday requests, without those that ask for what the examples teach.

    Where those call tools, some are asked with declarations too: a prompt that begins with them is
    another one to a model, which else loses what it does there.
    """
    lines = requests_apart_from(examples)
    asked = [_asked("everyday requests", i, line) for i, line in enumerate(lines, 1)]
    if not any(example.task == "calls" for example in examples):
        return asked
    rng, tools = random.Random("declared"), everyday_tools()
    chosen = rng.sample(asked, round(len(asked) * DECLARED))
    return asked + [
        replace(each, tools=tuple(rng.sample(tools, rng.randint(1, MOST_DECLARED))))
        for each in chosen
    ]


def read_requests(path: Path) -> list[Asked]:
    """The requests of a text file, one a line; a line of JSON holds messages and perhaps tools.

    Raises SourceError, and FormatError with every line that is none.
    """
    found: list[Asked] = []
    faults: list[str] = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        try:
            if line.strip():
                found.append(_asked(path.name, number, line.strip()))
        except ValueError as error:
            faults.append(f"{path.name}:{number}: {error}")
    if faults or not found:
        raise FormatError(
            f"{path} holds no requests" if not faults else f"{path} has lines that are no requests",
            items=faults,
            hint='one request a line, as text or as {"messages": [...], "tools": [...]}',
        )
    return found


def _asked(name: str, number: int, line: str) -> Asked:
    place = f"{name}:{number}"
    if not line.startswith("{"):
        return Asked(place=place, messages=({"role": "user", "content": line},))
    record = parse_json(line.encode())
    messages, tools = record.get("messages"), record.get("tools") or []
    if not isinstance(messages, list) or not messages or not isinstance(tools, list):
        raise ValueError("expected messages, a list, and tools, a list or nothing")
    if not all(isinstance(m, dict) for m in (*messages, *tools)):
        raise ValueError("messages and tools are objects")
    if messages[-1].get("role") == "assistant":
        raise ValueError("its last message is an answer; labelled examples are for replay")
    return Asked(place=place, messages=tuple(messages), tools=tuple(tools))
