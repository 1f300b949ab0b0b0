"""New examples from given ones: other values, other words for what is asked the same way.

This is what `lorakit data expand` writes without templates, and what training does with every row
that it draws. The recipe and its figures are in docs/data.md.
"""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lorakit.chat.calls import ToolCall
from lorakit.chat.tools import validate_call
from lorakit.training.data.example import Example
from lorakit.training.data.frames import without_frame
from lorakit.training.data.phrasing import (
    Found,
    Path,
    calls_after,
    content_text,
    leaves,
    located,
    request_at,
    written,
)
from lorakit.training.data.reword import FIRST, LAST, framed, mark, marks_in, moved, noisy
from lorakit.training.data.swap import Scalar, Values, argument_of, schema_at

_SLOT = re.compile(r"\{[^{}]*\}")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
TRIES = 30  # draws in a row, for each example there is, without a new one: there are no more


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How often each change is made: a share of the draws; `drop` of the function words."""

    swap: float = 0.8
    frame: float = 0.5
    noise: float = 0.6
    drop: float = 0.12
    move: float = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draft:
    """A request in words, marks in the place of its values.

    swappable: the numbers of the values that may change. sentences: of those that run on.
    capital: whether the first word is a common one written large.
    """

    at: int
    words: tuple[str, ...]
    found: tuple[Found, ...]
    surfaces: tuple[str, ...]
    swappable: frozenset[int]
    sentences: frozenset[int]
    capital: bool
    plain: bool


class Augmenter:
    """Draws examples like the given ones; the same ones from the same random numbers.

    held_out: phrasings that are to stay unseen; no draw has one of them.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        seed: int,
        *,
        rates: Rates | None = None,
        held_out: Collection[str] = (),
    ) -> None:
        self._rates = rates or Rates()
        self._values = Values(examples, seed)
        self._held_out = frozenset(held_out)
        self._drafts: dict[int, tuple[Example, _Draft | None]] = {}
        self._answers: dict[str, set[str]] = {}
        for example in examples:
            draft = self._draft(example)
            if draft is not None:
                key = _SLOT.sub("{}", example.phrasing)
                self._answers.setdefault(key, set()).add(_answer(example, draft))

    def draw(self, rng: random.Random, example: Example) -> Example:
        """An example that asks for the same kind of thing, or the same one where nothing fits.

        Only requests that are to be answered by calls, or by declining to call, are changed.
        """
        draft = self._draft(example)
        if draft is None:
            return example
        values = self._swapped(rng, example, draft) if rng.random() < self._rates.swap else {}
        words, phrasing = self._reworded(rng, example, draft)
        return _filled(example, draft, words, values, phrasing)

    def _draft(self, example: Example) -> _Draft | None:
        kept = self._drafts.get(id(example))
        if kept is None or kept[0] is not example:
            kept = self._drafts[id(example)] = (example, _draft_of(example, self._values))
        return kept[1]

    def _swapped(
        self, rng: random.Random, example: Example, draft: _Draft
    ) -> dict[int, tuple[str, Scalar]]:
        """New values by number, each as the request and as the call has it; {} if they clash."""
        calls = calls_after(example.messages, draft.at)
        drawn: dict[int, tuple[str, Scalar]] = {}
        for number in sorted(draft.swappable):
            found = draft.found[number]
            argument = argument_of(calls[int(found.paths[0][0])]["name"], found.paths[0])
            value = self._values.draw(
                rng, argument, found.value, schema_at(example.tools, argument)
            )
            surface = _as_before(value, found.value, draft.surfaces[number])
            if surface is not None:
                drawn[number] = (surface, value)
        made = _filled(example, draft, draft.words, drawn, example.phrasing)
        return drawn if _holds(made, draft, drawn) else {}

    def _reworded(
        self, rng: random.Random, example: Example, draft: _Draft
    ) -> tuple[Sequence[str], str]:
        """Other words and their phrasing; the same where they would ask for something else."""
        words, rates = list(draft.words), self._rates
        if not draft.plain:
            return draft.words, example.phrasing
        if rng.random() < rates.move:
            words = moved(rng, words, draft.sentences)
        if rng.random() < rates.noise:
            words = noisy(rng, words, rates.drop, draft.sentences)
        frames = rng.random() < rates.frame
        if frames:
            words = framed(rng, words, draft.sentences)
        if rng.random() < 0.5 if frames else draft.capital:
            words[0] = words[0][:1].upper() + words[0][1:]
        phrasing = _phrasing(words, draft)
        if phrasing == example.phrasing:
            return words, phrasing
        answers = self._answers.get(_SLOT.sub("{}", phrasing))
        if phrasing in self._held_out or (answers and _answer(example, draft) not in answers):
            return draft.words, example.phrasing
        return words, phrasing


def expand_examples(
    examples: Sequence[Example],
    count: int,
    seed: int = 0,
    *,
    rates: Rates | None = None,
    held_out: Collection[str] = (),
) -> Iterator[Example]:
    """The examples themselves, then new ones by turns until there are `count`.

    No request comes twice. Fewer come where the examples give no more.
    """
    rng = random.Random(seed)
    augmenter = Augmenter(examples, seed, rates=rates, held_out=held_out)
    seen = {_key(example) for example in examples[:count]}
    yield from examples[:count]
    left, misses = count - len(examples), 0
    while left > 0 and misses < TRIES * len(examples):
        example = augmenter.draw(rng, rng.choice(examples))
        misses += 1
        if (key := _key(example)) not in seen:
            seen.add(key)
            left, misses = left - 1, 0
            yield example


