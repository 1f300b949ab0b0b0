"""Proposals against a naive search, and how their length follows what came of them."""

from hypothesis import given
from hypothesis import strategies as st

from lorakit.runtime.lookup import LONGEST_MATCH, LONGEST_PAUSE, MOST, Lookup


def searched(tokens, shortest, most):
    """The longest match, the latest of equals, and what followed it, again and again."""
    for size in range(LONGEST_MATCH, shortest - 1, -1):
        for start in range(len(tokens) - size - 1, -1, -1):
            if len(tokens) > size and tokens[start : start + size] == tokens[-size:]:
                after = tokens[start + size :]
                return (after * most)[:most]
    return []


@given(
    tokens=st.lists(st.integers(0, 3), min_size=1, max_size=40),
    shortest=st.integers(1, 3),
    more=st.lists(st.integers(0, 3), max_size=10),
)
def test_proposals_are_those_of_a_search(tokens, shortest, more):
    lookup = Lookup(tokens)
    for token in [*more, 0]:
        assert lookup.propose(5, shortest=shortest) == searched(tokens, shortest, 5)
        tokens.append(token)


def test_a_proposal_ends_before_an_image_and_before_what_ends_an_answer():
    tokens = [1, 2, 3, -7, 4, 1, 2]
    assert Lookup(tokens).propose(8, shortest=2) == [3]
    assert Lookup([1, 2, 3, 9, 4, 1, 2], never={9}).propose(8, shortest=2) == [3]
    assert Lookup([1, 2, 9, 1, 2], never={9}).propose(8, shortest=2) == []


def test_it_is_as_long_as_it_was_right():
    lookup = Lookup([1, 2] * 20)

    def length():
        while not lookup.propose(99, shortest=2):
            lookup.settle(0, 0)
        return len(lookup.propose(99, shortest=2))

    lengths = []
    for right in (0, 0, 0, 0, 1, 2, 4, 8):
        lengths.append(length())
        lookup.settle(lengths[-1], min(right, lengths[-1]))
    assert lengths == [8, 4, 2, 1, 1, 2, 4, MOST]
    lookup.settle(8, 3)
    assert length() == 8  # some were right


def test_it_pauses_longer_each_time_that_it_fails():
    lookup, pauses = Lookup([1, 2] * 20), []
    for _ in range(7):
        lookup.settle(len(lookup.propose(8, shortest=2)), 0)
        steps = 0
        while not lookup.propose(8, shortest=2):
            lookup.settle(0, 0)
            steps += 1
        pauses.append(steps)
    assert pauses == [1, 3, 7, 15, 16, 16, 16]
    assert LONGEST_PAUSE == 16


def test_asking_twice_changes_nothing():
    lookup = Lookup([1, 2, 3, 1, 2])
    assert lookup.propose(4, shortest=2) == lookup.propose(4, shortest=2) == [3, 1, 2, 3]
    assert lookup.propose(0, shortest=2) == []
