"""The picture of a run."""

import math
import re
import xml.etree.ElementTree as ET

import pytest

from lorakit.training.curves import BLUE, GREEN, Panel, draw

TEXT = "{http://www.w3.org/2000/svg}text"
LINE = "{http://www.w3.org/2000/svg}polyline"


def texts(svg):
    return [element.text for element in ET.fromstring(svg).iter(TEXT)]


def heights(svg, number=0):
    """y of the points of a curve."""
    line = list(ET.fromstring(svg).iter(LINE))[number]
    return [float(point.split(",")[1]) for point in line.get("points").split()]


def panel(points, **more):
    return Panel(title="Loss", points=points, colour=BLUE, height=100, **more)


def test_the_picture_is_text_and_lines_without_anything_to_load():
    svg = draw(
        [
            panel([(1, 2.0), (2, 1.0)]),
            panel([(1, 0.5), (2, 0.96)], share=True, dots=True, reference=(0.03, "base")),
        ],
        title='<home> & "co"',
    )
    said = texts(svg)
    assert said[0] == '<home> & "co"'
    assert {"Loss", "96%", "base 3%", "100%", "step 0", "1"} <= set(said)
    assert "step 2: 96%" in svg
    assert not re.search(r"script|href|url\(|@import", svg)


def test_a_falling_loss_falls_and_a_rising_one_rises():
    down = heights(draw([panel([(1, 2.0), (2, 1.0), (3, 0.5)])], title=""))
    assert down == sorted(down)  # y grows downwards
    up = heights(draw([panel([(1, 0.5), (2, 1.0), (3, 2.0)])], title=""))
    assert up == sorted(up, reverse=True)
    assert up != down


def test_a_loss_over_decades_has_a_logarithmic_axis():
    points = [(step, 10.0 ** (-step / 10)) for step in range(31)]
    svg = draw([panel(points, smooth=True)], title="")
    assert "Loss (log scale)" in texts(svg)
    y = heights(svg)
    assert y[20] - y[10] == pytest.approx(y[10] - y[0], abs=0.2)
    assert "Loss" in texts(draw([panel([(1, 2.0), (2, 1.0)], smooth=True)], title=""))


def test_long_runs_are_thinned_to_means():
    points = [(step, float(step % 2)) for step in range(1, 20001)]
    svg = draw([panel(points)], title="")
    assert len(heights(svg)) <= 400
    assert len(set(heights(svg))) == 1
    assert "20,000" in texts(svg)


def test_what_is_not_finite_or_not_there_is_left_out():
    svg = draw([panel([(1, 1.0), (2, math.nan), (3, math.inf), (4, 0.5)])], title="")
    assert len(heights(svg)) == 2
    assert "nan" not in svg
    empty = Panel(title="Exact", points=[], colour=GREEN, height=80)
    assert "no step was taken" in texts(draw([empty], title=""))


def test_labels_at_the_right_do_not_cover_each_other():
    svg = draw([panel([(1, 0.5)], share=True, reference=(0.5, "base"))], title="")
    root = ET.fromstring(svg)
    at = {e.text: float(e.get("y")) for e in root.iter(TEXT) if float(e.get("x")) > 660}
    assert abs(at["50%"] - at["base 50%"]) >= 15
