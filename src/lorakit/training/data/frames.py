"""Polite frames around a request, and the function words of English.

A frame changes nothing about what is asked. Function words are those that a request can be short
of, or have one more of, and still ask for the same.
"""

from __future__ import annotations

import re

PREFIXES = (
    *("please", "hey,", "hi,", "ok,", "okay,", "can you", "could you", "would you", "will you"),
    *("can you please", "could you please", "would you please", "hey, please", "ok, please"),
    *("i want you to", "i need you to", "i would like you to", "i'd like you to", "go ahead and"),
    *("hey, can you", "hi, could you", "please can you", "would you mind to"),
)
SUFFIXES = (
    *("please", ", please", "for me", "for me please", "now", "right now", "now please"),
    *(", thanks", ", thank you", "thanks", "thank you", "will you", "would you"),
)
MARKS = (".", "!")
QUESTION = re.compile(
    r"(?:what|how|who|where|when|why|which|whose|is|are|am|was|were|do|does|did|can|could|will"
    r"|would|should|has|have|may|i|we|it|there|my|the|what's|how's|where's|who's|let|let's)\b",
    re.IGNORECASE,
)


def listed(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


# May be left out of a request. Words that turn its sense are not here: not, off, from, without.
DROPPED = frozenset(
    listed("""
the a an my our your this that these those some me us i we you it is are am be please just
to for of in at with there then so do want would like
""")
)
INSERTED = listed("""
the a my our this that some just now then so also please for to of in at up it me really
""")
FUNCTION_WORDS = frozenset((*DROPPED, *INSERTED)) | frozenset(
    listed("""
and or but not no on off by from as if than into onto over under about after before between he
she they him her them his their its who what when where why how which was were been has have had
did does can could will shall should may might must here out down again more most much many any
all each both few other same too very until while during without via per
""")
)
_BEFORE = re.compile(
    "(?:" + "|".join(re.escape(p) for p in sorted(PREFIXES, key=len, reverse=True)) + ") "
)
_ENDS = sorted({suffix.removeprefix(", ") for suffix in SUFFIXES}, key=len, reverse=True)
_AFTER = re.compile(",? (?:" + "|".join(map(re.escape, _ENDS)) + ")$")


def without_frame(request: str) -> str:
    """A request in lower case, spaces single, without its polite frame and final mark.

    A request that is nothing but a frame is left as it is.
    """
    text = request.rstrip(".!? ")
    for _ in range(2):  # "hey, can you ... now please"
        if found := _BEFORE.match(text):
            text = text[found.end() :] or text
        if found := _AFTER.search(text):
            text = text[: found.start()] or text
    return text.rstrip(".!? ") or request
