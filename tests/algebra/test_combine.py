"""Sums of adapters against dense numpy, PEFT, and both applied at run time."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import ml_dtypes
import numpy as np
import pytest
from algebra_cases import SHAPES, adapter, best, delta, dense, embedding, relative
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit import demo
from lorakit.adapter import Adapter, Delta, Magnitude, Precondition, Replacement, Site
from lorakit.algebra import combine, subtract
from lorakit.algebra.peft_words import PeftMethod, in_our_words
from lorakit.base.folder import Base
from lorakit.engines.onnx.engine import OnnxEngine
from lorakit.engines.onnx.options import OnnxOptions
from lorakit.engines.protocol import Row
from lorakit.errors import AdapterError, ParameterError, UnsupportedError
from lorakit.formats.peft import read_peft, write_peft

Q = "model.layers.0.self_attn.q_proj"
UP = "model.layers.0.mlp.up_proj"


def dense_sum(weighted):
    total = {}
    for one, weight in weighted:
        for key, matrix in dense(one).items():
            total[key] = total.get(key, 0) + weight * matrix
    return total


def test_concatenation_is_the_sum_to_float32_rounding():
    first = adapter(0, rank=3, modules=(UP, Q))
    second = adapter(1, rank=5, scale=2.0, modules=(Q,))
    tables = Adapter(deltas=(embedding(3), embedding(4, site=Site.BOTH), delta(Q, 1, 5)))
    weighted = [(first, 0.7), (second, -0.3), (tables, 1.5)]
    found, report = combine(weighted)
    expected = dense_sum(weighted)
    assert dense(found).keys() == expected.keys()
    for key, matrix in dense(found).items():
        assert relative(matrix, expected[key]) < 1e-7
    rows = {(m.module, m.site): m for m in report.modules}
    assert rows[Q, "linear"].rank_before == rows[Q, "linear"].rank_after == 3 + 5 + 1
    assert 0 < rows[Q, "linear"].residual < 1e-7
    for key, row in rows.items():
        assert row.norm == pytest.approx(np.linalg.norm(expected[key]), rel=1e-12)
        real = relative(dense(found)[key], expected[key])
        assert row.residual == pytest.approx(real, rel=1e-3, abs=1e-14)
    assert report.residual < 1e-7


def test_one_common_factor_stays_the_scale_and_rounds_nothing():
    def half(seed):
        parts = adapter(seed).deltas
        return Adapter(
            deltas=tuple(
                Delta(
                    module=d.module,
                    a=d.a.astype(ml_dtypes.bfloat16),
                    b=d.b.astype(ml_dtypes.bfloat16),
                    scale=d.scale,
                )
                for d in parts
            )
        )

    found, report = combine([(half(0), 0.5), (half(1), 0.5)])
    assert {d.a.dtype.name for d in found.deltas} == {"bfloat16"}
    assert {d.scale for d in found.deltas} == {0.25}
    assert report.residual < 1e-15


def test_an_adapter_minus_itself_is_nothing():
    one = adapter(0)
    found, report = subtract(one, one)
    assert found.deltas == ()
    assert [(m.rank_after, m.norm, m.residual) for m in report.modules] == [(0, 0, 0)] * 2
    rotated = Adapter(  # the same matrices from other factors
        deltas=tuple(
            Delta(module=d.module, a=d.a[::-1] * 2, b=d.b[:, ::-1] / 2, scale=d.scale)
            for d in one.deltas
        )
    )
    found, report = subtract(one, rotated)
    assert all(np.abs(matrix).max() < 1e-6 for matrix in dense(found).values())
    found, report = subtract(one, rotated, method="svd", energy=1.0)
    assert found.deltas == ()


def test_svd_of_the_sum_is_the_best_of_its_rank():
    weighted = [(adapter(0, rank=4), 0.7), (adapter(1, rank=5), 0.3)]
    found, report = combine(weighted, "svd", rank=3)
    for key, exact in dense_sum(weighted).items():
        limit = relative(best(exact, 3), exact)
        assert relative(dense(found)[key], exact) == pytest.approx(limit, rel=1e-6)
    for row in report.modules:
        exact = dense_sum(weighted)[row.module, row.site]
        assert (row.rank_before, row.rank_after) == (9, 3)
        assert row.residual == pytest.approx(relative(best(exact, 3), exact), rel=1e-6)
    whole, report = combine([(adapter(0), 1.0), (adapter(0, scale=0.25), 1.0)], "svd", energy=1.0)
    assert {d.rank for d in whole.deltas} == {3}  # the same subspace twice
    assert report.residual < 1e-6


def test_biases_of_b_and_experts_add_up():
    def one(seed, scale):
        bias = np.random.default_rng(seed).standard_normal(24).astype(np.float32)
        experts = delta("experts", 2, seed, (6, 8), scale, lead=(3,))
        return Adapter(deltas=(delta(UP, 2, seed, scale=scale, bias=bias), experts))

    parts = [(one(0, 2.0), 0.5), (one(1, 3.0), -1.0)]
    for options in ({}, {"method": "svd", "energy": 1.0}):
        found, report = combine(parts, **options)
        biased = next(d for d in found.deltas if d.module == UP)
        biases = [d.bias for a, _ in parts for d in a.deltas if d.bias is not None]
        np.testing.assert_allclose(biased.scale * biased.bias, biases[0] - 3 * biases[1], atol=1e-5)
        for key, exact in dense_sum(parts).items():
            assert relative(dense(found)[key], exact) < 1e-6
        assert report.residual < 1e-6


def test_everything_that_has_no_sum_is_listed_at_once():
    norm = np.ones(4, np.float32)
    dora = adapter(0, magnitudes=(Magnitude(module=Q, value=norm),), invocation_tokens=(1, 2))
    other = Adapter(
        deltas=(delta(Q, 2, 0, shape=(12, 20)),),
        replacements=(Replacement(name="model.norm.weight", value=norm),),
    )
    with pytest.raises(UnsupportedError) as caught:
        combine([(dora, 1.0), (other, 1.0)])
    text = str(caught.value)
    for part in ("magnitude", "model.norm.weight", "[12, 16]", "[12, 20]", "tokens", "merge"):
        assert part in text
    assert len(caught.value.items) == 4
    biased = Adapter(deltas=(delta(UP, 2, 0, bias=np.ones(24, np.float32)),))
    with pytest.raises(UnsupportedError, match="bias of B"):
        combine([(biased, 1.0)], "ties", rank=2)


def test_what_all_adapters_share_is_kept():
    table = Replacement(name="model.embed_tokens.weight", value=np.ones((4, 2), np.float32))
    shared = {
        "replacements": (table,),
        "invocation_tokens": (3,),
        "precondition": Precondition(name="org/base"),
    }
    one = adapter(0, metadata={"peft": {"task_type": "X", "r": 1}, "n": 1}, **shared)
    two = adapter(1, metadata={"peft": {"task_type": "X", "r": 2}, "n": 2}, **shared)
    found, report = combine([(one, 1.0), (two, 1.0)])
    assert found.replacements == (table,)
    assert found.invocation_tokens == (3,)
    assert found.precondition.name == "org/base"
    assert dict(found.metadata) == {"peft": {"task_type": "X"}}
    assert report.notes == ()
    assert subtract(one, one)[0].parameters == 0
    third = adapter(
        2, replacements=(table,), invocation_tokens=(3,), precondition=Precondition(name="b")
    )
    found, report = combine([(one, 1.0), (third, 1.0)])
    assert found.precondition.name is None
    assert "org/base" in report.notes[0]


@pytest.mark.parametrize(
    ("weights", "options", "message"),
    [
        ([], {}, "at least one"),
        ([float("nan")], {}, "finite"),
        ([1e39], {}, "too large"),
        ([1.0], {"rank": 2}, "takes neither"),
        ([1.0], {"method": "svd"}, "a rank or an energy"),
        ([1.0], {"method": "svd", "rank": 0}, "at least 1"),
        ([1.0], {"method": "svd", "energy": 1.5}, "at most 1"),
        ([1.0], {"method": "dare_ties"}, "must be one of"),
        ([1.0], {"method": "dare", "rank": 2, "density": 0.0}, "density"),
        ([1.0], {"method": "dare", "rank": 2, "seed": -1}, "seed"),
    ],
)
def test_wrong_arguments_are_named(weights, options, message):
    parts = [(adapter(n, scale=n + 1), w) for n, w in enumerate(weights)]
    if weights == [1e39]:
        parts.append((adapter(5), 1.0))
    with pytest.raises(ParameterError, match=message):
        combine(parts, **options)


def test_values_that_are_not_finite_are_named():
    broken = adapter(0)
    broken.deltas[0].a[0, 0] = np.nan
    with pytest.raises(AdapterError, match=r"up_proj\.A"):
        combine([(broken, 1.0)])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 9),
            st.integers(1, 20),
            st.floats(-4, 4).filter(lambda w: w == 0 or abs(w) > 1e-20),  # float32 holds the rest
            st.sets(st.sampled_from([*SHAPES])),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_sum_is_exact(parts):
    weighted = [(adapter(s, rank=r, modules=sorted(m)), w) for s, r, w, m in parts]
    found, _ = combine(weighted)
    expected, got = dense_sum(weighted), dense(found)
    for key, matrix in expected.items():
        size = sum(abs(w) * np.linalg.norm(dense(a).get(key, 0)) for a, w in weighted)
        assert np.linalg.norm(matrix - got.get(key, 0)) <= 1e-6 * size


def test_the_engine_sees_no_difference():
    """home and style as one adapter, and both applied at run time."""
    base = Base.open(demo.base_path())
    weighted = [(read_peft(demo.adapter_path(n)), w) for n, w in (("home", 0.7), ("style", 0.3))]
    found, _ = combine(weighted)
    whole, _ = combine(weighted, "svd", energy=1.0)
    engine = OnnxEngine.open(base, OnnxOptions(threads=1))
    tokens = np.arange(5, 45, dtype=np.int64)

    def logits(parts):
        sequence = engine.open_sequence()
        row = Row(sequence=sequence, tokens=tokens, adapters=parts, logits="all")
        result = engine.forward([row])[0].copy()
        engine.close_sequence(sequence)
        return result

    both = logits(tuple((engine.attach(engine.prepare(a)), w) for a, w in weighted))
    assert np.abs(both - logits(())).max() > 0.1
    for one in (found, whole):
        np.testing.assert_allclose(
            logits(((engine.attach(engine.prepare(one)), 1.0),)), both, rtol=0, atol=2e-4
        )
    engine.close()


@pytest.mark.filterwarnings("ignore")  # the oracle's own
@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform == "win32", reason="the oracle is tried on POSIX alone")
def test_peft_finds_the_same(tmp_path):
    peft = pytest.importorskip("peft", reason="the oracle of this test")
    transformers = pytest.importorskip("transformers", reason="the oracle of this test")
    truth = Path(__file__).parents[1] / "data/truth"
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(truth / "bases/llama")
    folders = {n: truth / "peft/llama" / n for n in ("plain", "plain_b")}
    model = peft.PeftModel.from_pretrained(model, folders["plain"], adapter_name="plain")
    model.load_adapter(folders["plain_b"], adapter_name="plain_b")
    weighted = [(read_peft(folders[n]), w) for n, w in (("plain", 0.7), ("plain_b", 0.3))]
    rank = 4
    model.add_weighted_adapter(["plain", "plain_b"], [0.7, 0.3], "cat", combination_type="cat")
    model.add_weighted_adapter(
        ["plain", "plain_b"], [0.7, 0.3], "svd", combination_type="svd", svd_rank=rank
    )
    ours = {"cat": combine(weighted)[0], "svd": combine(weighted, "svd", rank=rank)[0]}
    for name, found in ours.items():
        write_peft(found, tmp_path / name)
        model.load_adapter(tmp_path / name, adapter_name=f"our_{name}")
        for module in found.modules:
            layer = model.base_model.model.get_submodule(module)
            theirs = layer.get_delta_weight(name).detach().numpy()
            read = layer.get_delta_weight(f"our_{name}").detach().numpy()
            atol = 2e-6 if name == "cat" else 3e-5  # its SVD is in float32
            np.testing.assert_allclose(read, theirs, rtol=0, atol=atol)


def test_the_strengths_are_the_norms_and_uneven_ones_are_named():
    strong, weak = adapter(0, scale=8.0), adapter(1, scale=0.5)
    _, report = combine([(strong, 1.0), (weak, -2.0)])
    norms = [
        abs(w) * np.sqrt(sum(np.linalg.norm(m) ** 2 for m in dense(a).values()))
        for a, w in ((strong, 1.0), (weak, -2.0))
    ]
    assert report.strengths == pytest.approx(norms, rel=1e-6)
    (note,) = report.notes
    assert f"adapter 1 is {norms[0] / norms[1]:.3g} times as strong as adapter 2" in note
    even = norms[1] / norms[0]
    _, report = combine([(strong, even), (weak, 2.0)])
    assert report.strengths[0] == pytest.approx(report.strengths[1])
    assert report.notes == ()
    _, report = combine([(strong, 1.0), (weak, 0.0)])
    assert report.notes == ()  # one that is switched off is not weak
    assert report.to_dict()["strengths"] == list(report.strengths)


@pytest.mark.parametrize("weights", [(1.0, -2.0, 0.5), (1.0, 0.0, 1.0)])
def test_shares_are_parts_of_the_sum(weights):
    several = [adapter(n, scale=1.0 + n) for n in range(3)]
    _, report = combine(list(zip(several, weights, strict=True)))
    changes = [
        np.concatenate([(w * m).ravel() for _, m in sorted(dense(a).items())])
        for a, w in zip(several, weights, strict=True)
    ]
    whole = sum(changes)
    assert report.shares == pytest.approx([c @ whole / (whole @ whole) for c in changes], rel=1e-6)
    assert sum(report.shares) == pytest.approx(1.0)
    squares = np.square(report.strengths)
    assert report.shares != pytest.approx(squares / squares.sum(), rel=1e-3)  # they are not alike


def test_one_that_works_against_the_others_has_a_negative_share():
    one = adapter(0)
    against = replace(one, deltas=tuple(replace(d, scale=-0.25 * d.scale) for d in one.deltas))
    _, report = combine([(one, 1.0), (against, 1.0)])
    assert report.shares == pytest.approx([4 / 3, -1 / 3])
    opposite = replace(one, deltas=tuple(replace(d, scale=-d.scale) for d in one.deltas))
    assert combine([(one, 1.0), (opposite, 1.0)])[1].shares == (0.0, 0.0)  # of nothing


@pytest.mark.parametrize("word", get_args(PeftMethod))
def test_words_of_peft_are_known_and_say_where_they_mean_something_else(word):
    ours, notes = in_our_words(word)
    options = {} if ours == "concatenate" else {"rank": 2}
    parts = [(adapter(0), 1.0), (adapter(1), 0.5)]
    found, report = combine(parts, word, **options)
    assert report.method == ours
    assert found == combine(parts, ours, **options)[0]
    assert [note for note in report.notes if "PEFT" in note] == list(notes)
    assert bool(notes) == (word in ("linear", "dare_linear", "magnitude_prune"))
