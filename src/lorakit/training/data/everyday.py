"""Everyday requests and tools that ship: what people say to an assistant, in plain English.

A model that learns an app's tools forgets its own; asked these and taught its own answers, it keeps
them. Their words also serve where a request needs a word that means nothing special.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from lorakit.training.data.example import Example
from lorakit.training.data.frames import FUNCTION_WORDS
from lorakit.training.data.phrasing import masked

MAX_PHRASINGS = 2000  # of the examples that requests are compared with, pair by pair
MAX_SLOTS = 6
_NOTHING = re.compile(r"(?!)")
_SLOT = re.compile(r"\{[^{}]*\}")


@cache
def everyday_requests() -> tuple[str, ...]:
    """The requests, one of each, in their order."""
    text = (files(__package__) / "everyday.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line)


@cache
def everyday_tools() -> tuple[Mapping[str, Any], ...]:
    """Declarations of tools that an assistant may have, as OpenAI's chat format has them."""
    text = (files(__package__) / "everyday_tools.json").read_text(encoding="utf-8")
    return tuple(json.loads(text))


def requests_apart_from(
    examples: Sequence[Example], requests: Sequence[str] | None = None
) -> tuple[str, ...]:
    """The requests that do not read like any of the examples: their answers would contradict.

    Left out is one that has the phrasing of an example that calls a tool, or more than half of
    whose words, function words aside, stand in the phrasings of one tool. requests: of your own;
    those that ship otherwise.
    """
    known: dict[str, set[str]] = {}
    phrasings = set()
    for example in examples:
        called = _first_call(example)
        if called and example.phrasing not in phrasings:
            phrasings.add(example.phrasing)
            known.setdefault(called, set()).update(_content(_SLOT.sub(" ", example.phrasing)))
    patterns = [_pattern(phrasing) for phrasing in sorted(phrasings)[:MAX_PHRASINGS]]
    return tuple(
        request
        for request in (everyday_requests() if requests is None else requests)
        if not any(_alike(_content(request), words) for words in known.values())
        and not any(pattern.fullmatch(masked(request, ())) for pattern in patterns)
    )


def _pattern(phrasing: str) -> re.Pattern[str]:
    """What matches a request of a phrasing, whatever its values; nothing for values alone."""
    if len(_SLOT.sub(" ", phrasing).split()) < 2 or len(_SLOT.findall(phrasing)) > MAX_SLOTS:
        return _NOTHING
    return re.compile(".+".join(map(re.escape, _SLOT.split(phrasing))))


def _alike(words: set[str], known: set[str]) -> bool:
    return 2 * len(words & known) > len(words)


def _content(text: str) -> set[str]:
    return set(re.findall(r"[^\W\d_]+", text.lower())) - FUNCTION_WORDS


def _first_call(example: Example) -> str:
    calls = (call for message in example.messages for call in message.get("tool_calls") or ())
    return next((call["function"]["name"] for call in calls), "")


@cache
def everyday_words() -> tuple[str, ...]:
    """The words of the requests but function words, in lower case and order."""
    words = re.findall(r"[a-z]{3,}", " ".join(everyday_requests()).lower())
    return tuple(sorted(set(words) - FUNCTION_WORDS))
