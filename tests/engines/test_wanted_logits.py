"""Positions and columns of logits that a row asks for, in engines that need no library."""

import numpy as np
import pytest

from lorakit.engines.fake import FakeEngine
from lorakit.engines.protocol import Row
from lorakit.errors import ParameterError

TOKENS = np.arange(6)


def logits(wanted="all", among=None):
    engine = FakeEngine()
    row = Row(sequence=engine.open_sequence(), tokens=TOKENS, logits=wanted, among=among)
    return engine.forward([row])[0]


def test_positions_are_rows_of_all():
    every = logits()
    for wanted in ((), (0,), (1, 4), (5,), tuple(range(6))):
        np.testing.assert_array_equal(logits(wanted), every[list(wanted)])
    np.testing.assert_array_equal(logits("last"), logits((5,)))


def test_columns_are_those_of_the_position():
    ids = np.array([0, 7, 63])
    np.testing.assert_array_equal(logits((3,), ids), logits((3,))[:, ids])
    np.testing.assert_array_equal(logits("last", ids), logits("last")[:, ids])


@pytest.mark.parametrize("wanted", [(1, 1), (2, 1), (6,), (-1,)])
def test_positions_that_are_none_are_refused(wanted):
    with pytest.raises(ParameterError, match="6 tokens"):
        logits(wanted)


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [("all", [1]), ((1, 2), [1]), ("none", [1]), ("last", []), ("last", range(17)),
     ("last", [64]), ("last", [-1]), ("last", [2, 2]), ("last", [3, 2])],
)  # fmt: skip
def test_columns_that_are_none_are_refused(wanted, ids):
    with pytest.raises(ParameterError, match="columns"):
        logits(wanted, np.array(list(ids), np.int64))
