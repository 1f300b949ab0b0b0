"""The numbers of a comparison, against formulas written out by hand."""

import json
import math

import numpy as np
import pytest

from lorakit.errors import EngineError, ParameterError
from lorakit.verify import CostLimits, verify
from lorakit.verify.parity import compare, divergence

ONE = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 5.0], [4.0, 1.0, 1.0]])
OTHER = np.array([[1.0, 2.0, 3.0], [0.0, 6.0, 5.0], [4.0, 1.0, 1.5]])


def giving(logits):
    return lambda ids: np.asarray(logits, np.float32)[: len(ids)]


def kl_by_hand(p_logits, q_logits):
    total = 0.0
    for p_row, q_row in zip(p_logits, q_logits, strict=True):
        p = [math.exp(v) / sum(math.exp(w) for w in p_row) for v in p_row]
        q = [math.exp(v) / sum(math.exp(w) for w in q_row) for v in q_row]
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return total / len(p_logits)


def test_every_number_by_hand():
    found = compare("x", ONE, OTHER, ONE - 0.25)
    assert found.tokens == 3
    assert found.max_difference == 6.0
    assert found.mean_difference == pytest.approx(6.5 / 9)
    assert found.kl == pytest.approx(kl_by_hand(ONE, OTHER), rel=1e-12)
    assert found.kl_reverse == pytest.approx(kl_by_hand(OTHER, ONE), rel=1e-12)
    assert found.top1 == pytest.approx(2 / 3)
    assert found.first_difference == 1
    assert found.effect == 0.25
    assert found.non_finite == 0


def test_divergence_needs_no_small_logits_and_knows_a_shift():
    assert divergence(ONE + 1e4, ONE) == pytest.approx(0, abs=1e-9)
    assert divergence(ONE * 500, OTHER * 500) > 100


def test_the_total_is_of_all_tokens():
    report = verify(giving(ONE), giving(OTHER), {"a": [1], "b": [1, 2, 3]}, tolerance=6)
    assert report.agrees
    assert report.total.tokens == 4
    assert report.total.max_difference == 6
    assert report.total.mean_difference == pytest.approx((0 + 6.5 / 9 * 3) / 4)
    assert report.total.first_difference == 1
    assert report.prompts[0].first_difference is None
    assert report.total.effect is None
    assert not verify(giving(ONE), giving(OTHER), {"b": [1, 2, 3]}, tolerance=5.9).agrees


def test_perplexities_by_hand():
    ids = [0, 2, 1]
    found = compare("x", ONE, OTHER, ids=ids)
    chances = [math.exp(3) / sum(map(math.exp, (1, 2, 3))), 1 / (2 + math.exp(5))]
    assert found.perplexity == pytest.approx((chances[0] * chances[1]) ** -0.5, rel=1e-12)
    assert found.other_perplexity != found.perplexity
    assert compare("x", ONE, OTHER).perplexity is None
    assert compare("x", ONE[:1], OTHER[:1], ids=[0]).perplexity is None
    assert compare("x", ONE, OTHER, ids=[0, 2, 3]).perplexity is None  # there is no token 3
    assert compare("x", ONE * 1e4, OTHER, ids=[0, 1, 1]).perplexity == math.inf
    report = verify(giving(ONE), giving(OTHER), {"a": [0, 2], "b": [1], "c": ids}, tolerance=9)
    first, last = report.prompts[0].perplexity, report.prompts[2].perplexity
    assert report.total.perplexity == pytest.approx((first * last**2) ** (1 / 3), rel=1e-12)


def test_limits_judge_by_the_cost():
    sides = giving(ONE), giving(OTHER)
    ids = {"x": [0, 2, 1]}
    cost = verify(*sides, ids, limits=CostLimits(form="int8"))
    assert not cost.agrees
    assert cost.verdict.startswith("something is wrong")
    kl = cost.total.kl
    assert verify(*sides, ids, limits=CostLimits(max_kl=kl, min_top1=0.6)).agrees
    assert not verify(*sides, ids, limits=CostLimits(max_kl=kl * 0.99)).agrees
    assert not verify(*sides, ids, limits=CostLimits(min_top1=0.7)).agrees
    bad = verify(sides[0], giving(OTHER * np.nan), ids, limits=CostLimits(form="int8"))
    assert not bad.agrees
    assert "NaN" in bad.verdict
    with pytest.raises(ParameterError, match="not by both"):
        verify(*sides, ids, limits=CostLimits(max_kl=1), tolerance=1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_nan_and_infinity_never_agree(value, side):
    sides = [np.zeros((2, 3)), np.zeros((2, 3))]
    sides[side][1, 2] = value
    report = verify(giving(sides[0]), giving(sides[1]), {"x": [1, 2]}, tolerance=1e30)
    assert not report.agrees
    assert report.total.non_finite == 1
    content = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert content["total"]["max_difference"] == "nan"
    assert content["agrees"] is False


def test_the_same_nan_on_both_sides_does_not_agree():
    bad = np.full((2, 3), np.nan)
    report = verify(giving(bad), giving(bad), {"x": [1, 2]}, plain=giving(ONE))
    assert not report.agrees
    assert report.warnings == ()


def test_an_adapter_without_effect_is_told():
    report = verify(giving(ONE), giving(ONE), {"x": [1, 2, 3]}, plain=giving(ONE), names=("A", "B"))
    assert report.agrees
    assert "A has no effect" in report.warnings[0]
    small = verify(giving(ONE), giving(ONE), {"x": [1, 2, 3]}, plain=giving(ONE + 1e-4))
    assert "within the tolerance" in small.warnings[0]
    large = verify(giving(ONE), giving(ONE), {"x": [1, 2, 3]}, plain=giving(ONE + 1), notes=["n"])
    assert large.warnings == ("n",)
    assert large.total.effect == 1


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ParameterError, match="no prompt"):
        verify(giving(ONE), giving(ONE), {})
    with pytest.raises(ParameterError, match="no tokens"):
        verify(giving(ONE), giving(ONE), {"x": []})
    for tolerance in (-1, math.nan, math.inf):
        with pytest.raises(ParameterError, match="tolerance"):
            verify(giving(ONE), giving(ONE), {"x": [1]}, tolerance=tolerance)
    with pytest.raises(
        EngineError, match=r"vocabularies differ: one has 3 .* other has 4"
    ) as caught:
        verify(giving(ONE), giving(np.zeros((3, 4))), {"x": [1, 2, 3]})
    assert "padded" in caught.value.hint
    with pytest.raises(EngineError, match="2 tokens"):
        verify(giving(ONE), lambda ids: ONE[:1], {"x": [1, 2]})
