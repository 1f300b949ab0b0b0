"""The same request in other words: moved values, function words more or fewer, a polite frame.

A request is a list of words in which a private character stands for each value. No rewording puts
two values side by side, or adds a word with a meaning, which would seem part of a value beside it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from itertools import pairwise

from lorakit.training.data.frames import (
    DROPPED,
    INSERTED,
    MARKS,
    PREFIXES,
    QUESTION,
    SUFFIXES,
    without_frame,
)

FIRST, LAST = 0xE000, 0xF8FF  # Unicode's private area
UNFRAMED = 0.3  # the share of framed requests that lose their frame where they could get one


def mark(number: int) -> str:
    """The character that stands for the value of a number."""
    return chr(FIRST + number)


def marks_in(text: str) -> list[int]:
    """The numbers of the values in a text."""
    return [ord(char) - FIRST for char in text if FIRST <= ord(char) <= LAST]


def moved(rng: random.Random, words: list[str], sentences: AbstractSet[int]) -> list[str]:
    """A value exchanged with the word before or after it. sentences: values left where they are."""
    choices = [
        (i, j)
        for i, word in enumerate(words)
        for j in (i - 1, i + 1)
        if len(word) == 1 and marks_in(word) and not sentences & set(marks_in(word))
        if 0 <= j < len(words) and words[j].isalpha() and not marks_in(words[j])
    ]  # fmt: skip
    if not choices:
        return words
    i, j = rng.choice(choices)
    changed = list(words)
    changed[i], changed[j] = words[j], words[i]
    return changed if _side_by_side(changed) <= _side_by_side(words) else words


def noisy(
    rng: random.Random, words: list[str], drop: float, sentences: AbstractSet[int]
) -> list[str]:
    """Function words left out, each with a chance of `drop`, and now and then one put in."""
    kept = [word for word in words if word.casefold() not in DROPPED or rng.random() >= drop]
    plain = [word for word in kept if not marks_in(word)]
    if not plain or _side_by_side(kept) > _side_by_side(words):
        kept = list(words)
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        kept = _with_one_more(rng, kept, sentences)
    return kept


def _with_one_more(rng: random.Random, words: list[str], sentences: AbstractSet[int]) -> list[str]:
    """A function word between two words; not after a value, of which it would seem the end."""
    places = [
        i
        for i in range(len(words))
        if (i == 0 or not marks_in(words[i - 1]))
        if not sentences & set(marks_in(words[i]))
    ]  # fmt: skip
    if not places:
        return words
    i, word = rng.choice(places), rng.choice(INSERTED)
    beside = {words[i].casefold(), words[i - 1].casefold() if i else ""}
    return words if word in beside else [*words[:i], word, *words[i:]]


def framed(rng: random.Random, words: list[str], sentences: AbstractSet[int]) -> list[str]:
    """A request with a polite frame, a final mark, or in place of its frame none.

    Nothing follows a value that is a sentence: it would seem to be part of it.
    """
    text = " ".join(words)
    bare = without_frame(text)
    if bare != text and rng.random() < UNFRAMED:
        text = bare
    closed = bool(sentences & set(marks_in(text[-1:])))
    question = QUESTION.match(text) or bare != text.rstrip(".!?")
    if not question and not marks_in(text[0]) and rng.random() < 0.5:
        text = f"{rng.choice(PREFIXES)} {text}"
    if closed or text[-1:] in ".!?":
        return text.split(" ")
    if rng.random() < 0.35:
        suffix = rng.choice(SUFFIXES)
        text += suffix if suffix.startswith(",") else f" {suffix}"
    if rng.random() < 0.3:
        text += "?" if QUESTION.match(text) and rng.random() < 0.7 else rng.choice(MARKS)
    return text.split(" ")


def _side_by_side(words: Sequence[str]) -> int:
    """How many values have another one right after them."""
    return sum(bool(marks_in(a) and marks_in(b)) for a, b in pairwise(words))
