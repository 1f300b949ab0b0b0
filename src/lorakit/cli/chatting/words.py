"""The words of a command: /adapter 'my home' 0.5."""

from __future__ import annotations

import os
import re
import shlex

from lorakit.errors import ParameterError

# The last word of what is typed so far, as `words_of` would read it.
_LAST = re.compile(r"(?:[^\s'\"\\]|\\.|'[^']*'?|\"[^\"]*\"?)*\Z", re.DOTALL)


def words_of(text: str, least: int, most: int) -> list[str]:
    """Words apart, quoted ones whole. Raises ParameterError where there are too few or many."""
    try:
        words = _apart(text)
    except ValueError as error:
        raise ParameterError(f"cannot read {text!r}: {error}") from error
    if not least <= len(words) <= most:
        count = f"{least}" if least == most else f"{least} to {most}"
        raise ParameterError(f"expected {count} words, found {len(words)}")
    return words


def last_word(text: str) -> tuple[str, str]:
    """The word at the end, as it is typed and as it is meant; both may be empty."""
    found = _LAST.search(text)
    typed = found[0] if found else ""
    for closing in ("", "'", '"'):
        try:
            return typed, "".join(_apart(typed + closing))
        except ValueError:
            continue
    return typed, typed


def quoted(word: str) -> str:
    """A word as it is typed."""
    escape = "" if os.name == "nt" else r"\\"  # see _apart
    return shlex.quote(word) if re.search(rf"[\s'\"{escape}]", word) else word


def number(text: str) -> float:
    """Raises ParameterError."""
    try:
        return float(text)
    except ValueError as error:
        raise ParameterError(f"a scale is a number, not {text!r}") from error


def _apart(text: str) -> list[str]:
    """As a shell would; a backslash is one in paths of Windows."""
    reader = shlex.shlex(text, posix=True, punctuation_chars=False)
    reader.whitespace_split, reader.commenters = True, ""
    if os.name == "nt":
        reader.escape = ""
    return list(reader)
