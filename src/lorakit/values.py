"""What a number or a word from a user must be, and how a user's value is shown in a message."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any

import numpy as np

from lorakit.errors import ParameterError

FLOAT32_MAX = float(np.finfo(np.float32).max)
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}  # of bytes


def whole(value: Any) -> bool:
    """Whether it is a whole number; a truth value is none."""
    return isinstance(value, Integral) and not isinstance(value, bool | np.bool_)


def real(value: Any) -> bool:
    """Whether it is a number, infinite ones and NaN included; a truth value is none."""
    return isinstance(value, Real) and not isinstance(value, bool | np.bool_)


def finite(value: Any, largest: float = FLOAT32_MAX) -> bool:
    """Whether it is a finite number that float32 holds."""
    try:
        return real(value) and abs(float(value)) <= largest
    except OverflowError:
        return False


def truth(value: Any) -> bool:
    """Whether it is True or False; a number is neither."""
    return isinstance(value, bool | np.bool_)


def among(value: Any, words: Container[str]) -> bool:
    """Whether it is one of some words; what cannot be hashed or compared is none."""
    return isinstance(value, str) and value in words


def shown(value: Any, limit: int = 80) -> str:
    """A value in a message, cut to `limit` characters, whatever its repr does."""
    if whole(value) and abs(int(value)) >= 10**limit:  # Python refuses to write out huge ones
        return f"a whole number of {int(value).bit_length()} bits"
    try:
        text = repr(value)
    except Exception:
        return f"a {type(value).__name__}"
    return text if len(text) <= limit else f"{text[:limit]}..."


def close_to(word: str, known: Iterable[str]) -> list[str]:
    """What may be meant by a word: what begins with it, else what is spelled nearly so."""
    names = list(known)
    begun = [name for name in names if len(word) > 2 and name.startswith(word)][:3]
    return begun or get_close_matches(word, names)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean a or b?`, or nothing."""
    close = close_to(word, known)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def byte_count(text: str) -> int:
    """Bytes from "500MB", "1.5 GB", "1000000". Raises ParameterError."""
    found = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([kmgt]?)i?b?", text.strip().lower())
    if not found:
        raise ParameterError(f"a size is such as 500MB or 2GB, not {shown(text)}")
    return int(float(found[1]) * UNITS[found[2]])
