"""Other values for the arguments of calls: of the same kind, allowed by the schema, as many words.

A string is another one that the same argument has elsewhere, or new words in the shape of the old
ones: capitals, digits and function words stay where they are. What a model learns from made-up
words is to copy, not to remember.
"""

from __future__ import annotations

import random
import re
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from lorakit.chat.calls import function_of
from lorakit.training.data.everyday import everyday_words
from lorakit.training.data.example import Example
from lorakit.training.data.frames import FUNCTION_WORDS, listed
from lorakit.training.data.phrasing import Path
from lorakit.values import finite

Scalar = str | int | float
Argument = tuple[str, ...]  # the function's name, then keys; positions in lists left out
FREE_TEXT = 4  # words; an argument that has had so many may run on to the end of a request
KEPT = 0.25  # the share of strings that come from the same argument of other examples
SHARED = 3  # values that have a word make it one of the argument's own
LEFT = 0.35  # the share of a string's words that stay where others change
MADE_UP = 2000
ONSETS = listed("b d f g h k l m n p r s t v z br dr gr kr pl st tr")
VOWELS = listed("a e i o u")
CODAS = ("", "", "", "l", "n", "r", "s", "m")
LARGEST = 1e15  # of numbers that are swapped
CODE = 3  # letters of a word in capitals that is a code
SHAPE = re.compile(r"(\W*)(.*?)(\W*)", re.DOTALL)
TIME = re.compile(r"(\d{1,2}):(\d{2})")
DATE = re.compile(r"\d{4}-(\d{2})-(\d{2})")


