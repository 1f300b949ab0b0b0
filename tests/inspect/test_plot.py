"""Pictures: the PNG is one that others open, and shows what the report says."""

import struct
import zlib

import numpy as np
import pytest

from folders import DATA
from lorakit.adapter import Adapter, Delta, Replacement
from lorakit.errors import ParameterError
from lorakit.formats import read_adapter
from lorakit.inspect.picture import Picture
from lorakit.inspect.plot import colour_of, grid, plot
from lorakit.inspect.report import inspect


def decode(png):
    """The pixels of an unfiltered 8-bit RGB file, every checksum verified."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        kind, content = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        (check,) = struct.unpack(">I", png[at + 8 + length : at + 12 + length])
        assert check == zlib.crc32(kind + content)
        chunks[kind], at = content, at + 12 + length
    width, height, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert rest == [8, 2, 0, 0, 0]
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, -1)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, 3)


def delta(module, size, **more):
    return Delta(module=module, a=np.ones((1, 1)), b=np.ones((1, 1)), scale=size, **more)


def test_what_is_drawn_is_in_the_file():
    picture = Picture(40, 20)
    picture.rectangle(30, 10, 100, 100, (1, 2, 3))
    picture.line(-5, 3, 50, 3, (9, 9, 9))
    picture.text(2, 8, "1:?", size=1)
    pixels = decode(picture.png())
    np.testing.assert_array_equal(pixels, picture.pixels)
    assert tuple(pixels[15, 35]) == (1, 2, 3)
    assert (pixels[3:5] == 9).all()
    assert (pixels[8:15, 2:20] < 50).any()


def test_other_readers_open_it(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="somebody else's reader of PNG")
    report = inspect(read_adapter(DATA / "truth/peft/gemma3/patterns"), spectrum=True)
    png = plot(report, title="patterns")
    assert png == plot(report, title="patterns")
    (tmp_path / "x.png").write_bytes(png)
    with image.open(tmp_path / "x.png") as opened:
        np.testing.assert_array_equal(np.asarray(opened), decode(png))


def test_the_grid_places_norms_between_the_least_and_the_largest():
    names = [f"model.layers.{n}.self_attn.q_proj" for n in (0, 1, 3)]
    sizes = (1.0, 2.0, 3.0)
    adapter = Adapter(
        deltas=(
            *(delta(name, size) for name, size in zip(names, sizes, strict=True)),
            delta("model.layers.0.mlp.experts.up_proj", 1.5),
            delta("lm_head", 50.0),
        )
    )
    found = grid(inspect(adapter, values=True).modules)
    assert found.kinds == ("up_proj", "q_proj")
    assert (found.layers, found.low, found.high, found.logarithmic) == (4, 1, 3, False)
    assert found.cells[("q_proj", 1)] == (2.0, 0.5)
    assert ("q_proj", 2) not in found.cells
    assert grid(inspect(adapter).modules) is None


def test_a_large_span_is_logarithmic_and_odd_norms_have_a_place():
    names = [f"model.layers.{n}.self_attn.q_proj" for n in range(4)]
    deltas = [delta(*pair) for pair in zip(names, (1e-3, 1.0, 1e3, 0.0), strict=True)]
    nan = np.full((1, 1), np.nan)
    odd = Delta(module="transformer.h.0.attn.c_attn", a=nan, b=np.ones((1, 1)), scale=1.0)
    adapter = Adapter(deltas=(*deltas, odd))
    report = inspect(adapter, spectrum=True)
    found = grid(report.modules)
    assert found.logarithmic
    assert found.cells[("q_proj", 1)][1] == pytest.approx(0.5)
    assert found.cells[("q_proj", 3)] == (0.0, 0.0)
    assert colour_of(found.cells[("c_attn", 0)][1]) == (220, 40, 40)
    assert decode(plot(report)).shape[1] > 600


def test_nothing_to_draw_is_an_error():
    norm = Replacement(name="model.norm.weight", value=np.ones(2, np.float32))
    with pytest.raises(ParameterError, match="nothing to draw"):
        plot(inspect(Adapter(replacements=(norm,)), spectrum=True))
    only_head = Adapter(deltas=(delta("lm_head", 1.0),))
    assert decode(plot(inspect(only_head, spectrum=True))).shape[0] > 300
