"""What a server's events say: pieces of text, reasoning and calls, then how it ended.

Every field that is used is checked; a wrong one is the server's fault, and the request's alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lorakit.chat.calls import BadCallError, Malformed, ParsedReply, Repair, ToolCall, check_call
from lorakit.chat.events import CallStart, Delta, ReasoningDelta, TextDelta
from lorakit.chat.formats.mending import mend_arguments
from lorakit.chat.in_progress import CallInProgress, whole_call
from lorakit.errors import RequestError, ServerError
from lorakit.files.bounded import parse_json
from lorakit.remote.refusals import Broken, RefusalError
from lorakit.runtime.generation import Completion, FinishReason, Usage
from lorakit.runtime.sampling import Choice
from lorakit.values import real, shown, whole

TokenId = Callable[[bytes], int | None]  # the id of a token that adds these bytes
MAX_CALLS = 1000
REASONS = ("reasoning_content", "reasoning")  # the same, as two servers have it
FINISHES: Mapping[str, FinishReason] = {
    "stop": "stop",
    "tool_calls": "stop",
    "function_call": "stop",
    "eos": "stop",
    "length": "length",
    "model_length": "length",
}
_AS_IDS = "token_id:"  # how vLLM writes an id in a text's place


class Piece(str):
    """A piece of text, with the deltas that it is made of."""

    deltas: tuple[Delta, ...] = ()

    @classmethod
    def of(cls, deltas: Sequence[Delta]) -> Piece:
        piece = cls("".join(one.text for one in deltas if isinstance(one, TextDelta)))
        piece.deltas = tuple(deltas)
        return piece


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteCompletion(Completion):
    """A Completion with its reply, which the server took apart; mended: with calls that cannot be
    read mended."""

    parsed: ParsedReply = field(repr=False)
    mended: ParsedReply = field(repr=False)


class Answer:
    """An answer that is being read. `take` gives what an event adds; then `finish` and the rest."""

    def __init__(self, broken: Broken, token_id: TokenId | None, top: int | None) -> None:
        """token_id: for servers that name none. top: how many alternatives were asked for."""
        self.finish: FinishReason | None = None
        self.usage = Usage(prompt_tokens=0, completion_tokens=0, cached_tokens=0)
        self.tokens: list[Choice] = []
        self._broken, self._token_id, self._top = broken, token_id, top
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, _Call] = {}
        self._ended: list[ToolCall | Malformed] = []
        self._place = 0  # of the next call among those that can be read

    def take(self, event: object) -> list[Delta]:
        """What an event adds. Raises RefusalError for an error, and what `broken` makes."""
        if not isinstance(event, Mapping):
            raise self._broken(f"an event is an object, not {shown(event)}")
        if event.get("error"):
            raise RefusalError.within(event["error"])
        if event.get("usage") is not None:
            self.usage = self._usage(event["usage"])
        choices = event.get("choices") or []
        if not isinstance(choices, list) or not all(isinstance(one, Mapping) for one in choices):
            raise self._broken(f"choices are a list of objects, not {shown(choices)}")
        found: list[Delta] = []
        for choice in choices:
            if choice.get("index") or 0:
                raise self._broken("it sends a choice that was not asked for")
            found += self._choice(choice)
        return found

    def reply(self, *, repair: bool = False) -> ParsedReply:
        """The whole of it, taken apart. repair: whether calls that cannot be read are mended."""
        calls: list[ToolCall] = []
        malformed: list[Malformed] = []
        repairs: list[Repair] = []
        for said, one in zip(self._calls.values(), self._ended, strict=False):
            mended = None if isinstance(one, ToolCall) or not repair else said.mend()
            if isinstance(one, ToolCall):
                calls.append(one)
            elif mended is None:
                malformed.append(one)
            else:
                call, done = mended
                repairs += [Repair(index=len(calls), words=words) for words in done]
                calls.append(call)
        return ParsedReply(
            text=self.text,
            tool_calls=tuple(calls),
            malformed=tuple(malformed),
            reasoning="".join(self._reasoning),
            repairs=tuple(repairs),
        )

    @property
    def text(self) -> str:
        return "".join(self._text)

    def _choice(self, choice: Mapping[str, Any]) -> Iterable[Delta]:
        delta = choice.get("delta") or self._message(choice) or choice
        if not isinstance(delta, Mapping):
            raise self._broken(f"a delta is an object, not {shown(delta)}")
        thought = next((said for name in REASONS if (said := self._said(delta, name))), "")
        if thought:
            self._reasoning.append(thought)
            yield ReasoningDelta(thought)
        for name in ("content", "text", "refusal"):
            if said := self._said(delta, name):
                self._text.append(said)
                yield TextDelta(said)
        yield from self._take_calls(delta.get("tool_calls") or ())
        if self._top is not None and choice.get("logprobs"):
            self.tokens += self._logprobs(choice["logprobs"], self._top)
        if (reason := choice.get("finish_reason")) is not None:
            self.finish = self._finish(reason)
            yield from self._end_calls()

    def _message(self, choice: Mapping[str, Any]) -> Any:
        """What some servers send in one piece, and others again once all of it was said."""
        begun = self._text or self._reasoning or self._calls
        return None if begun else choice.get("message")

    def _said(self, delta: Mapping[str, Any], name: str) -> str:
        said = delta.get(name)
        try:
            if isinstance(said, str | None):
                (said or "").encode()  # half a surrogate pair is no text
                return said or ""
        except UnicodeEncodeError:
            pass
        raise self._broken(f"{name} is a text, not {shown(said)}")

    def _finish(self, reason: object) -> FinishReason:
        if reason == "content_filter":
            raise RequestError(
                "the server's content filter ended the answer", hint="say it in other words"
            )
        if reason in ("error", "abort", "insufficient_system_resource"):
            raise ServerError(f"the server gave the answer up: {reason}", hint="try again")
        if not isinstance(reason, str) or reason not in FINISHES:
            raise self._broken(f"it ends for a reason that is not known: {shown(reason)}")
        return FINISHES[reason]

    # Calls.

    def _take_calls(self, calls: Any) -> Iterable[Delta]:
        if not isinstance(calls, list | tuple):
            raise self._broken(f"tool_calls are a list, not {shown(calls)}")
        for said in calls:
            function = said.get("function") if isinstance(said, Mapping) else None
            if not isinstance(function, Mapping):
                raise self._broken(f"a call has a function, not {shown(said)}")
            begins = bool(function.get("name"))
            index = said.get("index")
            if index is None:  # some servers leave it out: a name begins a call
                index = len(self._calls) - (not begins)
            if not whole(index) or not 0 <= index < MAX_CALLS:
                raise self._broken(f"the index of a call is {shown(index)}")
            if index not in self._calls:
                yield from self._end_calls()
                self._calls[index] = _Call(place=len(self.text))
            call = self._calls[index]
            if call.ended:
                raise self._broken(f"it goes on with call {index}, which had ended")
            call.name += self._said(function, "name")
            call.id = call.id or self._said(said, "id")
            said_now = self._said(function, "arguments")
            call.arguments.append(said_now)
            yield from call.tell(said_now, self._place)

    def _end_calls(self) -> Iterable[Delta]:
        for index, call in self._calls.items():
            if not call.ended:
                call.ended = True
                taken = {one.id for one in self._calls.values() if one.ended and one is not call}
                if not call.id or call.id in taken:  # some servers call all of them "0"
                    call.id = f"call_{index}"
                self._ended.append(ended := call.end())
                yield from call.told(ended, self._place)
                self._place += isinstance(ended, ToolCall)

    # Numbers.

    def _usage(self, said: object) -> Usage:
        if not isinstance(said, Mapping):
            raise self._broken(f"usage is an object, not {shown(said)}")
        details = said.get("prompt_tokens_details")
        details = details if isinstance(details, Mapping) else {}
        return Usage(
            prompt_tokens=self._count(said, "prompt_tokens"),
            completion_tokens=self._count(said, "completion_tokens"),
            cached_tokens=self._count(details, "cached_tokens"),
        )

    def _count(self, said: Mapping[str, Any], name: str) -> int:
        value = said.get(name)
        if value is None:
            return 0
        if not whole(value) or not 0 <= value < 1 << 40:
            raise self._broken(f"{name} is a count of tokens, not {shown(value)}")
        return int(value)

    def _logprobs(self, said: object, top: int) -> list[Choice]:
        if not isinstance(said, Mapping):
            raise self._broken(f"logprobs are an object, not {shown(said)}")
        content = said.get("content")
        try:
            rows = _rows(said) if content is None else [_row(one) for one in content]
            return [
                Choice(self._id(token), _log(value), self._best(best, top))
                for token, value, best in rows
            ]
        except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
            raise self._broken(f"its log probabilities cannot be read: {error!r:.100}") from error

    def _best(self, best: Iterable[_Valued], top: int) -> tuple[tuple[int, float], ...]:
        return tuple((self._id(token), _log(value)) for token, value in [*best][:top])

    def _id(self, token: _Token) -> int:
        """A token's id: the server's own, or that of its bytes."""
        if token.id is not None:
            return token.id
        found = None if self._token_id is None else self._token_id(token.content)
        if found is None:
            raise ValueError(f"the tokenizer has no token {token.content!r:.40}")
        return found


@dataclass(slots=True)
class _Call:
    """A call that comes in pieces."""

    place: int
    name: str = ""
    id: str = ""
    arguments: list[str] = field(default_factory=list)
    ended: bool = False
    progress: CallInProgress | None = None  # once there were arguments, so that the name is whole

    def tell(self, arguments: str, index: int) -> list[Delta]:
        """The events of more arguments."""
        if self.progress:
            return self.progress.add(arguments)
        if not self.name or not arguments.strip():
            return []
        self.progress = CallInProgress(index, self.name)
        return [CallStart(index, self.name), *self.progress.add("".join(self.arguments).lstrip())]

    def told(self, ended: ToolCall | Malformed, index: int) -> list[Delta]:
        """The events of its end."""
        if isinstance(ended, ToolCall):
            return self.progress.end(ended) if self.progress else whole_call(index, ended)
        return self.progress.withdraw() if self.progress else []

    def mend(self) -> tuple[ToolCall, list[str]] | None:
        """The call that was meant, and what was mended; None where that is not clear."""
        try:
            arguments, done = mend_arguments("".join(self.arguments), closed=False)
            check_call(self.name, arguments, 0)
        except BadCallError:
            return None
        if not self.name:
            return None
        return ToolCall(name=self.name, arguments=arguments, id=self.id), done

    def end(self) -> ToolCall | Malformed:
        text = "".join(self.arguments)
        try:
            arguments = parse_json(text.encode("utf-8", "surrogatepass")) if text.strip() else {}
            if not isinstance(arguments, dict):
                raise ValueError(f"arguments are an object, not {shown(arguments)}")
            if not self.name:
                raise ValueError("it has no name")
            check_call(self.name, arguments, 0)
        except (ValueError, BadCallError) as error:
            said = json.dumps({"name": self.name}, ensure_ascii=False)[:-1]
            whole_text = f'{said}, "arguments": {text}}}'
            return Malformed(text=whole_text, reason=str(error), position=self.place)
        return ToolCall(name=self.name, arguments=arguments, id=self.id)


@dataclass(frozen=True, slots=True)
class _Token:
    """A token as a server names it."""

    content: bytes
    id: int | None = None

    @classmethod
    def of(cls, text: str, said: Mapping[str, Any] | None = None) -> _Token:
        """From its text, and what else is said of it: its id, or the bytes that it adds."""
        said = said or {}
        if whole(said.get("id")):
            if not 0 <= (number := int(said["id"])) < 1 << 31:
                raise ValueError(f"{number} is no token's id")
            return cls(b"", number)
        if text.startswith(_AS_IDS) and (digits := text.removeprefix(_AS_IDS)).isdecimal():
            return cls(b"", int(digits[:18]))
        if not (content := said.get("bytes")):
            return cls(text.encode())
        if not isinstance(content, list):  # of a number it would be as many zeros
            raise ValueError(f"bytes are a list, not {shown(content)}")
        return cls(bytes(content))


_Valued = tuple[_Token, Any]  # with its log probability
_Row = tuple[_Token, Any, list[_Valued]]  # and the best alternatives


def _row(said: Mapping[str, Any]) -> _Row:
    """A token as the chat API has it, and llama-server everywhere."""
    best = [
        (_Token.of(one["token"], one), one["logprob"]) for one in said.get("top_logprobs") or ()
    ]
    return _Token.of(said["token"], said), said["logprob"], best


def _rows(said: Mapping[str, Any]) -> list[_Row]:
    """Tokens as the API of completions has them: columns."""
    tops = said.get("top_logprobs") or [{}] * len(said["tokens"])
    rows = zip(said["tokens"], said["token_logprobs"], tops, strict=True)
    return [(_Token.of(token), value, _sorted(best or {})) for token, value, best in rows]


def _sorted(best: Mapping[str, float]) -> list[_Valued]:
    return [(_Token.of(t), v) for t, v in sorted(best.items(), key=lambda pair: -pair[1])]


def _log(value: object) -> float:
    if not real(value) or not value <= 0:  # type: ignore[operator]  # NaN is not
        raise ValueError(f"a log probability is at most 0, not {shown(value)}")
    return float(value)  # type: ignore[arg-type]
