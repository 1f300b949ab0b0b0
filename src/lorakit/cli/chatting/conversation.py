"""What one chat holds between its lines, and what becomes of a line that is said to the model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lorakit.chat.calls import ParsedReply, ToolCall, call_of
from lorakit.chat.messages import Message
from lorakit.cli.answering import with_images
from lorakit.cli.chatting.answer import DIM, Answer
from lorakit.cli.output import say_folded
from lorakit.errors import ContextFullError, LorakitError, ParameterError
from lorakit.model.conversation import Session, Turn
from lorakit.model.model import Model
from lorakit.runtime.params import SamplingParams

DROPS = "; /set when_full drop drops the oldest turns"
# Python's words in the library's hints, and what is typed in a chat.
IN_CHAT = (
    (r'when_full="(\w+)"', r"/set when_full \1"),
    (r"open it with mmproj=", "begin the chat with --mmproj"),
    (r"with mmproj=", "with --mmproj"),
)
PENDING = "  /result TEXT says what {} gave back; the model goes on"


@dataclass(slots=True, kw_only=True)
class Chat:
    """A conversation at a terminal.

    images: shown with what is said next. file: where it was saved or loaded. prefilled: what the
    next line begins with, to be changed. told: whether it was said what /result is for.
    """

    model: Model
    session: Session
    images: list[Path] = field(default_factory=list)
    file: Path | None = None
    prefilled: str = ""
    told: bool = False

    @property
    def sampling(self) -> SamplingParams:
        """What acts: what was chosen, else the model's own."""
        return self.session.sampling or self.model.defaults

    def say(self, text: str) -> None:
        """One turn of the user's."""
        self.show(self.session.stream(with_images(text, self.images)))
        self.images = []

    def retry(self) -> None:
        """Another answer to the last message."""
        self.show(self.session.stream_from(self.session.messages[: self.last_user() + 1]))

    def edit(self, text: str) -> None:
        """Another last message: what follows it goes."""
        start = self.last_user()
        changed = {**self.session.messages[start], "content": text}
        self.show(self.session.stream_from([*self.session.messages[:start], changed]))

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

    def _stopped(self, asked: Sequence[Message], said: ParsedReply) -> None:
        if said == ParsedReply():
            say_folded("(stopped before it said anything; your message is taken back)", DIM)
            return
        self.session.messages[:] = [*map(dict, asked), said.to_message()]
        say_folded("(stopped; /retry answers anew)", DIM)

    def _tell_dropped(self, turn: Turn) -> None:
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
