"""ReplyReader: a reply read piece by piece, each part given away as soon as it is certain.

It goes the way of lorakit.chat.scanning, which takes a whole reply apart, and stops where more text
could make a difference: at what may be the beginning of a marker, and in a call that is not whole
yet. What is left at the end comes from the whole parse, so that the events of a reply, joined, are
that parse, however the reply was cut into pieces.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from lorakit.chat.calls import BadCallError, Call, CallSyntax, ParsedReply
from lorakit.chat.events import Delta
from lorakit.chat.saying import Saying
from lorakit.chat.scanning import end_of_broken
from lorakit.chat.tags import (
    CLOSE,
    OPEN,
    TAG,
    UNFINISHED,
    UNFINISHED_CLOSE,
    UNFINISHED_OPEN,
    may_be_named,
)
from lorakit.chat.telling import Telling
from lorakit.chat.unfinished import held

END = "\0"  # what no format has: a call that is read before it needs no more text
MARGIN = 32  # characters; more than any marker or literal that the end of a text may cut
WORK = 8  # times its length that a call may be read again while it grows
FREE = 4096  # characters that may be read again in any case


class ReplyReader:
    """Makes events of one reply's pieces; see lorakit.chat.events. In time linear in its length."""

    def __init__(self, syntax: CallSyntax, *, reasons: bool = False, repair: bool = False) -> None:
        """reasons: whether the reply begins within reasoning, since the prompt opened it. repair:
        whether the whole parse mends calls: from the first one that cannot be read, it says all."""
        self._syntax, self._mends = syntax, repair and syntax.mend is not None
        self._text = ""  # what is not read yet, and one character before it
        self._at = 0  # where the unread part begins in it
        self._dropped = 0  # characters of the reply before it
        self._step: Callable[[], bool] = self._begin if reasons else self._lead
        self._said = Saying(syntax.stops, led=reasons)
        self._growth, self._telling = _Growth(), Telling(None, self._said)
        self._calls_before = 0
        self._broken = (0, 0)  # where tags and where the end of an unreadable call are looked for

    def feed(self, piece: str) -> list[Delta]:
        """What is certain with this piece."""
        text, self._text = self._text, ""
        text += piece  # in place, as nobody else holds it
        self._text = text
        del text
        while self._step():
            pass
        self._drop(self._at - 1)
        return self._said.taken()

    def end(self, parsed: ParsedReply) -> list[Delta]:
        """What is left, once the whole reply is known."""
        return self._said.rest(parsed)

    # The steps. Each reads on, chooses the next one, and says whether that may go on.

    def _begin(self) -> bool:
        """The beginning of a reply within reasoning, where its opening may be repeated."""
        start = len(self._text) - len(self._text.lstrip())
        if start == len(self._text) or UNFINISHED_OPEN.match(self._text, start):
            return False
        opening = OPEN.match(self._text, start)
        return self._go(self._think, opening.end() if opening else 0)

    def _lead(self) -> bool:
        """Where a call may begin without an opening."""
        start = self._syntax.lead(self._text, self._at)
        if start >= 0:
            return self._begin_call(start)
        waits = self._syntax.may_lead(self._text, self._at)
        return not waits and self._go(self._words, self._at)

    def _words(self) -> bool:
        """Words, up to a tag of reasoning or a call."""
        tag, sure = self._next_tag()
        call = self._syntax.find(self._text, self._at)
        if 0 <= call < (tag.start() if tag else sure):
            return self._begin_call(call)
        self._say(tag.start() if tag else sure)
        if tag is None:
            return False
        if tag["open"]:
            self._said.end_words()
            return self._go(self._think, tag.end())
        self._said.withdraw(late=self._dropped + tag.start() > 0)
        return self._go(self._lead, tag.end())

    def _think(self) -> bool:
        """Reasoning, up to the tag that closes it."""
        close = CLOSE.search(self._text, self._at)
        if close:
            self._said.think(self._text[self._at : close.start()])
            self._said.end_thought()
            return self._go(self._lead, close.end())
        end = _start(UNFINISHED_CLOSE, self._text, self._at)
        self._said.think(self._text[self._at : end])
        self._at = end
        return False

    def _read(self) -> bool:
        """A call that grows, until it is whole or can be none."""
        self._telling.tell(self._text, self._at)
        if not self._growth.is_worth_reading(self._text, self._at, self._syntax):
            return False
        calls = self._said.calls[: self._calls_before]
        try:
            end = self._syntax.read(self._text + END, self._at, calls)
        except BadCallError as error:
            self._end_calls(calls)
            return error.position <= len(self._text) - MARGIN and self._begin_broken(error)
        if end > len(self._text):
            return False
        self._end_calls(calls)
        self._said.drop_call()
        return self._go(self._words, end)

    def _skip(self) -> bool:
        """What began like a call and is none, to its end."""
        text, syntax = self._text, self._syntax
        tags, after = self._broken
        end = end_of_broken(text, tags, after, syntax)
        closed = syntax.closing and text.find(syntax.closing, after) >= 0
        if end < len(text) or closed or syntax.find(text, after) >= 0:
            return self._go(self._words, end)
        longest = max(map(len, (syntax.closing, *syntax.openings)), default=0)
        self._broken = (
            _start(UNFINISHED, text, tags),
            max(after, len(text) - longest + 1),
        )
        self._at = min(self._broken)
        return False

    def _wait(self) -> bool:
        """What only the whole parse can say."""
        self._at = len(self._text)
        return False

    def _go(self, step: Callable[[], bool], at: int) -> bool:
        self._step, self._at = step, at
        return True

    def _begin_call(self, start: int) -> bool:
        self._say(start)
        self._said.end_words()
        self._growth, self._calls_before = _Growth(), len(self._said.calls)
        self._telling = Telling(self._syntax.growing, self._said)
        return self._go(self._read, start)

    def _end_calls(self, calls: list[Call]) -> None:
        """All calls so far."""
        for call in calls[len(self._said.calls) :]:
            self._telling.tell(self._text, self._at)
            self._said.end_call(call)
            self._telling.next()

    def _begin_broken(self, error: BadCallError) -> bool:
        if self._mends:
            return self._go(self._wait, self._at)
        self._said.drop_call()
        if self._syntax.revises and not self._said.calls:
            self._said.mute()
        begin = self._at if error.begin is None else error.begin
        self._broken = begin, max(error.position, self._at + 1)
        return self._go(self._skip, begin)

    def _say(self, end: int) -> None:
        self._said.say(self._text[self._at : end])
        self._at = end

    def _next_tag(self) -> tuple[re.Match[str] | None, int]:
        """The next tag that is not merely named, and how far the words are certain without it."""
        text, at = self._text, self._at
        opening = len(text) - min(held(text, self._syntax.openings), len(text) - at)
        sure = min(opening, _start(UNFINISHED, text, at))
        for tag in TAG.finditer(text, at):
            if tag.start() >= sure:
                break
            if not may_be_named(text, tag):
                return tag, sure
            if tag.end() == len(text):
                return None, tag.start()
        return None, sure

    def _drop(self, count: int) -> None:
        if count > 0:
            self._text, self._at = self._text[count:], self._at - count
            self._dropped += count
            self._broken = self._broken[0] - count, self._broken[1] - count


class _Growth:
    """When a growing call is read again: often enough to be prompt, and in linear time."""

    def __init__(self) -> None:
        self._size = self._spent = 0  # when it was read last, and in all
        self._looked = 0  # how far an end was looked for
        self._may_end = False

    def is_worth_reading(self, text: str, start: int, syntax: CallSyntax) -> bool:
        size = len(text) - start
        ends = (syntax.closing, *syntax.openings, *syntax.stops) if syntax.closing else ("}",)
        new = text[start + max(0, self._looked + 1 - max(map(len, ends))) :]
        self._looked = size
        self._may_end = self._may_end or any(end in new for end in ends)
        worth = self._may_end or size >= 2 * self._size
        if not worth or self._spent + size > WORK * size + FREE:
            return False
        self._size, self._spent, self._may_end = size, self._spent + size, False
        return True


def _start(pattern: re.Pattern[str], text: str, at: int) -> int:
    """Where a pattern matches, or the end of the text."""
    found = pattern.search(text, at)
    return found.start() if found else len(text)
