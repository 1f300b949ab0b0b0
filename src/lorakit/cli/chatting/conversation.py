"""What one chat holds between its lines, and what becomes of a line that is said to the model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorakit.chat.calls import ParsedReply, ToolCall, call_of
from lorakit.chat.messages import Message
from lorakit.cli.answering import with_images
from lorakit.cli.chatting.answer import BAD, DIM, SHOWN, Answer
from lorakit.cli.chatting.functions import Functions
from lorakit.cli.output import say_folded
from lorakit.errors import ContextFullError, LorakitError, ParameterError
from lorakit.model.chat_stream import ChatStream
from lorakit.model.conversation import Session, Turn
from lorakit.model.model import Model
from lorakit.model.tool_types import RunEnd, ToolFinished, ToolRun, ToolStarted, ToolStep
from lorakit.model.types import ReplyEnd, Tools
from lorakit.runtime.params import SamplingParams

DROPS = "; /set when_full drop drops the oldest turns"
# Python's words in the library's hints, and what is typed in a chat.
IN_CHAT = (
    (r'when_full="(\w+)"', r"/set when_full \1"),
    (r'tool_choice="(\w+)"', r"/set tool_choice \1"),
    (r"open it with mmproj=", "begin the chat with --mmproj"),
    (r"with mmproj=", "with --mmproj"),
)
PENDING = "  /result TEXT says what {} gave back; the model goes on"


@dataclass(slots=True, kw_only=True)
class Chat:
    """A conversation at a terminal.

    images: shown with what is said next. file: where it was saved or loaded. prefilled: what the
    next line begins with, to be changed. told: whether it was said what /result is for.
    functions: what is called for the model.
    """

    model: Model
    session: Session
    images: list[Path] = field(default_factory=list)
    file: Path | None = None
    prefilled: str = ""
    told: bool = False
    functions: Functions | None = None

    @property
    def callable(self) -> Tools | None:
        """Declarations of what the model may call, whether or not the prompt has them."""
        if self.functions is None:
            return self.session.tools
        return [each.declaration for each in self.functions.callees.values()]

    @property
    def sampling(self) -> SamplingParams:
        """What acts: what was chosen, else the model's own."""
        return self.session.sampling or self.model.defaults

    def say(self, text: str) -> None:
        """One turn of the user's."""
        content = with_images(text, self.images)
        if self.functions is not None:
            self.run(self.session.messages, content, self.functions)
        else:
            self.show(self.session.stream(content))
        self.images = []

    def retry(self) -> None:
        """Another answer to the last message."""
        start = self.last_user()
        self._answer_to(self.session.messages[:start], self.session.messages[start])

    def edit(self, text: str) -> None:
        """Another last message: what follows it goes."""
        start = self.last_user()
        changed = {**self.session.messages[start], "content": text}
        self._answer_to(self.session.messages[:start], changed)

    def give(self, result: str) -> None:
        """The result of the next pending call; after that of the last, the model goes on."""
        if not (calls := self.pending()):
            raise ParameterError("no call waits for a result")
        call, *others = calls
        message = {"role": "tool", "tool_call_id": call.id, "name": call.name, "content": result}
        messages = [*self.session.messages, message]
        if others:
            self.session.messages[:] = messages
            say_folded(f"  kept; {others[0]} is next", DIM)
        else:
            self.show(self.session.stream_from(messages))

    def show(self, turn: Turn) -> None:
        """Show an answer as it comes. Ctrl-C stops it; what was said until then is kept."""
        self._tell_dropped(turn)
        before = list(self.session.messages)
        answer = Answer(self.model.capabilities.context)
        try:
            for event in turn:
                answer.show(event)
        except KeyboardInterrupt:
            turn.cancel()
            answer.end_line()
            if self.session.messages == before:  # else it had ended
                self._stopped(turn.messages, answer.said)
        except LorakitError:
            answer.end_line()
            raise
        self._tell_pending()

    def run(self, before: Sequence[Message], content: Any, functions: Functions) -> None:
        """Show the answers to what the user says after earlier messages, and what came of calls.

        Ctrl-C stops it; whole rounds of calls are kept, and what was said until then.
        """
        kept = list(self.session.messages)
        self.session.messages[:] = map(dict, before)
        answer = Answer(self.model.capabilities.context)
        turn: ChatStream | None = None
        begun: list[str] = []  # functions that have not returned
        try:
            stream = self.session.stream_tools(
                content, functions.tools, approve=functions.approve, declare=functions.declare
            )
        except BaseException:
            self.session.messages[:] = kept
            raise
        try:
            for event in stream:
                if stream.answer is not turn:
                    turn = stream.answer
                    self._tell_dropped(turn)
                if isinstance(event, ToolFinished):
                    begun.clear()
                    self._tell_step(event.step)
                elif isinstance(event, RunEnd):
                    self._tell_limit(event.run)
                elif isinstance(event, ToolStarted):
                    begun.append(event.call.name)
                else:
                    answer.show(event)
                if isinstance(event, ReplyEnd):
                    functions.several = len(event.reply.tool_calls) > 1
                    answer = Answer(self.model.capabilities.context)
        except KeyboardInterrupt:
            stream.cancel()
            answer.end_line()
            if begun:
                say_folded(f"({begun[0]} was begun, and is left to itself)", DIM)
            rounds = stream.messages[len(before) + 1 :]
            self.session.messages[:] = [*stream.messages] if rounds else kept
            if not rounds or answer.said != ParsedReply():
                self._stopped(stream.messages, answer.said)
        except BaseException:
            answer.end_line()
            self.session.messages[:] = kept
            raise

    def pending(self) -> list[ToolCall]:
        """Calls at the end of the conversation that have no result."""
        for results, message in enumerate(reversed(self.session.messages)):
            if message.get("role") != "tool":
                calls = message.get("tool_calls") or []
                return [call_of(call) for call in calls[results:]]
        return []

    def last_user(self) -> int:
        """Where the last message of the user's stands. Raises ParameterError."""
        for index in range(len(self.session.messages) - 1, -1, -1):
            if self.session.messages[index].get("role") == "user":
                return index
        raise ParameterError("nothing was said yet", hint="say something first")

    def _answer_to(self, before: Sequence[Message], said: Message) -> None:
        if self.functions is not None:
            self.run(before, said["content"], self.functions)
        else:
            self.show(self.session.stream_from([*before, said]))

    def _tell_step(self, step: ToolStep) -> None:
        if step.malformed is not None:
            return  # the answer said so at its end
        content = step.content if len(step.content) <= SHOWN else f"{step.content[:SHOWN]}..."
        for line in content.splitlines():
            say_folded(f"  {line}", DIM if step.ok else BAD)

    def _tell_limit(self, run: ToolRun) -> None:
        if run.ended == "rounds":
            say_folded(f"(stopped after {run.rounds} answers with calls)", DIM)

    def _stopped(self, asked: Sequence[Message], said: ParsedReply) -> None:
        if said == ParsedReply():
            say_folded("(stopped before it said anything; your message is taken back)", DIM)
            return
        self.session.messages[:] = [*map(dict, asked), said.to_message()]
        say_folded("(stopped; /retry answers anew)", DIM)

    def _tell_dropped(self, turn: ChatStream | None) -> None:
        if not isinstance(turn, Turn):
            return
        if turn.summary:
            say_folded(
                f"(the context is full: the oldest {turn.dropped} messages are summarised)", DIM
            )
            for line in turn.summary.splitlines():
                say_folded(f"  {line}", DIM)
        elif turn.dropped:
            why = f"; no summary: {turn.unsummarised}" if turn.unsummarised else ""
            what = f"the oldest {turn.dropped} messages are dropped{why}"
            say_folded(f"(the context is full: {what})", DIM)

    def _tell_pending(self) -> None:
        calls = self.pending()
        if calls and not self.told:
            say_folded(PENDING.format(calls[0].name), DIM)
            self.told = True


def explained(error: LorakitError, chat: Chat) -> LorakitError:
    """An error of the library, with a way on that a chat has."""
    if isinstance(error, ContextFullError):
        more = "" if chat.model.capabilities.engine == "api" else DROPS
        ways = {"stop": f"/reset begins anew{more}"}
        error.hint = ways.get(chat.session.when_full, "shorten the message")
    elif error.items == ("enable_thinking",):  # no variable of the template
        error.hint = "/set thinking default"
    for pattern, said in IN_CHAT:
        error.hint = re.sub(pattern, said, error.hint)
    return error
