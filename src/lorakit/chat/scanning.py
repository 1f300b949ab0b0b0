"""Taking a reply apart from left to right: reasoning, words, and calls of one format.

Reasoning stands between tags such as <think> and </think>. What is in it is not said: a call that
a model quotes there is not a call. Three ways of writing it are known: a block with both tags; a
block that never closes, which goes on to the end; and a closing tag alone, where the prompt ended
with the opening one, so that all before it is reasoning.
A tag within the string of a call that can be read is part of that string.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lorakit.chat.calls import BadCallError, Malformed, ParsedReply, number_calls

Call = tuple[str, dict[str, Any]]

_NAME = r"(?:(?:seed|mm)\s*:\s*)?(?:think(?:ing)?|thoughts?|scratch_?pad)"
_OPENING = (
    rf"<\s{{0,8}}{_NAME}\s{{0,8}}>|\[\s{{0,8}}think\s{{0,8}}\]|◁think▷"
    r"|<\|start_thinking\|>|<\|begin_of_thought\|>|<\|channel>\s{0,8}(?:thought)?"
)
_CLOSING = (
    rf"<\s{{0,8}}/\s{{0,8}}{_NAME}\s{{0,8}}>|\[\s{{0,8}}/\s{{0,8}}think\s{{0,8}}\]|◁/think▷"
    r"|<\|end_thinking\|>|<\|end_of_thought\|>|<channel\|>"
)
_OPEN = re.compile(_OPENING, re.IGNORECASE)
_CLOSE = re.compile(_CLOSING, re.IGNORECASE)
_TAG = re.compile(f"(?P<open>{_OPENING})|(?P<close>{_CLOSING})", re.IGNORECASE)
_ENDS_OPEN = re.compile(rf"(?:{_OPENING})\s*\Z", re.IGNORECASE)
_QUOTES = "`\"'"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSyntax:
    """How calls of a format are found and read.

    find: where the next call begins at or after a position, or -1. read: the calls that begin
    there, appended to the list one by one, and where they end; raises BadCallError.
    lead: where a call without an opening begins at a position, or -1: asked at the beginning and
    after reasoning. closing: what ends a call that cannot be read; "" where nothing does.
    """

    find: Callable[[str, int], int]
    read: Callable[[str, int, list[Call]], int]
    closing: str = ""
    lead: Callable[[str, int], int] = lambda _, __: -1


@dataclass(slots=True)
class _Parts:
    """What was found so far. before: up to where all was reasoning whose opening is not there."""

    before: int = 0
    words: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    malformed: list[Malformed] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)


NO_CALLS = CallSyntax(find=lambda _, __: -1, read=lambda _, position, __: position)


def take_apart(
    reply: str, syntax: CallSyntax, *, stops: tuple[str, ...] = (), reasons: bool = False
) -> ParsedReply:
    """A reply in its parts, in time linear in its length. Never raises.

    stops: tokens that are no words at the end of a reply with calls. reasons: whether the reply
    begins within reasoning, since the prompt ended with its opening tag.
    """
    parts = _Parts()
    position = _begin_within(reply, parts) if reasons else 0
    tag, call = _next_tag(reply, position), syntax.find(reply, position)
    lead = syntax.lead(reply, position)
    while tag is not None or call >= 0 or lead >= 0:
        start = lead if lead >= 0 else call
        lead = -1
        if start >= 0 and (tag is None or start < tag.start()):
            parts.words.append(reply[position:start])
            position = _read(reply, start, syntax, parts)
        elif tag is not None and tag["open"]:
            parts.words.append(reply[position : tag.start()])
            position = _reasoning(reply, tag.end(), parts)
            lead = syntax.lead(reply, position)
        elif tag is not None:  # a closing tag alone: all before it was reasoning
            parts = _Parts(before=tag.start())
            position = tag.end()
            lead = syntax.lead(reply, position)
        if tag is not None and tag.start() < position:
            tag = _next_tag(reply, position)
        if 0 <= call < position:
            call = syntax.find(reply, position)
    parts.words.append(reply[position:])
    if parts.before:
        parts.reasoning.insert(0, _TAG.sub("\n", reply[: parts.before]))
    return _put_together(parts, stops)


def opens_reasoning(prompt: str) -> bool:
    """Whether a prompt ends with a tag that opens reasoning, so that the reply begins in it."""
    return _ENDS_OPEN.search(prompt[-100:]) is not None


def _next_tag(reply: str, position: int) -> re.Match[str] | None:
    """The next tag that is not merely named, as in `<think>`."""
    for tag in _TAG.finditer(reply, position):
        before, after = reply[tag.start() - 1 : tag.start()], reply[tag.end() : tag.end() + 1]
        if not (before and before == after and before in _QUOTES):
            return tag
    return None


def _begin_within(reply: str, parts: _Parts) -> int:
    """The end of the reasoning that a reply begins in; a model may repeat the opening tag."""
    opening = _OPEN.match(reply, len(reply) - len(reply.lstrip()))
    return _reasoning(reply, opening.end() if opening else 0, parts)


def _reasoning(reply: str, start: int, parts: _Parts) -> int:
    close = _CLOSE.search(reply, start)
    parts.reasoning.append(reply[start : close.start() if close else len(reply)])
    return close.end() if close else len(reply)


def _read(reply: str, start: int, syntax: CallSyntax, parts: _Parts) -> int:
    """The end of the calls at `start`, or of what began like one."""
    try:
        return syntax.read(reply, start, parts.calls)
    except BadCallError as error:
        begin = start if error.begin is None else error.begin
        end = _end_of_broken(reply, begin, max(error.position, start + 1), syntax)
        broken = Malformed(text=reply[begin:end], reason=error.reason, position=begin)
        parts.malformed.append(broken)
        return end


def _end_of_broken(reply: str, begin: int, after: int, syntax: CallSyntax) -> int:
    """After its closing tag, else before the next call; but before any tag of reasoning in it: what
    cannot be read as a call hides no tag."""
    call = syntax.find(reply, after)
    limit = call if call >= 0 else len(reply)
    close = reply.find(syntax.closing, after, limit) if syntax.closing else -1
    end = limit if close < 0 else close + len(syntax.closing)
    tag = _TAG.search(reply, begin, end)
    return tag.start() if tag else end


def _put_together(parts: _Parts, stops: tuple[str, ...]) -> ParsedReply:
    text = "".join(parts.words)
    if parts.reasoning:
        text = text.lstrip()
    if parts.calls or parts.malformed:
        text = text.strip()
        for stop in stops:
            text = text.removesuffix(stop).rstrip()
    thoughts = (thought.strip() for thought in parts.reasoning)
    return ParsedReply(
        text=text,
        tool_calls=number_calls(parts.calls),
        malformed=tuple(parts.malformed),
        reasoning="\n\n".join(thought for thought in thoughts if thought),
    )
