"""Marks of axes: round, within their range, and apart from each other."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorakit.drawing.axes import SIZE, Frame, apart, ticks
from lorakit.drawing.measure import text_width


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e6), most=st.integers(2, 12))
def test_ticks_are_round_and_few(low, span, most):
    found = ticks(low, low + span, most)
    slack = span * 1e-6
    assert len(found) <= most
    assert all(low - slack <= tick <= low + span + slack for tick in found)
    steps = {round(math.log10(b - a) % 1, 3) for a, b in itertools.pairwise(found)}
    assert steps <= {0.0, round(math.log10(2), 3), round(math.log10(5), 3), 1.0}


def test_known_ticks():
    assert ticks(0, 1, 6) == [0, 0.2, 0.4, 0.6000000000000001, 0.8, 1]
    assert ticks(0, 8, 5) == [0, 2, 4, 6, 8]
    assert ticks(3, 3) == [3]


@pytest.mark.parametrize("count", [1, 2, 9, 80, 400])
def test_marks_do_not_touch(count):
    frame = Frame(left=0, top=0, width=600, height=10, first=0, last=count - 1, low=0, high=1)
    kept = apart([float(n) for n in range(count)], frame, "{:g}".format)
    assert kept[0] == 0
    ends = [(frame.x(n), text_width(f"{n:g}", SIZE) / 2) for n in kept]
    assert all(a + half < b - other for (a, half), (b, other) in itertools.pairwise(ends))
    assert count > 20 or len(kept) == count
