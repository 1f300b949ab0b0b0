"""Drawings: SVG that every viewer reads, in light and dark, and PNG where matplotlib is."""

import sys
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from laid_out import SVG, faults, texts
from lorakit.drawing import Drawing
from lorakit.drawing.charts import Axis, Line, background, folded, line_chart
from lorakit.drawing.measure import shortened, squeezed, text_width
from lorakit.drawing.shapes import Dot, Path, Rect, Words
from lorakit.drawing.theme import DARK, LIGHT, amount, on, opposed, order
from lorakit.errors import MissingExtraError, ParameterError, WriteError

EVIL = '<script>alert("x")</script> & \x1b[31m \u202e\x00 ]]> 東京'


def drawing(*shapes):
    return Drawing(width=200, height=100, title="x", shapes=(background(200, 100), *shapes))


def chart(**options):
    lines = [
        Line(name="one", points=((0, 0.1), (1, 0.5), (2, float("nan")), (3, 0.2), (4, 0.9))),
        Line(name="other", points=((0, 0.3), (4, 0.4)), band=((0, 0.2, 0.4), (4, 0.3, 0.5))),
    ]
    return line_chart(lines, Axis(label="x"), Axis(label="y"), title="A chart", **options)


def test_texts_are_text_and_harmless():
    svg = replace(drawing(Words(10, 20, EVIL), Rect(0, 0, 9, 9, "s0", hint=EVIL)), title=EVIL).svg()
    root = ElementTree.fromstring(svg)
    spelled = EVIL.replace("\x1b", r"\x1b").replace("\u202e", r"\u202e").replace("\x00", r"\x00")
    assert texts(svg) == [spelled]
    assert [node.text for node in root.iter(f"{SVG}title")] == [spelled, spelled]
    assert {node.tag.removeprefix(SVG) for node in root.iter()} == {
        "svg", "title", "style", "rect", "text",
    }  # fmt: skip
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")


def test_each_role_has_both_colours_and_each_colour_a_class():
    assert set(LIGHT) == set(DARK)
    svg = drawing(Path(((0, 0), (9, 9)), "s1"), Dot(4, 4, 2, "bad"), Words(1, 1, "x")).svg()
    root = ElementTree.fromstring(svg)
    style = root.find(f"{SVG}style").text
    assert "prefers-color-scheme:dark" in style
    for node in root.iter():
        for ink in (name for name in LIGHT if f"-{name}" in node.get("class", "")):
            assert LIGHT[ink] in (node.get("fill"), node.get("stroke"))
            assert DARK[ink] in style
    assert DARK["s4"] not in style  # what is not used is not there


def test_the_same_drawing_is_the_same_file():
    assert chart().svg() == chart().svg()
    assert chart()._repr_svg_() == chart().svg()


def test_a_chart_has_its_words_and_a_gap():
    found = chart(about="what it is about")
    said = texts(found.svg())
    assert {"A chart", "what it is about", "one", "other", "x", "y", "0", "1"} <= set(said)
    assert list(faults(found)) == []
    lines = [s for s in found.shapes if isinstance(s, Path) and s.ink == "s0" and not s.filled]
    assert [len(line.points) for line in lines] == [2, 2, 2]  # the legend's, and two pieces
    assert sum(isinstance(s, Dot) for s in found.shapes) == 6
    (band,) = (s for s in found.shapes if isinstance(s, Path) and s.filled)
    assert band.ink == "s1"


@pytest.mark.parametrize(
    "value", [(0.0,), (1.0, 1.0), (0.0, 1e-9), (1e9, -1e9), (float("nan"), 1.0)]
)
def test_a_chart_of_any_values(value):
    points = tuple((float(n), v) for n, v in enumerate(value))
    line = Line(name="one", points=points)
    found = line_chart([line], Axis(label="x"), Axis(label="y"), title="x" * 300)
    assert list(faults(found)) == []
    assert "NaN" not in found.svg()
    assert "nan" not in found.svg()


def test_what_is_outside_or_upon_another_would_be_found():
    found = chart()
    moved = replace(found, shapes=(*found.shapes, Words(-20, 50, "outside")))
    assert any("outside" in fault for fault in faults(moved))
    (title, *_) = (s for s in found.shapes if isinstance(s, Words))
    twice = replace(found, shapes=(*found.shapes, replace(title, x=title.x + 5)))
    assert any("upon" in fault for fault in faults(twice))


def test_long_texts_are_folded_or_shortened():
    assert folded("one two three", 10, 50) == ["one two", "three"]
    long = "call:set_lights{room:kitchen,state:off}" * 3
    lines = folded(long, 12, 200, mono=True)
    assert "".join(lines) == long
    assert all(text_width(line, 12, mono=True) <= 200 for line in lines)
    assert all(not line[-1].isalnum() for line in lines[:-1])
    assert shortened("short", 12, 100) == "short"
    name = "mlp.experts.with_a_very_long_name.gate_up_projection"
    assert squeezed(name, 12, 999) == name
    assert squeezed(name, 12, 150).startswith("mlp")
    assert squeezed(name, 12, 150).endswith("_projection")
    assert "…" in squeezed(name, 12, 150)
    assert text_width(squeezed(name, 12, 150), 12) <= 150
    cut = shortened("東京" * 40, 12, 100)
    assert cut.endswith("…")
    assert text_width(cut, 12) <= 100


def test_colours_are_even_and_text_upon_them_is_legible():
    def lightness(colour):
        return 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2]

    steps = [lightness(amount(n / 20)) for n in range(21)]
    assert steps == sorted(steps)
    assert amount(float("nan")) == (220, 40, 40)
    assert opposed(-1)[0] > opposed(-1)[2]
    assert opposed(1)[2] > opposed(1)[0]
    assert order(0) != order(1)
    assert on((0, 0, 0)) == "#ffffff"
    assert on((255, 255, 255)) == "#1d1d1b"


def test_it_is_written_as_its_suffix_says(tmp_path):
    found = chart()
    found.save(tmp_path / "x.svg")
    assert (tmp_path / "x.svg").read_text("utf-8") == found.svg()
    with pytest.raises(ParameterError, match="exists"):
        found.save(tmp_path / "x.svg")
    found.save(str(tmp_path / "x.svg"), overwrite=True)
    for name in ("x.jpg", "x", "x.svgz"):
        with pytest.raises(ParameterError, match="SVG or PNG"):
            found.save(tmp_path / name)
    with pytest.raises(WriteError):
        found.save(tmp_path / "no" / "x.svg")
    assert [path.name for path in tmp_path.iterdir()] == ["x.svg"]


def test_png_without_matplotlib_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match="lorakit\\[plot\\]"):
        chart().save(tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


def test_png_is_the_same_picture(tmp_path):
    pytest.importorskip("matplotlib", reason="what draws PNG")
    image = pytest.importorskip("PIL.Image", reason="somebody else's reader of PNG")
    found = drawing(Rect(20, 10, 50, 40, "#ff0000"), Words(100, 50, "$x_1$ & _^", upwards=True))
    found.save(tmp_path / "x.PNG")
    with image.open(tmp_path / "x.PNG") as opened:
        pixels = opened.convert("RGB")
        assert pixels.size == (400, 200)
        assert pixels.getpixel((60, 50)) == (255, 0, 0)
        assert pixels.getpixel((390, 190)) == (255, 255, 255)
    (tmp_path / "c.png").write_bytes(chart().png())
