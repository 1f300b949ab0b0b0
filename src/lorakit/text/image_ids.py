"""Images in prompts, as the layers between chat and an engine see them: ids and vectors.

A prompt is a sequence of token ids. Where it holds an image, it holds one pseudo id for each of the
image's positions: a negative number made of the content (a digest of the vectors that stand for the
image) and the position. Equal ids mean equal content, so whatever compares prompts, the prefix
cache above all, need not know of images; only that the positions of an image belong together.
It reads no picture but for its size, and knows no engine.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lorakit.errors import FormatError, UnsupportedError

Vectors = npt.NDArray[np.float32]  # [positions, embedding] of the language model
Ids = npt.NDArray[np.int64]
POSITION_BITS = 14
MAX_POSITIONS = 1 << POSITION_BITS  # of one image
MAX_BYTES = 64 << 20  # of one image file
MAX_PIXELS = 64 << 20
MAX_RATIO = 200  # of an image's sides


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """What an image puts into a prompt: text ids such as <start_of_image>, and pseudo ids.

    images: the vectors of each digest that the ids name; more than one where a model sees an image
    in tiles.
    """

    ids: tuple[int, ...]
    images: Mapping[int, Vectors]


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive tokens of one kind: tokens[start:end] are text, or all of one image."""

    start: int
    end: int
    digest: int | None = None  # None: text
    position: int = 0  # of the first one in its image; more than 0 only where a span was cut


def digest_of(vectors: Vectors) -> int:
    """48 bits that name an image by what the language model is given of it."""
    raw = np.ascontiguousarray(vectors, np.float32)
    head = struct.pack("<QQ", *raw.shape)
    return int.from_bytes(hashlib.sha256(head + raw.tobytes()).digest()[:6], "little")


def pseudo_ids(digest: int, positions: int) -> range:
    """The ids of an image's positions, all negative.

    Raises UnsupportedError for an image of too many positions.
    """
    if positions > MAX_POSITIONS:
        raise UnsupportedError(f"an image of {positions} positions; at most {MAX_POSITIONS} fit")
    first = -(1 + (digest << POSITION_BITS))
    return range(first, first - positions, -1)


def image_of(token: int) -> tuple[int, int]:
    """The digest and the position that a pseudo id names."""
    number = -int(token) - 1
    return number >> POSITION_BITS, number & (MAX_POSITIONS - 1)


def runs(tokens: Ids) -> Iterator[Run]:
    """Text and images in their order; the same image twice in a row is two runs."""
    if not len(tokens) or int(tokens.min()) >= 0:
        yield Run(0, len(tokens))
        return
    numbers = -tokens - 1
    image = tokens < 0
    begins = np.empty(len(tokens), np.bool_)
    begins[0] = True
    begins[1:] = np.where(image[1:], tokens[1:] != tokens[:-1] - 1, image[:-1])
    begins |= image & (numbers & (MAX_POSITIONS - 1) == 0)
    starts = np.flatnonzero(begins).tolist()
    for start, end in zip(starts, [*starts[1:], len(tokens)], strict=True):
        if image[start]:
            yield Run(start, end, *image_of(tokens[start]))
        else:
            yield Run(start, end)


def inside(tokens: Sequence[int] | Ids, cut: int) -> int:
    """How many of the tokens just before `cut` belong to an image that goes on after it."""
    if not 0 < cut < len(tokens) or tokens[cut] >= 0:
        return 0
    return image_of(int(tokens[cut]))[1]


def named(tokens: Sequence[int] | Ids) -> set[int]:
    """The digests of all images that the tokens name."""
    return {image_of(token)[0] for token in map(int, tokens) if token < 0}


def span_end(tokens: Sequence[int], at: int) -> int:
    """The end of the image that the pseudo id at `at` belongs to."""
    digest, position = image_of(tokens[at])
    end = at + 1
    while end < len(tokens) and tokens[end] < 0:
        position += 1
        if image_of(tokens[end]) != (digest, position):
            break
        end += 1
    return end


def row_end(tokens: Sequence[int], start: int, end: int) -> int:
    """Where a row from `start` to about `end` may end: an image is run as a whole or not at all."""
    within = inside(tokens, end)
    if not within:
        return end
    return end - within if end - within > start else span_end(tokens, end)


# The size of a picture, from its header alone: nothing is unpacked before it is known to fit.


def check_picture(content: bytes) -> tuple[int, int]:
    """Width and height of a picture file in a format that is read: PNG, JPEG, GIF, BMP.

    Raises UnsupportedError for another format and for one beyond the bounds, FormatError for a
    broken header.
    """
    if len(content) > MAX_BYTES:
        raise UnsupportedError(f"an image file of {len(content)} bytes; at most {MAX_BYTES} fit")
    reader = next((r for magic, r in _FORMATS.items() if content.startswith(magic)), None)
    if reader is None:
        raise UnsupportedError(
            f"not an image that can be read; it begins with {content[:8]!r}",
            hint="give a PNG, JPEG, GIF or BMP file",
        )
    try:
        width, height = reader(content)
    except (struct.error, IndexError) as error:
        raise FormatError("the image file ends within its header") from error
    if width < 1 or height < 1:
        raise FormatError(f"an image of {width} x {height} pixels")
    if width * height > MAX_PIXELS or max(width, height) > MAX_RATIO * min(width, height):
        raise UnsupportedError(
            f"an image of {width} x {height} pixels; at most {MAX_PIXELS} pixels fit, "
            f"and sides of 1 to {MAX_RATIO}",
            hint="make it smaller; models see less than a megapixel of it",
        )
    return width, height


def _png(content: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", content, 16)
    return width, height


def _gif(content: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH", content, 6)
    return width, height


def _bmp(content: bytes) -> tuple[int, int]:
    if struct.unpack_from("<I", content, 14)[0] == 12:  # the header of OS/2
        width, height = struct.unpack_from("<HH", content, 18)
    else:
        width, height = struct.unpack_from("<ii", content, 18)
    return width, abs(height)


def _jpeg(content: bytes) -> tuple[int, int]:
    """Of the first frame header, found from one segment to the next."""
    at = 2
    while True:
        while content[at] != 0xFF or content[at + 1] in _NO_SEGMENT:
            at += 1
        marker = content[at + 1]
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", content, at + 5)
            return width, height
        at += 2 + struct.unpack_from(">H", content, at + 2)[0]


_NO_SEGMENT = (0x00, 0xFF, 0x01, *range(0xD0, 0xDA))
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_FORMATS: dict[bytes, Callable[[bytes], tuple[int, int]]] = {
    b"\x89PNG\r\n\x1a\n": _png,
    b"\xff\xd8\xff": _jpeg,
    b"GIF87a": _gif,
    b"GIF89a": _gif,
    b"BM": _bmp,
}