def _key(example: Example) -> str:
    return json.dumps(example.messages) + example.prompt + example.text


def _draft_of(example: Example, values: Values) -> _Draft | None:
    at = request_at(example.messages) if example.task == "calls" else None
    if at is None or not isinstance(request := example.messages[at]["content"], str):
        return None
    if not request.strip() or any(FIRST <= ord(char) <= LAST for char in request):
        return None
    calls = calls_after(example.messages, at)
    found = located(request, calls)
    spans = sorted((span, i) for i, each in enumerate(found) for span in each.spans)
    pieces, end = [], 0
    for (start, stop), number in spans:
        pieces += [request[end:start], mark(number)]
        end = stop
    words = "".join((*pieces, request[end:])).split(" ")
    first = words[0]
    capital = bool(not marks_in(first) and first[:1].isupper() and first[1:] == first[1:].lower())
    if capital and first != "I" and not first.startswith("I'"):
        words[0] = first.lower()
    sentences = {
        i
        for i, each in enumerate(found)
        if values.is_free_text(argument_of(calls[int(each.paths[0][0])]["name"], each.paths[0]))
    }
    return _Draft(
        at=at,
        words=tuple(words),
        found=found,
        surfaces=tuple(request[slice(*each.spans[0])] for each in found),
        swappable=frozenset(i for i, e in enumerate(found) if _may_change(e, example, at, calls)),
        sentences=frozenset(sentences),
        capital=capital,
        plain=all(word and not any(char.isspace() for char in word) for word in words),
    )


def _may_change(
    found: Found, example: Example, at: int, calls: Sequence[Mapping[str, Any]]
) -> bool:
    """Whether nothing else in the conversation says the value, in words or within another."""
    whole = re.compile(rf"(?<!\w){re.escape(written(found.value))}(?!\w)", re.IGNORECASE)
    others = [written(value) for path, value in leaves(calls) if path not in found.paths]
    others += [content_text(m) for i, m in enumerate(example.messages) if i != at]
    others += [json.dumps(m["tool_calls"]) for m in example.messages[:at] if m.get("tool_calls")]
    return not any(whole.search(each) for each in others)


def _as_before(value: Scalar, old: Scalar, surface: str) -> str | None:
    """A new value as the request wrote the old one; None where that cannot be told."""
    new, text = written(value), written(old)
    if surface == text:
        return new
    for change in (str.lower, str.capitalize, str.title, str.upper):
        if surface == change(text):
            return change(new)
    return None


def _holds(made: Example, draft: _Draft, drawn: Mapping[int, tuple[str, Scalar]]) -> bool:
    """Whether new values fit the schema, and the request says each as often as before."""
    request = content_text(made.messages[draft.at]).casefold()
    numbers = _NUMBER.findall(request)
    for number, (surface, value) in drawn.items():
        text = surface.casefold()
        count = request.count(text) if isinstance(value, str) else numbers.count(text)
        if count != len(draft.found[number].spans):
            return False
    calls = calls_after(made.messages, draft.at)
    return not any(
        validate_call(ToolCall(name=call["name"], arguments=call["arguments"]), made.tools)
        for call in calls
    )


def _filled(
    example: Example,
    draft: _Draft,
    words: Sequence[str],
    values: Mapping[int, tuple[str, Scalar]],
    phrasing: str,
) -> Example:
    """The example with other words and values."""
    request = " ".join(words)
    if words is draft.words and draft.capital:
        request = request[:1].upper() + request[1:]
    surfaces = {
        ord(mark(i)): values[i][0] if i in values else surface
        for i, surface in enumerate(draft.surfaces)
    }
    messages = list(example.messages)
    messages[draft.at] = {**messages[draft.at], "content": request.translate(surfaces)}
    changes = {path: values[i][1] for i in values for path in draft.found[i].paths}
    if changes:
        messages[draft.at :] = _with_arguments(messages[draft.at :], changes)
    return replace(example, messages=tuple(messages), phrasing=phrasing)


def _with_arguments(
    messages: Sequence[Mapping[str, Any]], changes: Mapping[Path, Scalar]
) -> list[Mapping[str, Any]]:
    copied = [copy.deepcopy(dict(m)) if m.get("tool_calls") else m for m in messages]
    calls = calls_after(copied, 0)
    for (number, *keys), value in changes.items():
        holder: Any = calls[int(number)]["arguments"]
        for key in keys[:-1]:
            holder = holder[key]
        holder[keys[-1]] = value
    return copied


def _phrasing(words: Sequence[str], draft: _Draft) -> str:
    names = {ord(mark(i)): f"{{{each.name}}}" for i, each in enumerate(draft.found)}
    return without_frame(" ".join(words).translate(names).casefold())


def _answer(example: Example, draft: _Draft) -> str:
    """What an example is answered by, the values that its request says left out."""
    masks = {path: "*" for each in draft.found for path in each.paths}
    calls = calls_after(_with_arguments(example.messages[draft.at :], masks), 0)
    return json.dumps(calls, sort_keys=True) if calls else ""
