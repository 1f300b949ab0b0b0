"""How wide text will be, where no font is at hand: a little more than common fonts make it."""

from __future__ import annotations

import unicodedata

_NARROW = frozenset("iljItf.,:;'|!()[]{} -/\\\"`")
_WIDE = frozenset("mwMW@%")


def text_width(text: str, size: float, *, bold: bool = False, mono: bool = False) -> float:
    """Pixels of a line of text. East Asian wide characters count as a full em."""
    if mono:
        return size * sum(1.2 if _is_wide(c) else 0.61 for c in text)
    return size * (1.18 if bold else 1.0) * sum(map(_advance, text))


def shortened(text: str, size: float, room: float, *, mono: bool = False) -> str:
    """The text, or its beginning with an ellipsis, so that it fits."""
    if text_width(text, size, mono=mono) <= room:
        return text
    kept = text
    while kept and text_width(kept + "…", size, mono=mono) > room:
        kept = kept[:-1]
    return kept + "…"


def squeezed(text: str, size: float, room: float) -> str:
    """The text, or both its ends with an ellipsis between: the names of modules differ there."""
    kept = text
    while kept and text_width(kept + "…", size) > room:
        middle = len(kept) // 3
        kept = kept[:middle] + kept[middle + 1 :]
    first = len(kept) // 3
    return text if kept == text else f"{kept[:first]}…{kept[first:]}"


def _advance(letter: str) -> float:
    if _is_wide(letter):
        return 1.05
    if letter in _NARROW:
        return 0.37
    if letter in _WIDE:
        return 0.92
    return 0.72 if letter.isupper() else 0.61


def _is_wide(letter: str) -> bool:
    return unicodedata.east_asian_width(letter) in ("W", "F")
