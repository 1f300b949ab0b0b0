"""Tags between which a model reasons, such as <think> and </think>, in any of their forms.

A tag between two equal quotation marks or backticks is only named, and is none.
"""

from __future__ import annotations

import re

from lorakit.chat.unfinished import sequence, unfinished

_NAME = r"(?:(?:seed|mm)\s*:\s*)?(?:think(?:ing)?|thoughts?|scratch_?pad)"
_OPENING = (
    rf"<\s{{0,8}}{_NAME}\s{{0,8}}>|\[\s{{0,8}}think\s{{0,8}}\]|◁think▷"
    r"|<\|start_thinking\|>|<\|begin_of_thought\|>|<\|channel>\s{0,8}(?:thought)?"
)
_CLOSING = (
    rf"<\s{{0,8}}/\s{{0,8}}{_NAME}\s{{0,8}}>|\[\s{{0,8}}/\s{{0,8}}think\s{{0,8}}\]|◁/think▷"
    r"|<\|end_thinking\|>|<\|end_of_thought\|>|<channel\|>"
)
OPEN = re.compile(_OPENING, re.IGNORECASE)
CLOSE = re.compile(_CLOSING, re.IGNORECASE)
TAG = re.compile(f"(?P<open>{_OPENING})|(?P<close>{_CLOSING})", re.IGNORECASE)
_ENDS_OPEN = re.compile(rf"(?:{_OPENING})\s*\Z", re.IGNORECASE)
_QUOTES = "`\"'"

_GAP = r"\s{0,8}"
_NAMES = ("think", "thinking", "thought", "thoughts", "scratchpad", "scratch_pad")
_PREFIXES = ((), ("seed", r"\s*", ":", r"\s*"), ("mm", r"\s*", ":", r"\s*"))
_PAIRS = [(prefix, name) for prefix in _PREFIXES for name in _NAMES]
_OPENINGS = (
    *(sequence("<", _GAP, *prefix, name, _GAP, ">") for prefix, name in _PAIRS),
    sequence("[", _GAP, "think", _GAP, "]"),
    *map(sequence, ("◁think▷", "<|start_thinking|>", "<|begin_of_thought|>")),
    sequence("<|channel>", _GAP, "thought"),
)
_CLOSINGS = (
    *(sequence("<", _GAP, "/", _GAP, *prefix, name, _GAP, ">") for prefix, name in _PAIRS),
    sequence("[", _GAP, "/", _GAP, "think", _GAP, "]"),
    *map(sequence, ("◁/think▷", "<|end_thinking|>", "<|end_of_thought|>", "<channel|>")),
)
UNFINISHED_OPEN = re.compile(rf"(?:{unfinished(_OPENINGS)})\Z", re.IGNORECASE)
UNFINISHED_CLOSE = re.compile(rf"(?:{unfinished(_CLOSINGS)})\Z", re.IGNORECASE)
UNFINISHED = re.compile(rf"(?:{unfinished((*_OPENINGS, *_CLOSINGS))})\Z", re.IGNORECASE)


def next_tag(reply: str, position: int) -> re.Match[str] | None:
    """The next tag that is not merely named, as in `<think>`."""
    for tag in TAG.finditer(reply, position):
        if tag.end() == len(reply) or not may_be_named(reply, tag):
            return tag
    return None


def may_be_named(reply: str, tag: re.Match[str]) -> bool:
    """Whether equal quotation marks stand around a tag, or one before it and the end after it."""
    before, after = reply[tag.start() - 1 : tag.start()], reply[tag.end() : tag.end() + 1]
    return bool(before) and before in _QUOTES and after in (before, "")


def opens_reasoning(prompt: str) -> bool:
    """Whether a prompt ends with a tag that opens reasoning, so that the reply begins in it."""
    return _ENDS_OPEN.search(prompt[-100:]) is not None


def tags_in(template: str) -> tuple[str, str] | None:
    """The first pair of tags that a template's source writes or looks for; None where it has none.

    Of one without its other, the other is told from its form.
    """
    closing = CLOSE.search(template)
    if closing is None:
        return None
    opening = OPEN.search(template)
    told = closing[0].replace("/", "", 1).replace("end", "start", 1)
    return (told if opening is None else opening[0], closing[0])
