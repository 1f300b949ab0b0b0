"""One example to learn from, a file of them, and what is wrong with the rest.

An example is one conversation (or text) whose end is to be learnt. What it knows nothing of: how
its file was written, tokens, and the template that renders it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lorakit.errors import FormatError, page

Task = Literal["calls", "chat", "completion", "text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """What one line of a file teaches.

    task: "calls" where the last turn calls tools, or declines to although there are some.
    place: where it stands, such as "train.jsonl:12". messages: of calls and chat, in OpenAI's
    shape with the arguments of calls as objects, ending with an assistant's turn. tools:
    declarations in OpenAI's shape. prompt: what precedes a completion. text: the completion, or
    the whole text. phrasing: the request with the values of its calls masked; examples that
    differ in values alone have the same one.
    """

    task: Task
    place: str
    messages: tuple[Mapping[str, Any], ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    prompt: str = ""
    text: str = ""
    phrasing: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Why a line is no example, or should not be one; `code` is stable and meant for programs."""

    place: str
    reason: str
    code: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """The examples of a file, and a fault for every line that is none.

    ignored: keys of its rows that are no part of an example, each with how many rows have it.
    """

    examples: tuple[Example, ...]
    faults: tuple[Fault, ...] = ()
    ignored: Mapping[str, int] = field(default_factory=dict)

    def require(self) -> tuple[Example, ...]:
        """The examples. Raises FormatError with every fault, or where there is no example."""
        if self.faults:
            lines = len({fault.place for fault in self.faults})
            raise FormatError(
                f"{lines} line{'s' * (lines > 1)} of the data cannot be used",
                items=[str(fault) for fault in self.faults],
                hint="mend or remove them; `lorakit data validate FILE` lists them",
            )
        if not self.examples:
            raise FormatError(
                "the data holds no example",
                hint='one line is {"messages": [...], "tools": [...]}; see ' + page("data"),
            )
        return self.examples
