"""Regular expressions that constraints take, rewritten for llguidance and bounded.

What Python, JavaScript and Rust all know and mean alike: characters and escapes, classes, groups,
alternatives, repetitions; ^ and $ at the ends. Digits, letters and spaces (\\d, \\w, \\s) are those
of ASCII, a dot is all but a newline. Look-around, back-references and word boundaries are refused,
with their position, and so is what would be too large: a repetition counts as often as it repeats.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lorakit.errors import ParameterError
from lorakit.values import shown

MAX_TEXT = 50_000  # characters of an expression
MAX_SIZE = 20_000  # characters and classes, repetitions expanded
MAX_NESTING = 50  # groups inside each other
HINT = (
    "literals, escapes, [classes], (groups), |, *, +, ?, {m,n}, and ^ and $ at the ends; no "
    "look-around, back-references or \\b"
)

_KINDS = {
    "d": "0-9", "w": "0-9A-Za-z_", "s": " \\t\\n\\r\\f\\v",
}  # fmt: skip
_CONTROLS = {"n": 10, "t": 9, "r": 13, "f": 12, "v": 11, "0": 0, "a": 7, "e": 27}
_CODE = re.compile(
    r"x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|[xu]\{([0-9A-Fa-f]{1,6})\}"
)
_PROPERTY = re.compile(r"[pP]\{[A-Za-z_]{1,32}\}")
_TIMES = re.compile(r"\{([0-9]{1,9})(?:(,)([0-9]{1,9})?)?\}")
_NAMED = re.compile(r"\?(?::|P?<[A-Za-z_][A-Za-z0-9_]{0,63}>)")
_LETTERS = re.compile(r"[A-Za-z0-9]")


class _Refused(Exception):  # noqa: N818  # never leaves this file
    def __init__(self, why: str, at: int) -> None:
        super().__init__(f"{why}, at position {at}")


@dataclass(slots=True)
class _Part:
    """A piece in Rust's syntax, and its size with repetitions expanded."""

    text: str
    size: int


def expression_fault(pattern: str) -> str:
    """Why an expression cannot be enforced; "" where it can."""
    try:
        _Parser(pattern).whole(search=True)
    except _Refused as why:
        return str(why)
    return ""


def searched(pattern: str) -> str:
    """An expression, in Rust's syntax, of the whole texts in which a pattern is found, as JSON
    Schema means it. Raises ParameterError."""
    return _rewritten(pattern, search=True)


def whole(pattern: str) -> str:
    """An expression, in Rust's syntax, of the texts that fit a pattern from end to end; ^ and $ say
    nothing. Raises ParameterError."""
    if not isinstance(pattern, str):
        raise ParameterError(f"a regular expression is a text, found {shown(pattern)}")
    return _rewritten(pattern, search=False)


def exactly(text: str) -> str:
    """An expression, in Rust's syntax, that this text alone fits."""
    return "".join(map(_character, text))


def _rewritten(pattern: str, *, search: bool) -> str:
    try:
        return _Parser(pattern).whole(search=search)
    except _Refused as why:
        raise ParameterError(
            "the regular expression cannot be enforced", items=[str(why)], hint=HINT
        ) from why


