"""Saying: the events of a reply that is read from left to right, none of which the whole parse
would take back.

White space and stop tokens at the end of words wait for what follows; space before the first word
waits for whether a call or reasoning comes first.
"""

from __future__ import annotations

from lorakit.chat.calls import Call, ParsedReply, ToolCall, number_calls
from lorakit.chat.events import CallStart, Delta, ReasoningDelta, TextDelta, Withdrawn
from lorakit.chat.in_progress import CallInProgress, whole_call
from lorakit.chat.unfinished import held


class Saying:
    """What was said so far, and what waits."""

    def __init__(self, stops: tuple[str, ...], *, led: bool) -> None:
        """led: whether something else came before the first word."""
        self.calls: list[Call] = []
        self._stops = stops
        self._events: list[Delta] = []
        self._late = False
        self._start_anew(led)

    def _start_anew(self, led: bool) -> None:
        self.calls = []
        self._begun: CallInProgress | None = None
        self._led, self._spoke, self._muted = led, False, False
        self._text: list[str] = []  # given away
        self._words: list[str] = []  # waiting
        self._reasoning: list[str] = []
        self._thought: list[str] = []
        self._in_thought = False

    def say(self, words: str) -> None:
        """Words that the reply holds for certain."""
        if not self._spoke and self._led:
            words = words.lstrip()
        self._words.append(words)
        if words.isspace() or not words:  # counts only if a word follows
            return
        self._spoke = True
        if not self._muted:
            text = "".join(self._words)
            end = self._end_of_certain(text)
            self._give(text[:end])
            self._words = [text[end:]]

    def end_words(self) -> None:
        """A part of another kind follows."""
        if not self._spoke:
            self._led, self._words = True, []

    def think(self, words: str) -> None:
        """More of a block of reasoning."""
        words = words if self._in_thought else words.lstrip()
        self._thought.append(words)
        if words.isspace() or not words:
            return
        gap = "" if self._in_thought or not self._reasoning else "\n\n"
        text = "".join(self._thought)
        end = len(text.rstrip())
        self._in_thought, self._thought = True, [text[end:]]
        if not self._late:
            self._reasoning.append(gap + text[:end])
            self._events.append(ReasoningDelta(gap + text[:end]))

    def end_thought(self) -> None:
        """The end of a block of reasoning."""
        self._in_thought, self._thought = False, []

    def begin_call(self, name: str) -> None:
        """A call, of which no more is known than its name."""
        self._begun = CallInProgress(len(self.calls), name)
        self._events.append(CallStart(len(self.calls), name))

    def add_arguments(self, text: str) -> None:
        """More of the arguments of the call that has begun, as JSON text."""
        if self._begun:
            self._events += self._begun.add(text)

    def end_call(self, call: Call) -> None:
        """The next call, whole."""
        index = len(self.calls)
        self._end_call(index, *number_calls([call], first=index))
        self.calls.append(call)

    def drop_call(self) -> None:
        """The call that has begun is none."""
        if self._begun:
            self._events += self._begun.withdraw()
            self._begun = None

    def mute(self) -> None:
        """Hold all words from now on: only the whole parse can say where they stand."""
        self._muted = True

    def withdraw(self, *, late: bool) -> None:
        """All so far was reasoning. late: it is said at the end, once it is known how much."""
        if self._text or self._reasoning or self.calls or self._begun:
            self._events.append(Withdrawn())
        self._late = late
        self._start_anew(led=True)

    def taken(self) -> list[Delta]:
        """The events since the last time."""
        events, self._events = self._events, []
        return events

    def rest(self, parsed: ParsedReply) -> list[Delta]:
        """The events that make what was said the whole parse."""
        text, reasoning = "".join(self._text), "".join(self._reasoning)
        known = len(self.calls)
        if not (
            parsed.text.startswith(text)
            and parsed.reasoning.startswith(reasoning)
            and parsed.tool_calls[:known] == number_calls(self.calls)
        ):
            self._events.append(Withdrawn())
            text, reasoning, known = "", "", 0
            self._begun = None
        if self._begun and known < len(parsed.tool_calls):
            self._end_call(known, parsed.tool_calls[known])
            known += 1
        self.drop_call()
        if thought := parsed.reasoning[len(reasoning) :]:
            self._events.append(ReasoningDelta(thought))
        if words := parsed.text[len(text) :]:
            self._events.append(TextDelta(words))
        for index, call in enumerate(parsed.tool_calls[known:], known):
            self._end_call(index, call)
        return self.taken()

    def _end_call(self, index: int, call: ToolCall) -> None:
        begun, self._begun = self._begun, None
        self._events += begun.end(call) if begun else whole_call(index, call)

    def _give(self, text: str) -> None:
        if text:
            self._text.append(text)
            self._events.append(TextDelta(text))

    def _end_of_certain(self, text: str) -> int:
        """Where the white space, stop tokens and what may become one begin at the end of a text."""
        end = len(text) - held(text, self._stops)
        while True:
            text = text[:end].rstrip()
            end = len(text)
            stop = next((stop for stop in self._stops if text.endswith(stop)), None)
            if stop is None:
                return end
            end -= len(stop)
