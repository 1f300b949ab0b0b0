"""Taking a reply apart from left to right: reasoning, words, and calls of one format.

Reasoning stands between tags (lorakit.chat.tags). What is in it is not said: a call that
a model quotes there is not a call. Three ways of writing it are known: a block with both tags; a
block that never closes, which goes on to the end; and a closing tag alone, where the prompt ended
with the opening one, so that all before it is reasoning.
A tag within the string of a call that can be read is part of that string.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lorakit.chat.calls import (
    BadCallError,
    Call,
    CallSyntax,
    Malformed,
    ParsedReply,
    Repair,
    number_calls,
)
from lorakit.chat.tags import CLOSE, OPEN, TAG, next_tag


@dataclass(slots=True)
class _Parts:
    """What was found so far. before: up to where all was reasoning whose opening is not there.

    led: whether something else came before the first word.
    """

    before: int = 0
    led: bool = False
    said: bool = False
    words: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    malformed: list[Malformed] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    repairs: list[Repair] = field(default_factory=list)

    def end_words(self, words: str) -> None:
        """Words, and then something else."""
        self.words.append(words)
        self.said = self.said or bool(words.strip())
        self.led = self.led or not self.said


def take_apart(
    reply: str, syntax: CallSyntax, *, reasons: bool = False, repair: bool = False
) -> ParsedReply:
    """A reply in its parts, in time linear in its length. Never raises.

    reasons: whether the reply begins within reasoning, since the prompt ended with its opening tag.
    repair: whether what cannot be read as a call is mended, where the format can.
    """
    parts = _Parts(led=reasons)
    position = _begin_within(reply, parts) if reasons else 0
    tag, call = next_tag(reply, position), syntax.find(reply, position)
    lead = syntax.lead(reply, position)
    while tag is not None or call >= 0 or lead >= 0:
        start = lead if lead >= 0 else call
        lead = -1
        if start >= 0 and (tag is None or start < tag.start()):
            parts.end_words(reply[position:start])
            position = _read(reply, start, syntax, parts, repair)
        elif tag is not None and tag["open"]:
            parts.end_words(reply[position : tag.start()])
            position = _reasoning(reply, tag.end(), parts)
            lead = syntax.lead(reply, position)
        elif tag is not None:  # a closing tag alone: all before it was reasoning
            parts = _Parts(before=tag.start(), led=True)
            position = tag.end()
            lead = syntax.lead(reply, position)
        if tag is not None and tag.start() < position:
            tag = next_tag(reply, position)
        if 0 <= call < position:
            call = syntax.find(reply, position)
    parts.words.append(reply[position:])
    if parts.before:
        parts.reasoning.insert(0, TAG.sub("\n", reply[: parts.before]))
    return _put_together(parts, syntax.stops)


def _begin_within(reply: str, parts: _Parts) -> int:
    """The end of the reasoning that a reply begins in; a model may repeat the opening tag."""
    opening = OPEN.match(reply, len(reply) - len(reply.lstrip()))
    return _reasoning(reply, opening.end() if opening else 0, parts)


def _reasoning(reply: str, start: int, parts: _Parts) -> int:
    close = CLOSE.search(reply, start)
    parts.reasoning.append(reply[start : close.start() if close else len(reply)])
    return close.end() if close else len(reply)


def _read(reply: str, start: int, syntax: CallSyntax, parts: _Parts, repair: bool) -> int:
    """The end of the calls at `start`, or of what began like one."""
    try:
        return syntax.read(reply, start, parts.calls)
    except BadCallError as error:
        begin = start if error.begin is None else error.begin
        end = end_of_broken(reply, begin, max(error.position, start + 1), syntax)
        broken = Malformed(text=reply[begin:end], reason=error.reason, position=begin)
        if not (repair and _mend(broken.text, syntax, parts)):
            parts.malformed.append(broken)
        return end


def _mend(text: str, syntax: CallSyntax, parts: _Parts) -> bool:
    """Take in the calls that a text was meant to be, if that is clear; whether it is."""
    if syntax.mend is None:
        return False
    try:
        calls, done = syntax.mend(text)
    except BadCallError:
        return False
    parts.repairs += [Repair(index=len(parts.calls), words=words) for words in done]
    parts.calls += calls
    return True


def end_of_broken(reply: str, begin: int, after: int, syntax: CallSyntax) -> int:
    """After its closing tag, else before the next call; but before any tag of reasoning in it: what
    cannot be read as a call hides no tag."""
    call = syntax.find(reply, after)
    limit = call if call >= 0 else len(reply)
    close = reply.find(syntax.closing, after, limit) if syntax.closing else -1
    end = limit if close < 0 else close + len(syntax.closing)
    tag = TAG.search(reply, begin, end)
    return tag.start() if tag else end


def _put_together(parts: _Parts, stops: tuple[str, ...]) -> ParsedReply:
    text = "".join(parts.words)
    if parts.led:
        text = text.lstrip()
    if parts.calls or parts.malformed:
        text = text.rstrip()
        for stop in stops:
            text = text.removesuffix(stop).rstrip()
    thoughts = (thought.strip() for thought in parts.reasoning)
    return ParsedReply(
        text=text,
        tool_calls=number_calls(parts.calls),
        malformed=tuple(parts.malformed),
        reasoning="\n\n".join(thought for thought in thoughts if thought),
        repairs=tuple(parts.repairs),
    )
