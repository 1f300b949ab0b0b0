"""A small picture: rectangles, lines and text on pixels, written as PNG (RFC 2083) through zlib.

Enough for a chart with labels, without a plotting library. Text is lower-case letters, digits and a
few signs, in a font of 5 x 7 dots; what the font lacks is drawn as a box.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
import numpy.typing as npt

Colour = tuple[int, int, int]
BLACK: Colour = (20, 20, 20)
WHITE: Colour = (255, 255, 255)
ADVANCE = 6  # dots from one letter to the next
HEIGHT = 7  # dots of a letter


class Picture:
    """An RGB canvas; (0, 0) is the left upper corner. What lies outside of it is cut off."""

    def __init__(self, width: int, height: int, background: Colour = WHITE) -> None:
        self.pixels: npt.NDArray[np.uint8] = np.empty((height, width, 3), np.uint8)
        self.pixels[:] = background

    def rectangle(self, x: int, y: int, width: int, height: int, colour: Colour) -> None:
        self.pixels[max(y, 0) : max(y + height, 0), max(x, 0) : max(x + width, 0)] = colour

    def line(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        """Two dots wide, so that a thin curve stays visible when the picture is scaled down."""
        steps = int(max(abs(x1 - x0), abs(y1 - y0))) + 1
        at = np.linspace(0.0, 1.0, steps + 1)
        for right, down in ((0, 0), (1, 0), (0, 1), (1, 1)):
            x = np.rint(x0 + at * (x1 - x0)).astype(np.int64) + right
            y = np.rint(y0 + at * (y1 - y0)).astype(np.int64) + down
            height, width, _ = self.pixels.shape
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            self.pixels[y[inside], x[inside]] = colour

    def text(self, x: int, y: int, text: str, colour: Colour = BLACK, *, size: int = 2) -> None:
        """Text whose left upper corner is (x, y); a dot of the font is `size` pixels."""
        for number, letter in enumerate(text.lower()):
            left = x + number * ADVANCE * size
            for row, bits in enumerate(_glyph(letter)):
                for column in range(5):
                    if bits >> (4 - column) & 1:
                        at = (left + column * size, y + row * size)
                        self.rectangle(*at, size, size, colour)

    def png(self) -> bytes:
        """The file's bytes: 8-bit RGB, one IDAT chunk, no filters."""
        height, width, _ = self.pixels.shape
        rows = np.zeros((height, 1 + width * 3), np.uint8)  # each row begins with filter type 0
        rows[:, 1:] = self.pixels.reshape(height, -1)
        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        return b"".join(
            (
                b"\x89PNG\r\n\x1a\n",
                _chunk(b"IHDR", header),
                _chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)),
                _chunk(b"IEND", b""),
            )
        )


def text_width(text: str, *, size: int = 2) -> int:
    return len(text) * ADVANCE * size


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def _glyph(letter: str) -> tuple[int, ...]:
    """Seven rows of five bits."""
    return _FONT.get(letter, _BOX)


_BOX = (31, 17, 17, 17, 17, 17, 31)
# drawn for this file: seven rows of five dots, top to bottom, the left dot is 16
_FONT: dict[str, tuple[int, ...]] = {
    " ": (0, 0, 0, 0, 0, 0, 0),
    "0": (14, 17, 19, 21, 25, 17, 14),
    "1": (4, 12, 4, 4, 4, 4, 14),
    "2": (14, 17, 1, 6, 8, 16, 31),
    "3": (14, 17, 1, 6, 1, 17, 14),
    "4": (2, 6, 10, 18, 31, 2, 2),
    "5": (31, 16, 30, 1, 1, 17, 14),
    "6": (6, 8, 16, 30, 17, 17, 14),
    "7": (31, 1, 2, 4, 4, 8, 8),
    "8": (14, 17, 17, 14, 17, 17, 14),
    "9": (14, 17, 17, 15, 1, 2, 12),
    "a": (0, 0, 14, 1, 15, 17, 15),
    "b": (16, 16, 30, 17, 17, 17, 30),
    "c": (0, 0, 15, 16, 16, 16, 15),
    "d": (1, 1, 15, 17, 17, 17, 15),
    "e": (0, 0, 14, 17, 31, 16, 14),
    "f": (6, 8, 28, 8, 8, 8, 8),
    "g": (0, 15, 17, 17, 15, 1, 14),
    "h": (16, 16, 30, 17, 17, 17, 17),
    "i": (4, 0, 12, 4, 4, 4, 14),
    "j": (2, 0, 6, 2, 2, 18, 12),
    "k": (16, 16, 18, 20, 24, 20, 18),
    "l": (12, 4, 4, 4, 4, 4, 14),
    "m": (0, 0, 26, 21, 21, 21, 21),
    "n": (0, 0, 30, 17, 17, 17, 17),
    "o": (0, 0, 14, 17, 17, 17, 14),
    "p": (0, 0, 30, 17, 30, 16, 16),
    "q": (0, 0, 15, 17, 15, 1, 1),
    "r": (0, 0, 22, 25, 16, 16, 16),
    "s": (0, 0, 15, 16, 14, 1, 30),
    "t": (8, 8, 28, 8, 8, 9, 6),
    "u": (0, 0, 17, 17, 17, 17, 15),
    "v": (0, 0, 17, 17, 17, 10, 4),
    "w": (0, 0, 17, 21, 21, 21, 10),
    "x": (0, 0, 17, 10, 4, 10, 17),
    "y": (0, 17, 17, 17, 15, 1, 14),
    "z": (0, 0, 31, 2, 4, 8, 31),
    ".": (0, 0, 0, 0, 0, 12, 12),
    ",": (0, 0, 0, 0, 4, 4, 8),
    ":": (0, 12, 12, 0, 12, 12, 0),
    "-": (0, 0, 0, 14, 0, 0, 0),
    "+": (0, 4, 4, 31, 4, 4, 0),
    "_": (0, 0, 0, 0, 0, 0, 31),
    "/": (1, 1, 2, 4, 8, 16, 16),
    "%": (25, 25, 2, 4, 8, 19, 19),
    "(": (2, 4, 8, 8, 8, 4, 2),
    ")": (8, 4, 2, 2, 2, 4, 8),
    "=": (0, 0, 31, 0, 31, 0, 0),
    "*": (0, 21, 14, 31, 14, 21, 0),
    "|": (4, 4, 4, 4, 4, 4, 4),
}