class _Parser:
    def __init__(self, pattern: str) -> None:
        self._text, self._at = pattern, 0

    def whole(self, *, search: bool) -> str:
        """All of it. search: whether what stands around does not matter, but for ^ and $."""
        if len(self._text) > MAX_TEXT:
            raise _Refused(f"more than {MAX_TEXT} characters", MAX_TEXT)
        if surrogate := re.search("[\ud800-\udfff]", self._text):
            raise _Refused("half of a surrogate pair", surrogate.start())
        anything = "(?s:.*)" if search else ""
        options: list[str] = []
        size = 0
        while True:
            begins = self._take("^")
            part = self._sequence(0, outer=True)
            ends = self._take("$")
            size += part.size
            self._bound(size)
            before, after = ("" if begins else anything), ("" if ends else anything)
            options.append(f"{before}{part.text}{after}")
            if not self._take("|"):
                break
        if self._at < len(self._text):
            raise self._wrong("no group is open")
        return options[0] if len(options) == 1 else "|".join(f"(?:{each})" for each in options)

    def _alternatives(self, depth: int) -> _Part:
        if depth > MAX_NESTING:
            raise self._wrong(f"more than {MAX_NESTING} groups inside each other")
        parts = [self._sequence(depth)]
        while self._take("|"):
            parts.append(self._sequence(depth))
        return _Part("|".join(part.text for part in parts), sum(part.size for part in parts))

    def _sequence(self, depth: int, *, outer: bool = False) -> _Part:
        texts: list[str] = []
        size = 0
        while self._at < len(self._text):
            sign = self._text[self._at]
            if sign in "|)" or (outer and sign == "$" and self._ends()):
                break
            part = self._repeated(self._one(sign, depth))
            texts.append(part.text)
            size += part.size
            self._bound(size)
        return _Part("".join(texts), size)

    def _ends(self) -> bool:
        return self._text[self._at + 1 : self._at + 2] in ("", "|")

    def _one(self, sign: str, depth: int) -> _Part:
        """One character, class or group."""
        if sign == "(":
            return self._group(depth)
        if sign == "[":
            return self._class()
        if sign in "^$":
            raise self._wrong(f"{sign} is enforced at the ends only")
        if sign in "*+?{":
            raise self._wrong("there is nothing to repeat")
        if sign == "\\":
            return _Part(self._escape(inside=False), 1)
        self._at += 1
        return _Part("[^\\n]" if sign == "." else _character(sign), 1)

    def _group(self, depth: int) -> _Part:
        start = self._at
        self._at += 1
        if self._text[self._at : self._at + 1] == "?":
            named = _NAMED.match(self._text, self._at)
            if named is None:
                raise _Refused(
                    "look-around, flags and other groups of (?...) are not supported", start
                )
            self._at = named.end()
        inner = self._alternatives(depth + 1)
        if not self._take(")"):
            raise _Refused("the group never ends", start)
        return _Part(f"(?:{inner.text})", inner.size)

    def _repeated(self, part: _Part) -> _Part:
        """A part with the repetition that follows it."""
        sign = self._text[self._at : self._at + 1]
        if not sign or sign not in "*+?{":
            return part
        start = self._at
        if sign == "{":
            found = _TIMES.match(self._text, self._at)
            if found is None:
                raise self._wrong("a repetition is such as {2} or {1,3}; \\{ is a brace")
            self._at = found.end()
            least = int(found[1])
            most = least if found[2] is None else None if found[3] is None else int(found[3])
            if most is not None and most < least:
                raise _Refused(f"a repetition of at least {least} and at most {most}", start)
            times = max(least, most or 0, 1)
            written = found[0]
        else:
            self._at += 1
            times, written = 1, sign
        self._take("?")  # lazy: which texts fit does not depend on it
        if self._text[self._at : self._at + 1] in ("*", "+", "?", "{") and self._at < len(
            self._text
        ):
            raise self._wrong("two repetitions; put the first into a group")
        self._bound(part.size * times, start)
        return _Part(f"{part.text}{written}", part.size * times + 1)

    def _class(self) -> _Part:
        start = self._at
        self._at += 1
        negated = self._take("^")
        written: list[str] = []
        first = True
        while first or self._text[self._at : self._at + 1] != "]":
            first = False
            low = self._member(start)
            dash = self._text[self._at : self._at + 1] == "-"
            if dash and self._text[self._at + 1 : self._at + 2] not in ("]", ""):
                self._at += 1
                high = self._member(start)
                if not (isinstance(low, int) and isinstance(high, int) and low <= high):
                    raise _Refused("a range from a character to a later one is expected", start)
                written.append(f"{_coded(low)}-{_coded(high)}")
            else:
                written.append(_coded(low) if isinstance(low, int) else low)
        self._at += 1
        return _Part(f"[{'^' * negated}{''.join(written)}]", 1)

    def _member(self, start: int) -> int | str:
        """The code of a character of a class, or the kind of characters as it is written."""
        if self._at >= len(self._text):
            raise _Refused("the class never ends", start)
        if self._text[self._at] == "\\":
            before = self._at
            written = self._escape(inside=True)
            found = re.fullmatch(r"\\x\{([0-9a-f]+)\}", written)
            if found is None and len(written) != 1 and not written.startswith(("\\p", "\\P")):
                kind = self._text[before + 1]
                if kind.isupper():
                    raise _Refused(f"\\{kind} within a class is not supported", before)
            return int(found[1], 16) if found else written
        self._at += 1
        return ord(self._text[self._at - 1])

    def _escape(self, *, inside: bool) -> str:
        """An escape in Rust's syntax. inside: within a class."""
        start = self._at
        self._at += 1
        sign = self._text[self._at : self._at + 1]
        if not sign:
            raise _Refused("nothing follows the backslash", start)
        if sign.lower() in _KINDS:
            self._at += 1
            kind = _KINDS[sign.lower()]
            return kind if inside else f"[{'^' * sign.isupper()}{kind}]"
        if found := _PROPERTY.match(self._text, self._at):
            self._at = found.end()
            return f"\\{found[0]}"
        if found := _CODE.match(self._text, self._at):
            self._at = found.end()
            code = int(next(group for group in found.groups() if group), 16)
            if code > 0x10FFFF or 0xD800 <= code < 0xE000:
                raise _Refused("no such character", start)
            return _coded(code)
        self._at += 1
        if inside and sign == "b":
            return _coded(8)
        if sign in _CONTROLS and not self._text[self._at : self._at + 1].isdigit():
            return _coded(_CONTROLS[sign])
        if _LETTERS.match(sign):
            raise _Refused(f"the escape \\{sign} is not supported", start)
        return _coded(ord(sign))

    def _bound(self, size: int, at: int | None = None) -> None:
        if size > MAX_SIZE:
            where = self._at if at is None else at
            raise _Refused(f"more than {MAX_SIZE} characters with repetitions expanded", where)

    def _take(self, sign: str) -> bool:
        found = self._text.startswith(sign, self._at)
        self._at += found
        return found

    def _wrong(self, why: str) -> _Refused:
        return _Refused(why, self._at)


def _character(char: str) -> str:
    return char if char.isascii() and char.isalnum() else _coded(ord(char))


def _coded(code: int) -> str:
    """A character by its number: it needs no escape, in a class or outside."""
    return f"\\x{{{code:x}}}"
