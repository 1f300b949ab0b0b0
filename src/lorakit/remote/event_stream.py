"""Server-sent events, from the pieces of a body: every line and the whole are of bounded length.

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html, of which an API of this kind
uses the field `data`. A lone carriage return is not taken for the end of a line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lorakit.sources.wire import ProtocolError

MAX_LINE = 1 << 20  # bytes
MARK = b"\xef\xbb\xbf"  # of UTF-8, which may stand before the first line


def events(read: Callable[[], bytes], limit: int) -> Iterator[bytes]:
    """The data of each event, until the body ends. read: the next piece, empty at the end.

    limit: bytes of the whole body. Raises ProtocolError, and what `read` raises.
    """
    data: list[bytes] = []
    size = 0
    for number, line in enumerate(_lines(read, limit)):
        line = line if number else line.removeprefix(MARK)
        if not line and data:
            yield b"\n".join(data)
            data, size = [], 0
        name, _, value = line.partition(b":")
        if name == b"data":
            size += len(value)
            if size > MAX_LINE:
                raise ProtocolError(f"it sends an event of more than {MAX_LINE} bytes")
            data.append(value.removeprefix(b" "))


def _lines(read: Callable[[], bytes], limit: int) -> Iterator[bytes]:
    """Lines without their ends; what no end follows is none."""
    parts: list[bytes] = []
    begun = total = 0
    while piece := read():
        total += len(piece)
        if total > limit:
            raise ProtocolError(f"its answer has more than {limit} bytes, and does not end")
        first, *rest = piece.split(b"\n")
        parts.append(first)
        begun += len(first)
        for following in rest:
            yield b"".join(parts).removesuffix(b"\r")
            parts, begun = [following], len(following)
        if begun > MAX_LINE:
            raise ProtocolError(f"it sends a line of more than {MAX_LINE} bytes")
