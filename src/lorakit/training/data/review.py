"""What is wrong with a data set beyond single lines: repeats, contradictions, leaks, length.

A line with such a fault can be learnt from; whether it should be is the author's to say.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lorakit.errors import LorakitError
from lorakit.training.data.example import Example, Fault
from lorakit.training.data.frames import without_frame
from lorakit.training.data.phrasing import content_text, request_at


def repeats(examples: Sequence[Example]) -> Iterator[Fault]:
    """Lines that say what an earlier one says, or answer its request otherwise."""
    known: dict[bytes, tuple[bytes, str]] = {}  # the request: its answer, its place
    for example in examples:
        asked, answer = _asked(example), _answer(example)
        first = known.setdefault(asked, (answer, example.place))
        if first[1] == example.place:
            continue
        if first[0] == answer:
            reason, code = f"the same as {first[1]}", "duplicate"
        else:
            reason, code = f"the request of {first[1]}, answered otherwise", "contradiction"
        yield Fault(place=example.place, reason=reason, code=code)


def leaks(
    test: Sequence[Example], train: Sequence[Example], *, phrasings: bool = False
) -> Iterator[Fault]:
    """Lines of a test set that training sees too, politeness, case and the final mark aside.

    phrasings: take a phrasing that both have for a leak, even with other values.
    """
    known = {_plain(example): example.place for example in train}
    shared = {example.phrasing: example.place for example in train if phrasings}
    for example in test:
        if (place := known.get(_plain(example))) is not None:
            yield Fault(place=example.place, reason=f"{place} trains on it", code="leak")
        elif example.phrasing and (place := shared.get(example.phrasing)) is not None:
            reason = f"{place} has its phrasing: {example.phrasing:.100}"
            yield Fault(place=example.place, reason=reason, code="leak")


def overlong(
    examples: Sequence[Example], measure: Callable[[Example], int], limit: int
) -> Iterator[Fault]:
    """Lines of more tokens than a model has room for, or that it cannot be shown at all.

    measure: counts the tokens of an example.
    """
    for example in examples:
        try:
            length = measure(example)
        except LorakitError as error:
            reason = "; ".join((error.message, *error.items))
            yield Fault(place=example.place, reason=reason, code="unrenderable")
            continue
        if length > limit:
            reason = f"{length} tokens; there is room for {limit}"
            yield Fault(place=example.place, reason=reason, code="too_long")


def worded_calls(example: Example) -> Iterator[int]:
    """Turns that say something beside their calls, which some templates leave out."""
    for i, message in enumerate(example.messages):
        if message.get("tool_calls") and content_text(message).strip():
            yield i


def about_words(places: Sequence[str], *, lost: bool) -> list[str]:
    """What is told of examples with words beside a call. lost: the base's template writes none;
    else the base is not known."""
    if not places:
        return []
    count = f"{len(places)} example{'s have' if len(places) > 1 else ' has'}"
    if lost:
        so = "which the base's template leaves out, so that only the call is learnt"
    else:
        so = "which some templates leave out; with --base it is told whether one does"
    return [f"{count} words beside a call, {so}; the first is {places[0]}"]


def _asked(example: Example) -> bytes:
    """What is given: all turns but the last answer, with the tools."""
    if not example.messages:
        return _digest([example.prompt, example.text if example.task == "text" else ""])
    return _digest([example.messages[:-1], [id(tool) for tool in example.tools]])


def _answer(example: Example) -> bytes:
    if not example.messages:
        return _digest(example.text)
    last = example.messages[-1]
    calls = [call["function"] for call in last.get("tool_calls") or ()]
    return _digest([last.get("content"), calls])


def _plain(example: Example) -> bytes:
    """The request without its frame, and what was said before it."""
    at = request_at(example.messages)
    if at is None:
        return _digest([example.prompt, example.text])
    request = without_frame(" ".join(content_text(example.messages[at]).casefold().split()))
    return _digest([example.messages[:at], request])


def _digest(value: Any) -> bytes:
    """Sixteen bytes stand for a value, so that a large file needs little memory."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).digest()
