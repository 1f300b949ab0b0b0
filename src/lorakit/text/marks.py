"""Marks: the texts at which a tokenizer does not cut but puts one token, such as <|im_end|>."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

Range = tuple[int, int]


class EncodeApart(Protocol):
    """Encodes a text and adds nothing; marks in the given ranges are text like any other."""

    def __call__(self, text: str, ranges: Sequence[Range]) -> list[int]: ...


class Marks:
    """Tokens by their text, found in texts: the leftmost one, and of these the longest.

    Those of one character are left out: they are what text is made of.
    """

    def __init__(self, tokens: Mapping[str, int]) -> None:
        self.tokens = {text: token for text, token in tokens.items() if len(text) > 1}
        self._pattern = re.compile(_either(self.tokens) or r"(?!)")
        self._beginnings = frozenset(t[:n] for t in self.tokens for n in range(1, len(t)))
        self._longest = max(map(len, self.tokens), default=0)

    def find(self, text: str, start: int = 0) -> Range | None:
        """The next mark at or after a position."""
        found = self._pattern.search(text, start)
        return found.span() if found else None

    def at(self, text: str, start: int) -> Range | None:
        """The mark at a position."""
        found = self._pattern.match(text, start)
        return found.span() if found else None

    def beginnings(self, text: str) -> list[int]:
        """Where something begins at the end of a text that may become a mark."""
        first = max(0, len(text) - self._longest)
        return [at for at in range(first, len(text)) if text[at:] in self._beginnings]

    def are_more_in(self, ids: Sequence[int], text: str) -> bool:
        """Whether a text's ids hold more marks than are spelled in it: a normalizer makes them of
        other characters, such as those of full width."""
        known = set(self.tokens.values())
        spelled = sum(bool(mark) for *_, mark in self.apart(text, ()))
        return sum(index in known for index in ids) > spelled

    def apart(self, text: str, ranges: Sequence[Range]) -> Iterator[tuple[int, int, str]]:
        """A text cut at its marks: from where to where there is text, and the mark behind it.

        What overlaps a range is no mark. The last mark is "".
        """
        ranges = _merged(ranges)
        at = position = passed = 0
        while (found := self.find(text, position)) is not None:
            start, end = found
            while passed < len(ranges) and ranges[passed][1] <= start:
                passed += 1
            if passed < len(ranges) and ranges[passed][0] < end:
                position = start + 1
                continue
            yield at, start, text[start:end]
            at = position = end
        yield at, len(text), ""


def _merged(ranges: Sequence[Range]) -> list[Range]:
    merged: list[Range] = []
    for start, end in sorted(ranges):
        if merged and start < merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def _either(texts: Iterable[str]) -> str:
    """The pattern of any of some texts, the longest that fits; its time does not grow with them."""
    tree: dict[str, Any] = {}
    for text in texts:
        node = tree
        for character in text:
            node = node.setdefault(character, {})
        node[""] = {}
    return _branches(tree)


def _branches(tree: dict[str, Any]) -> str:
    parts = []
    for character, node in tree.items():
        if character:
            text = re.escape(character)
            while len(node) == 1 and "" not in node:  # no recursion where nothing branches
                ((character, node),) = node.items()
                text += re.escape(character)
            parts.append(text + _branches(node))
    pattern = f"(?:{'|'.join(parts)})" if parts else ""
    return f"{pattern}?" if "" in tree and parts else pattern
