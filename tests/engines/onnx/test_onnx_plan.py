"""Which rows share a run, in which lanes, and when lanes are worth a session."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.engines.onnx.plan import LONGEST, Worth, groups, lanes_of, packed_rows
from onnx_cases import row


def rows_of(*counts):
    return [row(n, np.zeros(count, np.int64)) for n, count in enumerate(counts)]


def chosen(*counts, lanes=8, without=()):
    found, spared = packed_rows(rows_of(*counts), lanes, lambda row: row.sequence not in without)
    return [row.sequence for row in found], spared


def test_a_batch_is_not_packed():
    assert chosen(1, 1, 1) == ([], 0)


def test_a_row_alone_is_not():
    assert chosen(7) == ([], 0)
    assert chosen(7, LONGEST + 1) == ([], 0)
    assert chosen(7, 3, without=[1]) == ([], 0)


def test_rows_of_several_tokens_are_with_those_of_one():
    assert chosen(4, 1, 2, 1) == ([0, 1, 2, 3], 2)
    assert chosen(4, LONGEST + 1, 1) == ([0, 2], 1)
    assert chosen(4, 4, 1, without=[1]) == ([0, 2], 1)


def test_nothing_is_packed_that_spares_no_run():
    assert chosen(4, *[1] * 8) == ([], 0)  # two runs either way
    assert chosen(4, 4, *[1] * 7)[1] == 1
    assert chosen(4, 1, lanes=0) == ([], 0)


@settings(max_examples=60)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=8, unique=True))
def test_lanes_are_of_one_row_each(slots):
    found = lanes_of(slots, 8)
    assert len(set(found)) == len(slots)
    assert set(found) <= set(range(8))
    alone = [slot for slot in slots if [s % 8 for s in slots].count(slot % 8) == 1]
    assert all(lane == slot % 8 for slot, lane in zip(slots, found, strict=True) if slot in alone)


def test_neighbours_keep_their_lanes():
    """Whoever comes and goes: what is bound stays so."""
    assert lanes_of([6, 7, 8, 9], 8) == [6, 7, 0, 1]
    assert lanes_of([7, 9], 8) == [7, 1]


def test_groups_are_in_the_order_of_slots():
    slots = {0: 5, 1: 2, 2: 9, 3: 0}
    found = groups(rows_of(1, 1, 1, 1), slots.__getitem__, 3)
    assert [[row.sequence for row in group] for group in found] == [[3, 1, 0], [2]]
    long = groups(rows_of(*[LONGEST] * 12), lambda sequence: sequence, 16)
    assert [len(group) for group in long] == [8, 4]


def test_lanes_must_have_earned_their_session():
    worth = Worth(opening=10.0)
    assert [worth.opened(5) for _ in range(3)] == [False, False, True]
    assert not worth.closed()


def test_what_is_settled_stays():
    worth = Worth(opening=1.0, settled=True)
    assert not worth.opened(9)
    while worth.balance:
        assert not worth.closed()
    assert not worth.closed()


def test_rows_that_join_now_and_then_do_not_earn_one():
    worth = Worth()
    for _ in range(1000):
        assert not worth.opened(1)
        for _ in range(20):
            worth.closed()


def test_a_session_that_earns_nothing_any_more_is_given_up():
    worth = Worth(opening=10.0)
    while not worth.opened(7):
        pass
    steps = 0
    while not worth.closed():
        steps += 1
    assert 100 < steps < 300