class Values:
    """What the arguments of the examples hold, and new values like them."""

    def __init__(self, examples: Sequence[Example], seed: int) -> None:
        rng = random.Random(seed)
        self._words = (*everyday_words(), *(made_up(rng) for _ in range(MADE_UP)))
        pools: dict[tuple[Argument, int], dict[Scalar, None]] = {}
        for example in examples:
            for argument, value in arguments_of(example):
                pools.setdefault((argument, _kind(value)), {})[value] = None
        self._pools = {key: list(pool) for key, pool in pools.items()}
        self._shared = _shared_words(self._pools)
        self._free_text = {argument for argument, kind in self._pools if kind >= FREE_TEXT}

    def is_free_text(self, argument: Argument) -> bool:
        """Whether its values are sentences, rather than names and things."""
        return argument in self._free_text

    def draw(
        self, rng: random.Random, argument: Argument, value: Scalar, schema: Mapping[str, Any]
    ) -> Scalar:
        """Another value in the place of one; the same where there is none. Check it afterwards."""
        pool = self._pools.get((argument, _kind(value)), [])
        choices = schema.get("enum")
        if isinstance(choices, list):
            alike: list[Scalar] = [
                choice
                for choice in choices
                if isinstance(choice, str | int | float) and not isinstance(choice, bool)
                if _kind(choice) == _kind(value)
            ]
            return rng.choice(alike or [value])
        if schema.keys() & {"pattern", "format", "const", "multipleOf"}:
            return rng.choice(pool or [value])
        if isinstance(value, str):
            return self._string(rng, value, pool, self._shared.get(argument, frozenset()))
        return self._number(rng, value, schema, [v for v in pool if not isinstance(v, str)])

    def _string(
        self, rng: random.Random, value: str, pool: Sequence[Scalar], shared: AbstractSet[str]
    ) -> Scalar:
        if rng.random() < KEPT and len(pool) > 2:
            return rng.choice(pool)
        words = value.split(" ")
        content = [
            i
            for i, word in enumerate(words)
            if word.casefold() not in FUNCTION_WORDS and word not in shared
        ]
        for i in _some(rng, content or range(len(words))):
            words[i] = _other_word(rng, words[i], self._words)
        return " ".join(words)

    def _number(
        self, rng: random.Random, value: float, schema: Mapping[str, Any], pool: Sequence[float]
    ) -> Scalar:
        seen = [number for number in (*pool, value) if abs(number) < LARGEST]
        if not seen:
            return value
        least = min(*seen, 1) if min(seen) < 1 else max(1, min(seen) // 2)
        low, high = _bound(schema, "minimum", least), _bound(schema, "maximum", 2 * max(seen))
        high = max(low, high)
        if isinstance(value, int):
            return rng.randint(int(low), int(high))
        return round(rng.uniform(low, high), len(str(value).partition(".")[2]))


def schema_at(tools: Sequence[Mapping[str, Any]], argument: Argument) -> Mapping[str, Any]:
    """The schema of an argument; {} where the declarations do not spell it out."""
    schema: Any = next(
        (
            function_of(tool).get("parameters")
            for tool in tools
            if function_of(tool).get("name") == argument[0]
        ),
        None,
    )
    for key in argument[1:]:
        while isinstance(schema, Mapping) and isinstance(schema.get("items"), Mapping):
            schema = schema["items"]
        properties = schema.get("properties") if isinstance(schema, Mapping) else None
        schema = properties.get(key) if isinstance(properties, Mapping) else None
    while isinstance(schema, Mapping) and isinstance(schema.get("items"), Mapping):
        schema = schema["items"]
    return schema if isinstance(schema, Mapping) else {}


def argument_of(name: str, path: Path) -> Argument:
    """Which argument of which function a path leads to."""
    return (name, *(key for key in path[1:] if isinstance(key, str)))


def shaped(word: str, like: str) -> str:
    """A word in the capitals of another."""
    if like.isupper() and len(like) > 1:
        return word.upper()
    return word.capitalize() if like[:1].isupper() else word


def made_up(rng: random.Random) -> str:
    """A word that nobody knows, of two syllables, or now and then three."""
    count = 3 if rng.random() < 0.2 else 2
    return "".join(
        rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(count)
    )


def arguments_of(example: Example) -> Iterator[tuple[Argument, Scalar]]:
    """Every string and number that an example's calls pass, with the argument that it is."""
    for message in example.messages:
        for call in message.get("tool_calls") or ():
            function = call["function"]
            stack: list[tuple[Argument, Any]] = [((function["name"],), function["arguments"])]
            while stack:
                argument, value = stack.pop()
                if isinstance(value, Mapping):
                    stack += [((*argument, key), item) for key, item in value.items()]
                elif isinstance(value, list):
                    stack += [(argument, item) for item in value]
                elif isinstance(value, str | int | float) and not isinstance(value, bool):
                    yield argument, value


def _shared_words(
    pools: Mapping[tuple[Argument, int], Sequence[Scalar]],
) -> dict[Argument, AbstractSet[str]]:
    """Words that many values of an argument have: the "street" of streets, the "room" of rooms.

    They tell where a value ends, so that they stay where the others change.
    """
    counts: dict[Argument, Counter[str]] = {}
    for (argument, kind), pool in pools.items():
        for value in pool if kind > 1 else ():
            counts.setdefault(argument, Counter()).update(set(str(value).split()))
    return {
        argument: {word for word, count in counter.items() if count >= SHARED}
        for argument, counter in counts.items()
    }


def _some(rng: random.Random, places: Sequence[int]) -> Sequence[int]:
    """Some of the places, one at least: of a street, say, the word "street" often stays."""
    chosen = [place for place in places if rng.random() >= LEFT]
    return chosen or [rng.choice(places)]


def _kind(value: Scalar) -> int:
    """Values of one kind may stand for each other: strings of as many words, or numbers (-1)."""
    return len(value.split()) if isinstance(value, str) else -1


def _bound(schema: Mapping[str, Any], key: str, otherwise: float) -> float:
    """What a schema says of a number, where it says something that can be used."""
    given = schema.get(key)
    return float(given or 0) if finite(given, LARGEST) else otherwise


def _other_word(rng: random.Random, word: str, words: Sequence[str]) -> str:
    """A word in the shape of another: digits stay digits, codes codes, marks where they were."""
    if TIME.fullmatch(word):
        hour = rng.randint(10, 23) if len(word) == 5 and word[0] != "0" else rng.randint(0, 9)
        return f"{hour:0{word.index(':')}d}:{rng.randint(0, 59):02d}"
    if DATE.fullmatch(word):
        return f"{word[:4]}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"
    before, core, after = SHAPE.fullmatch(word).groups()  # type: ignore[union-attr]  # all fit
    if not core.isalpha() or (core.isupper() and len(core) <= CODE):
        return "".join(_other_character(rng, character) for character in word)
    return f"{before}{shaped(rng.choice(words), core)}{after}"


def _other_character(rng: random.Random, character: str) -> str:
    if character in "123456789":  # 0 stays: it may be a leading one
        return rng.choice("123456789")
    if character.isascii() and character.isupper():
        return rng.choice(string.ascii_uppercase)
    return character
