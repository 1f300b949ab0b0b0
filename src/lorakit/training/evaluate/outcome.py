"""What came of one example: the answer, what is right in it, and what it cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lorakit.chat.calls import ToolCall, call_of
from lorakit.training.data import Example
from lorakit.training.evaluate.matching import Pair

NO_CALL, INVALID = "(no call)", "(invalid)"  # in the place of a tool's name


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One example and its answer.

    text: the answer as it was generated; calls: those in it. pairs: of an example of calls, each
    wanted call with what came in its place. invalid: why the answer cannot be carried out as it
    is: a call that cannot be read or that the declarations refuse, or no end. score: from 0 to 1;
    None where nothing was generated. tokens: generated, the one that stopped it included.
    seconds: from asking to the end; its own time only if it ran alone, else the batch's.
    constrained: whether its calls were kept to the tools. loss: sum of the negative log likelihoods
    of the `learnt` tokens of the right answer, in nats.
    """

    example: Example
    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    pairs: tuple[Pair, ...] = ()
    invalid: tuple[str, ...] = ()
    score: float | None = None
    prompt_tokens: int = 0
    tokens: int = 0
    seconds: float = 0.0
    alone: bool = False
    constrained: bool = False
    loss: float = 0.0
    learnt: int = 0

    @property
    def exact(self) -> bool:
        """Whether it is right in everything."""
        return self.score is not None and self.score >= 1.0

    @property
    def expected(self) -> tuple[ToolCall, ...]:
        """The calls that are wanted; none where none of the tools fits."""
        return expected_calls(self.example)

    @property
    def abstained(self) -> bool:
        """Whether it calls nothing, and does not try to."""
        return not self.calls and not self.invalid

    @property
    def names_right(self) -> bool:
        """Whether it calls the wanted tools, and no others."""
        return not self.invalid and all(pair.same_tool for pair in self.pairs)

    @property
    def arguments_right(self) -> bool:
        """Whether the calls of the right tools have the right arguments."""
        return not any(pair.faults for pair in self.pairs)

    @property
    def mistaken(self) -> Iterator[tuple[str, str]]:
        """(wanted tool, called tool) of every call; the same twice where the tool is right."""
        instead = INVALID if self.invalid and not self.calls else NO_CALL
        for pair in self.pairs:
            wanted = pair.expected.name if pair.expected else NO_CALL
            yield wanted, pair.got.name if pair.got else instead
        if not self.pairs and self.invalid:
            yield NO_CALL, INVALID

    @property
    def request(self) -> str:
        """What was asked last, as text."""
        return asked(self.example)

    @property
    def wanted(self) -> str:
        """The right answer, for reading."""
        return "; ".join(map(str, self.expected)) or expected_text(self.example) or NO_CALL

    @property
    def answered(self) -> str:
        """The answer, for reading: its calls where it has nothing else."""
        clean = bool(self.calls) and not self.invalid
        return "; ".join(map(str, self.calls)) if clean else self.text or NO_CALL

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        said: dict[str, Any] = {"place": self.example.place, "phrasing": self.example.phrasing}
        if self.score is not None:
            said |= {"score": self.score, "exact": self.exact, "text": self.text}
            said |= {"prompt_tokens": self.prompt_tokens, "tokens": self.tokens}
            said |= {"seconds": round(self.seconds, 4), "alone": self.alone}
            said["constrained"] = self.constrained
            said["invalid"] = list(self.invalid)
        if self.example.task == "calls":
            said["expected"] = [_plain(call) for call in self.expected]
            said["got"] = [_plain(call) for call in self.calls]
            said["faults"] = [
                {"tool": pair.got.name, "argument": name, "fault": kind}
                for pair in self.pairs
                for name, kind in pair.faults
                if pair.got is not None
            ]
        if self.learnt:
            said |= {"loss": self.loss, "learnt_tokens": self.learnt}
        return said


def asked(example: Example) -> str:
    """What an example asks last: its user's words, or the result of a tool."""
    said = [m for m in example.messages[:-1] if m.get("role") in ("user", "tool")]
    return content_of(said[-1]) if said else example.prompt or example.text


def expected_calls(example: Example) -> tuple[ToolCall, ...]:
    """The calls of the turn that an example ends with."""
    calls = example.messages[-1].get("tool_calls") if example.messages else None
    return tuple(
        call_of(each, f"{example.place}: the last turn's tool_calls[{i}]")
        for i, each in enumerate(calls or ())
    )


def expected_text(example: Example) -> str:
    """The text that an example ends with."""
    return content_of(example.messages[-1]) if example.messages else example.text


def content_of(message: Mapping[str, Any]) -> str:
    """A message's content as text; a list's parts one after another."""
    content = message.get("content")
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return content if isinstance(content, str) else ""


def _plain(call: ToolCall) -> dict[str, Any]:
    return {"name": call.name, "arguments": dict(call.arguments)}
