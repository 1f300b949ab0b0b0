"""Rules of strings that stand in a call as they are, up to a marker that ends them.

Where the text is JSON, llguidance knows lengths, patterns and formats itself; here they are regular
expressions over the bare text. The marker itself is always excluded, whatever the tokens: a model
could spell it with plain ones, and who reads the text could not tell.
"""

from __future__ import annotations

from lorakit.chat.constraints.expressions import exactly, searched
from lorakit.chat.constraints.lark import expression
from lorakit.chat.constraints.nodes import Text

_DATE = "[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])"
_TIME = "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,9})?"
_ZONE = "(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = f"{_LABEL}(?:\\.{_LABEL}){{0,10}}"
_BYTE = "(?:[0-9]|[1-9][0-9]|1[0-9]{2}|2[0-4][0-9]|25[0-5])"
_CLOCK = "(?:[0-9]{1,9}H(?:[0-9]{1,9}M)?(?:[0-9]{1,9}S)?|[0-9]{1,9}M(?:[0-9]{1,9}S)?|[0-9]{1,9}S)"
_DAYS = "(?:[0-9]{1,9}Y(?:[0-9]{1,9}M)?(?:[0-9]{1,9}D)?|[0-9]{1,9}M(?:[0-9]{1,9}D)?|[0-9]{1,9}D)"
FORMATS = {
    "date": _DATE,
    "time": f"{_TIME}{_ZONE}",
    "date-time": f"{_DATE}T{_TIME}{_ZONE}",
    "duration": f"P(?:{_DAYS}(?:T{_CLOCK})?|T{_CLOCK}|[0-9]{{1,9}}W)",
    "email": f"[A-Za-z0-9!#$%&'*+=?^_`{{|}}~-]+(?:\\.[A-Za-z0-9_+-]+){{0,10}}@{_HOST}",
    "hostname": _HOST,
    "ipv4": f"{_BYTE}(?:\\.{_BYTE}){{3}}",
    "ipv6": "(?:[0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4}",
    "uri": "[a-zA-Z][a-zA-Z0-9+.-]*://[A-Za-z0-9._~:/?#\\[\\]@!$&'()*+,;=%-]+",
    "uuid": "[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}",
}
"""JSON Schema's formats as expressions of less than is valid, never more: the last days of a month,
and the short forms of an IPv6 address, are left out."""


def text_terminal(node: Text, marker: str) -> str:
    """The body of a terminal: the strings that fit, without the marker.

    Raises ParameterError for a pattern that cannot be enforced.
    """
    parts = [expression(without(marker))]
    if node.least or node.most is not None:
        parts.append(f"/(?s:.{{{node.least},{'' if node.most is None else node.most}}})/")
    if node.pattern is not None:
        parts.append(expression(searched(node.pattern)))
    if node.format is not None:
        parts.append(expression(FORMATS[node.format]))
    return " & ".join(parts)


def without(marker: str) -> str:
    """An expression of the texts that do not hold a marker, whose first character is in it once.

    It says what may stand there, not what may not: llguidance finds at once that most tokens fit
    this (0.1 ms a mask at 262,144 tokens; 5 to 9 ms for the complement).
    """
    first, rest = marker[0], marker[1:]
    begun = [exactly(rest[:size]) for size in range(len(rest))]  # of the marker, after its first
    again = f"(?:{'|'.join(part + exactly(first) for part in begun)})*"
    other = "|".join(part + _but(first, char) for part, char in zip(begun, rest, strict=True))
    cut_off = f"(?:{'|'.join(begun[1:])})?"
    head = exactly(first)
    return f"(?:{_but(first)}|{head}{again}(?:{other}))*(?:{head}{again}{cut_off})?"


def _but(*chars: str) -> str:
    """Any character but these."""
    return f"[^{''.join(map(exactly, chars))}]"
