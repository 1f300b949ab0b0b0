"""Shares with Wilson's intervals, and the exact McNemar test."""

import math
from itertools import product

import pytest

from lorakit.training.evaluate.statistics import Paired, Share, p_text

# R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
PUBLISHED = {
    (81, 263): (0.2553, 0.3662),
    (15, 148): (0.0624, 0.1605),
    (0, 20): (0.0000, 0.1611),
    (1, 29): (0.0061, 0.1718),
}


@pytest.mark.parametrize("counted", PUBLISHED)
def test_the_interval_is_the_published_one(counted):
    share = Share(*counted)
    assert (share.low, share.high) == pytest.approx(PUBLISHED[counted], abs=6e-5)
    other = Share(counted[1] - counted[0], counted[1])
    assert (other.low, other.high) == pytest.approx((1 - share.high, 1 - share.low))


def test_the_interval_of_a_normal_distribution_would_be_seen():
    for count, total in PUBLISHED:
        p = count / total
        half = 1.96 * math.sqrt(p * (1 - p) / total)
        assert (p - half, p + half) != pytest.approx(PUBLISHED[count, total], abs=6e-5)


def test_nothing_counted_is_no_share():
    share = Share.of([])
    assert math.isnan(share.share)
    assert (share.low, share.high, str(share)) == (0.0, 1.0, "none")
    assert share.to_dict() is None
    assert str(Share(189, 200)) == "94.5% (90.4-96.9%)"
    assert Share(3, 3).high == 1.0
    assert Share(0, 3).low == 0.0


@pytest.mark.parametrize("pairs", [(0, 0), (0, 1), (1, 4), (5, 5), (3, 9), (9, 3), (0, 12)])
def test_p_is_that_of_every_outcome_counted(pairs):
    better, worse = pairs
    n, few = better + worse, min(pairs)
    as_far = sum(min(sum(heads), n - sum(heads)) <= few for heads in product((0, 1), repeat=n))
    assert Paired(better, worse).p == pytest.approx(as_far / 2**n)


def test_pairs_are_counted_by_score():
    paired = Paired.of([1.0, 0.0, 0.5, 0.0], [1.0, 1.0, 0.25, 0.5])
    assert (paired.better, paired.worse) == (2, 1)
    assert Paired(40_000, 41_000).p == pytest.approx(4.4e-4, rel=0.05)
    assert (p_text(0.5), p_text(0.034), p_text(1e-9)) == ("p = 0.5", "p = 0.034", "p < 0.001")
