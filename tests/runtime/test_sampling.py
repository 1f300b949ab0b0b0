"""The sampler against brute force over the whole distribution."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.errors import EngineError, ParameterError
from lorakit.runtime.filters import index
from lorakit.runtime.params import SamplingOptions, SamplingParams, sampling_params
from lorakit.runtime.sampling import Sampler


def logits(seed: int = 0, size: int = 50) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=size).astype(np.float32) * 3


def expected_distribution(values: np.ndarray, params: SamplingParams) -> np.ndarray:
    """Temperature, top-k, top-p, min-p, each spelled out over all tokens."""
    p = np.exp((values.astype(np.float64) - values.max()) / params.temperature)
    order = sorted(range(len(p)), key=lambda t: (-p[t], t))
    if params.top_k:
        order = order[: params.top_k]
    kept = dict.fromkeys(order)
    total, mass = sum(p[t] for t in kept), 0.0
    nucleus = []
    for token in order:
        if mass >= params.top_p * total:
            break
        nucleus.append(token)
        mass += p[token]
    kept = [t for t in nucleus if p[t] >= params.min_p * p[nucleus[0]]]
    result = np.zeros(len(p))
    result[kept] = p[kept]
    return result / result.sum()


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    size=st.sampled_from([5, 50, 3000]),
    temperature=st.floats(0.2, 3),
    top_k=st.integers(0, 60),
    top_p=st.floats(0.05, 1),
    min_p=st.floats(0, 0.5),
)
def test_candidates_are_those_of_the_definition(seed, size, temperature, top_k, top_p, min_p):
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    values = logits(seed, size)
    tokens, weights = Sampler(params, [])._candidates(values, values.max())
    ours = np.zeros(len(values))
    ours[tokens] = weights / weights.sum()
    np.testing.assert_allclose(ours, expected_distribution(values, params), atol=1e-6)


def test_draws_follow_the_distribution():
    params = SamplingParams(temperature=1.3, top_p=0.9, seed=7)
    values = logits(3, 12)
    sampler = Sampler(params, [])
    counts = np.bincount([sampler.choose(values).token for _ in range(20_000)], minlength=12)
    expected = expected_distribution(values, params)
    assert np.abs(counts / 20_000 - expected).max() < 0.015
    assert not counts[expected == 0].any()


@given(
    size=st.integers(1, 2000), uniform=st.floats(0, 1, exclude_max=True), seed=st.integers(0, 99)
)
def test_picking_by_blocks_is_picking(size, uniform, seed):
    weights = np.random.default_rng(seed).random(size, dtype=np.float32)
    sums = np.cumsum(weights, dtype=np.float64)
    at = index(weights, uniform)
    assert sums[at] - weights[at] - 1e-6 <= uniform * sums[-1] <= sums[at] + 1e-6


def test_a_seed_repeats_and_another_does_not():
    def run(seed):
        sampler = Sampler(SamplingParams(temperature=1.0, seed=seed), [])
        return [sampler.choose(logits(i)).token for i in range(30)]

    assert run(1) == run(1) != run(2)


def test_greedy_is_the_default_and_takes_the_first_of_equals():
    assert Sampler(SamplingParams(), []).choose(np.float32([1, 5, 5, 2])).token == 1


def test_top_k_of_equals_takes_the_smaller_ids():
    sampler = Sampler(SamplingParams(temperature=1, top_k=2), [])
    tokens, _ = sampler._candidates(np.float32([1, 3, 3, 3, 0]), np.float32(3))
    assert tokens.tolist() == [1, 2]


def test_repetition_penalty_counts_prompt_and_output_once():
    sampler = Sampler(SamplingParams(repetition_penalty=2.0), [0])
    assert sampler.choose(np.float32([4, 3, -1])).token == 1  # 4 / 2 < 3
    assert sampler.choose(np.float32([4, 3, -1])).token == 0  # 3 / 2 < 4 / 2
    assert sampler.choose(np.float32([-1, -1, -1.5])).token == 2  # -1 * 2 < -1.5


def test_presence_and_frequency_penalties_count_output_only():
    presence = Sampler(SamplingParams(presence_penalty=1.0), [0, 0, 0])
    assert [presence.choose(np.float32([2, 1.5])).token for _ in range(3)] == [0, 1, 0]
    frequency = Sampler(SamplingParams(frequency_penalty=0.4), [0])
    assert [frequency.choose(np.float32([2, 1.5])).token for _ in range(4)] == [0, 0, 1, 0]


def test_logits_are_left_as_they_are():
    values = logits()
    before = values.copy()
    Sampler(SamplingParams(repetition_penalty=3.0, presence_penalty=1.0), [1, 2]).choose(values)
    np.testing.assert_array_equal(values, before)


def test_logprobs_are_of_the_models_own_distribution():
    values = logits()
    choice = Sampler(SamplingParams(logprobs=3, temperature=0.1, repetition_penalty=2), [1]).choose(
        values
    )
    own = values - np.log(np.exp(values.astype(np.float64)).sum())
    assert choice.logprob == pytest.approx(own[choice.token], abs=1e-5)
    assert [t for t, _ in choice.top] == np.argsort(-own)[:3].tolist()
    assert Sampler(SamplingParams(logprobs=0), []).choose(values).top == ()


def test_non_finite_logits_are_an_error():
    for bad in (np.float32([0, np.nan, 1]), np.full(3, -np.inf, np.float32)):
        with pytest.raises(EngineError):
            Sampler(SamplingParams(), []).choose(bad)


def test_minus_infinity_rules_a_token_out():
    sampler = Sampler(SamplingParams(temperature=5.0, seed=0), [])
    assert {sampler.choose(np.float32([0, -np.inf, 0])).token for _ in range(50)} == {0, 2}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", -1),
        ("max_tokens", 1.5),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 0),
        ("top_p", 1.1),
        ("min_p", 2),
        ("top_k", -1),
        ("repetition_penalty", 0),
        ("repetition_penalty", 1e-300),  # none in float32
        ("presence_penalty", float("inf")),
        ("seed", -4),
        ("logprobs", -1),
        ("stop", ("",)),
        ("stop_tokens", (-1,)),
        ("min_tokens", -1),
        ("min_tokens", 257),
        ("logit_bias", [1, 2]),
        ("logit_bias", {-1: 1.0}),
        ("logit_bias", {"1": 1.0}),
        ("logit_bias", {1: float("inf")}),
        ("logit_bias", {1: 1e7}),
        ("logit_bias", dict.fromkeys(range(10_001), 1.0)),
    ],
)
def test_invalid_parameters_name_themselves(name, value):
    with pytest.raises(ParameterError, match=name):
        SamplingParams(**{name: value})


def test_all_faults_are_reported_at_once():
    with pytest.raises(ParameterError) as caught:
        SamplingParams(top_p=3, min_p=-1)
    assert len(caught.value.items) == 2


def test_numpy_integers_do_not_overflow():
    params = SamplingParams(top_k=np.uint8(40), temperature=1.0, seed=np.uint8(1))
    assert 0 <= Sampler(params, []).choose(logits(0, 3000)).token < 3000


def test_keyword_options_name_every_parameter_and_no_other():
    assert set(SamplingOptions.__annotations__) == set(SamplingParams.__dataclass_fields__)
    assert sampling_params(SamplingParams(top_k=3), {"seed": 4, "stop": "x"}) == SamplingParams(
        top_k=3, seed=4, stop=("x",)
    )
    with pytest.raises(ParameterError, match="temprature"):
        sampling_params(None, {"temprature": 1})


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), typical_p=st.floats(0.05, 0.999))
def test_typical_keeps_what_surprises_about_as_much_as_the_whole(seed, typical_p):
    values = logits(seed)
    tokens, _ = Sampler(SamplingParams(temperature=1.0, typical_p=typical_p), [])._candidates(
        values, values.max()
    )
    p = np.exp(values.astype(np.float64) - values.max())
    p /= p.sum()
    distance = np.abs(-np.log(p) + (p * np.log(p)).sum())
    order, mass, expected = np.argsort(distance), 0.0, set()
    for token in order:
        if mass >= typical_p - 1e-7:
            break
        expected.add(int(token))
        mass += p[token]
    assert set(tokens.tolist()) == expected


def test_mirostat_is_its_definition():
    values, tau, eta = logits(3, 400) / 3, 3.0, 0.2
    params = SamplingParams(temperature=1.0, mirostat_tau=tau, mirostat_eta=eta, seed=1)
    sampler, random = Sampler(params, []), np.random.Generator(np.random.PCG64(1))
    p = np.exp(values.astype(np.float64) - values.max())
    p /= p.sum()
    most, surprises = 2 * tau, []
    for _ in range(500):
        kept = np.flatnonzero((-np.log2(p) <= most) | (p == p.max()))
        inside = p[kept] / p[kept].sum()
        at = int(np.searchsorted(np.cumsum(inside), random.random(), side="right"))
        assert sampler.choose(values).token == kept[at]
        surprises.append(-np.log2(inside[at]))
        most -= eta * (surprises[-1] - tau)
    assert abs(np.mean(surprises) - tau) < 0.2


def test_mirostat_goes_with_no_filter():
    with pytest.raises(ParameterError, match="mirostat_tau"):
        SamplingParams(temperature=1.0, mirostat_tau=5.0, top_k=3)


class OnlyEven:
    """A constraint on token ids."""

    ended = False

    def __init__(self) -> None:
        self.accepted: list[int] = []

    def forced(self) -> tuple[int, ...]:
        return ()

    def allows(self, token: int) -> bool:
        return token % 2 == 0

    def mask(self, values: np.ndarray) -> np.ndarray:
        masked = values.copy()
        masked[1::2] = -np.inf
        return masked

    def accept(self, token: int) -> None:
        self.accepted.append(token)


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_constraint_has_the_last_word(temperature):
    only = OnlyEven()
    sampler = Sampler(SamplingParams(temperature=temperature, seed=5), [], only)
    tokens = [sampler.choose(logits(n)).token for n in range(50)]
    assert all(token % 2 == 0 for token in tokens)
    assert only.accepted == tokens


def test_biases_are_added_before_the_penalties_and_to_nothing_else():
    sampler = Sampler(SamplingParams(logit_bias={2: 3.0}, repetition_penalty=2.0), [2])
    values = np.float32([1.9, 0, 1.0])
    assert sampler.choose(values).token == 2  # (1 + 3) / 2 > 1.9; 1 / 2 + 3 would stay ahead below
    assert sampler.choose(np.float32([2.1, 0, 1.0])).token == 0
    assert values.tolist() == [np.float32(1.9), 0, 1.0]


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_a_bias_rules_out_and_makes_sure(temperature):
    def tokens(**biases):
        params = SamplingParams(temperature=temperature, seed=1, **biases)
        sampler = Sampler(params, [])
        return [sampler.choose(logits(n)).token for n in range(100)]

    often = tokens()[0]
    assert often not in tokens(logit_bias={often: -100})
    assert set(tokens(logit_bias={np.int64(9): np.float32(100)})) == {9}


@pytest.mark.parametrize("temperature", [0.0, 1.0, 1e3, 1e38])
def test_a_bias_of_minus_100_is_never_however_likely_the_token(temperature):
    """Added alone it leaves this one the best, and at a high temperature any one likely."""
    values = np.float32([500, 0, 1])

    def tokens(bias):
        params = SamplingParams(temperature=temperature, seed=1, logit_bias={0: bias})
        sampler = Sampler(params, [])
        return {sampler.choose(values).token for _ in range(50)}

    assert 0 in tokens(-99.9)
    assert tokens(-100) <= {1, 2}


def test_where_biases_rule_everything_out_it_is_said():
    sampler = Sampler(SamplingParams(logit_bias=dict.fromkeys(range(3), -100)), [])
    with pytest.raises(EngineError, match="logit_bias and min_tokens may leave no token"):
        sampler.choose(np.float32([1, 2, 3]))


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_no_end_token_is_chosen_within_the_first_tokens(temperature):
    def tokens(least):
        params = SamplingParams(temperature=temperature, seed=1, min_tokens=least)
        sampler = Sampler(params, [], ends={1, 3, 900})  # 900: the logits have no such token
        return [sampler.choose(np.float32([0, 4, 1, 3])).token for _ in range(30)]

    assert {1, 3} & set(tokens(0)[:10])  # what must be seen without
    assert not {1, 3} & set(tokens(10)[:10])
    assert {1, 3} & set(tokens(10)[10:])


def test_a_grammar_that_only_can_end_ends_before_min_tokens():
    values = np.float32([1, 5, 1, 7, 0])
    assert Sampler(SamplingParams(min_tokens=5), [], OnlyEven(), {0}).choose(values).token == 2
    assert (
        Sampler(SamplingParams(min_tokens=5), [], OnlyEven(), {0, 2, 4}).choose(values).token == 0
    )


def test_parameters_with_biases_are_values():
    given = {3: 1.0}
    params = SamplingParams(logit_bias=given)
    given[4] = 2.0
    assert params.logit_bias == {3: 1.0}
    assert hash(params) == hash(SamplingParams(logit_bias={3: 1}))
    assert params == SamplingParams(logit_bias={3: 1}) != SamplingParams()
