"""A list of everyday requests that ships: what people say to an assistant, in plain English.

A model that learns an app's tools forgets its own; asked these and taught its own answers, it keeps
them. Their words also serve where a request needs a word that means nothing special.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from lorakit.training.data.example import Example
from lorakit.training.data.frames import FUNCTION_WORDS

_SLOT = re.compile(r"\{[^{}]*\}")


@cache
def everyday_requests() -> tuple[str, ...]:
    """The requests, one of each, in their order."""
    text = (files(__package__) / "everyday.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line)


def requests_apart_from(
    examples: Sequence[Example], requests: Sequence[str] | None = None
) -> tuple[str, ...]:
    """The requests that do not read like any of the examples: their answers would contradict.

    Left out is one half of whose words, function words aside, stand in the phrasings of examples
    of one tool.
    """
    known: dict[str, set[str]] = {}
    for example in examples:
        called = _first_call(example)
        if called:
            known.setdefault(called, set()).update(_content(_SLOT.sub(" ", example.phrasing)))
    return tuple(
        request
        for request in (everyday_requests() if requests is None else requests)
        if not any(_alike(_content(request), words) for words in known.values())
    )


def _alike(words: set[str], known: set[str]) -> bool:
    return 2 * len(words & known) >= len(words) > 0


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
