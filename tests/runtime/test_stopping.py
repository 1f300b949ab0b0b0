from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from lorakit.runtime.stopping import StopText


def run(stops, pieces):
    stop = StopText(stops)
    shown = [stop.push(piece) for piece in pieces]
    return "".join(shown) + stop.flush(), stop.stopped


def test_a_stop_string_across_pieces_is_never_shown():
    assert run(["END"], ["abE", "N", "Dxyz"]) == ("ab", True)


def test_a_false_beginning_is_shown_in_the_end():
    assert run(["END"], ["abE", "N"]) == ("abEN", False)
    assert run(["aab"], ["aa", "ab", "c"]) == ("a", True)


def test_text_that_cannot_stop_is_not_held_back():
    stop = StopText(["\n\n"])
    assert stop.push("hello ") == "hello "
    assert stop.push("a\n") == "a"
    assert stop.push("b") == "\nb"


@given(
    text=st.text("ab", max_size=30),
    stops=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(0, 30), max_size=8),
)
def test_pieces_make_no_difference(text, stops, cuts):
    edges = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    pieces = [text[a:b] for a, b in pairwise(edges)]
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    shown, stopped = run(stops, pieces)
    assert stopped == bool(found)
    # The first stop string to be completed wins, which need not be the first to begin.
    assert text.startswith(shown)
    assert not stopped or any(text[len(shown) :].startswith(stop) for stop in stops)
