"""Images as ids and vectors: spans that are never cut, and pictures measured by their headers."""

import struct

import numpy as np
import pytest

from lorakit.errors import FormatError, UnsupportedError
from lorakit.runtime.prefix import Prefix
from lorakit.runtime.stages import NO_ADAPTERS
from lorakit.text.image_ids import (
    MAX_POSITIONS,
    Run,
    check_picture,
    digest_of,
    image_of,
    inside,
    named,
    pseudo_ids,
    row_end,
    runs,
    span_end,
)

A, B = pseudo_ids(7, 4), pseudo_ids((1 << 48) - 1, 3)


def test_ids_name_the_digest_and_the_position_within_64_bits():
    assert [image_of(token) for token in A] == [(7, 0), (7, 1), (7, 2), (7, 3)]
    assert image_of(B[2]) == ((1 << 48) - 1, 2)
    assert np.asarray(B, np.int64).tolist() == list(B)
    assert max(*A, *B) < 0
    assert image_of(pseudo_ids(0, 1)[0]) == (0, 0)
    assert named([1, *A, 2, *B]) == {7, (1 << 48) - 1}
    with pytest.raises(UnsupportedError):
        pseudo_ids(1, MAX_POSITIONS + 1)


def test_the_digest_is_of_the_vectors():
    one = np.ones((2, 4), np.float32)
    assert digest_of(one) == digest_of(one.copy())
    assert digest_of(one) != digest_of(one.reshape(4, 2))
    assert digest_of(one) != digest_of(one * 2)


def test_runs_of_text_and_images():
    tokens = np.array([5, 6, *A, *A, 7, *B], np.int64)
    assert list(runs(tokens)) == [
        Run(0, 2),
        Run(2, 6, 7),
        Run(6, 10, 7),
        Run(10, 11),
        Run(11, 14, (1 << 48) - 1),
    ]
    assert list(runs(np.array([*A[2:], 1], np.int64))) == [Run(0, 2, 7, 2), Run(2, 3)]
    assert list(runs(np.array([1, 2], np.int64))) == [Run(0, 2)]


def test_a_row_never_ends_within_an_image():
    tokens = [5, 6, *A, 7, 8]
    assert [row_end(tokens, 0, end) for end in range(1, 9)] == [1, 2, 2, 2, 2, 6, 7, 8]
    assert [row_end(tokens, 2, end) for end in range(3, 9)] == [6, 6, 6, 6, 7, 8]
    assert span_end(tokens, 3) == 6
    assert row_end([*A, *A], 0, 5) == 4
    assert [inside(tokens, cut) for cut in range(9)] == [0, 0, 0, 1, 2, 3, 0, 0, 0]


def common(held, wanted):
    prefix = Prefix(sequence=0, key=NO_ADAPTERS.key, tokens=np.array(held, np.int64))
    return prefix.common(NO_ADAPTERS.key, np.array(wanted, np.int64))


def test_a_shared_prefix_is_cut_back_to_the_beginning_of_an_image():
    assert common([1, 2, *A, 3], [1, 2, *A, 4]) == 6
    assert common([1, 2, *A, 3], [1, 2, *B, 4]) == 2
    assert common([1, 2, *A, 3], [1, 2, *A[:3]]) == 2  # a prompt that ends in an image
    assert common([1, 2, *A[:3]], [1, 2, *A, 4]) == 2
    assert common([1, *A, *A, 3], [1, *A, *A[:1]]) == 5


def test_the_size_of_a_picture_is_read_from_its_header():
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 30, 20)
    jpeg = b"\xff\xd8\xff\xe0\x00\x04ab\xff\xc2\x00\x11\x08" + struct.pack(">HH", 20, 30)
    bmp = b"BM" + bytes(12) + struct.pack("<Iii", 40, 30, -20)
    for picture in (png, jpeg, b"GIF89a" + struct.pack("<HH", 30, 20), bmp):
        assert check_picture(picture) == (30, 20)


@pytest.mark.parametrize(
    "content",
    [b"", b"RIFF0000WAVE", b"RIFF0000WEBP", b"\x00" * 64, b"P6 1 1 255 aaa", b"8BPS", b"<svg/>"],
)
def test_other_formats_are_refused(content):
    with pytest.raises(UnsupportedError, match="PNG, JPEG, GIF or BMP"):
        check_picture(content)


def test_headers_that_lie_are_refused():
    with pytest.raises(FormatError):
        check_picture(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(FormatError):
        check_picture(b"\xff\xd8\xff\xe0\xff\xff")
    with pytest.raises(FormatError, match="0 x 0"):
        check_picture(b"GIF89a" + bytes(10))
    with pytest.raises(UnsupportedError, match="100000 x 100000"):
        check_picture(b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 100_000, 100_000))
    with pytest.raises(UnsupportedError, match="sides"):
        check_picture(b"GIF89a" + struct.pack("<HH", 65535, 1))
