"""Rounding passes and a wrong scale of a percent does not: on arrays, and on merged models."""

import functools

import numpy as np
import pytest

import lorakit
from folders import DATA
from lorakit import demo
from lorakit.adapter import Adapter, Delta
from lorakit.base.folder import Base
from lorakit.formats import read_adapter
from lorakit.merge import merge
from lorakit.verify import Rounding, adapted, built_in, merged_weights, scale_steps, verify
from lorakit.verify.verdict import PLAIN, UNITS, evidence, judge, share_of

TRUTH = DATA / "truth"
STORED = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
WRONG = (0.99, 1.01, 0.97, 1.03)


# On arrays.


def arrays(seed, *, noise, wrong=0.0, effect=1.0):
    """Evidence of a side with this effect against one with noise and a wrong scale."""
    draw = np.random.default_rng(seed)
    plain, change = draw.normal(size=(2, 24, 200))
    one = plain + effect * change
    other = plain + (1 + wrong) * effect * change + noise * draw.normal(size=one.shape)
    steps = {f"{k:g}": plain + k * effect * change for k in (1.01, 0.99)}
    return [evidence("x", one, other, steps | {PLAIN: plain})]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("stored", UNITS)
def test_noise_of_a_rounding_passes_and_a_wrong_scale_under_it_does_not(seed, stored):
    noise = UNITS[stored]
    assert judge(arrays(seed, noise=noise), stored) == judge([], stored)
    for wrong in (0.01, -0.01, 0.03, -0.03):
        assert judge(arrays(seed, noise=noise, wrong=wrong), stored).against
        assert judge(arrays(seed, noise=noise, wrong=wrong, effect=0.3), stored) != judge([], "")
    assert judge(arrays(seed, noise=noise, wrong=-1), stored).against  # it does nothing
    assert judge(arrays(seed, noise=30 * noise), stored).against  # no rounding is so large


def test_what_rounding_may_hide_is_not_passed():
    found = judge(arrays(0, noise=2**-8, effect=0.01), "bfloat16")
    assert not found.against
    assert "may hide that" in found.unclear[0]


def test_the_share_of_a_change_by_hand():
    one, other = np.zeros((2, 2)), np.array([[0.5, 0.0], [0.0, 1.0]])
    found = [evidence("x", one, other, {"up": np.array([[1.0, 0.0], [0.0, 1.0]])})]
    share = share_of(found, "up")
    assert share.value == 0.75
    assert share.steps == pytest.approx(np.sqrt(1.25 / 2))
    assert share.error == pytest.approx(np.sqrt(2 * 0.25**2) / 2 * np.sqrt(2))
    assert share_of([evidence("x", one, other, {"none": one})], "none") is None
    with np.errstate(all="raise"):
        alone = share_of([evidence("x", one[:1], other[:1], {"up": other[:1] * 4})], "up")
    assert alone.error == np.inf  # one position says nothing about its error
    assert alone.is_none  # but a difference this small holds no half of the change


# On models. A merge rounds the weights; the first side has the adapter on the fly.


def spread(seed, strength):
    """A made-up adapter on the attention of the tiny Llama."""
    draw = np.random.default_rng(seed)
    deltas = []
    for layer in range(4):
        for name, out in (("q_proj", 64), ("v_proj", 32)):
            a = draw.normal(size=(4, 64)).astype(np.float32) / 8
            b = strength * draw.normal(size=(out, 4)).astype(np.float32)
            module = f"model.layers.{layer}.self_attn.{name}"
            deltas.append(Delta(module=module, a=a, b=b, scale=1.0))
    return Adapter(deltas=tuple(deltas))


CASES = {  # base, adapter, scale
    "llama plain": (TRUTH / "bases/llama", TRUTH / "peft/llama/plain", 0.3),
    "llama plain, strong": (TRUTH / "bases/llama", TRUTH / "peft/llama/plain", 1.0),
    "llama seed 1": (TRUTH / "bases/llama", spread(1, 0.05), 1.0),
    "llama seed 2": (TRUTH / "bases/llama", spread(2, 0.2), 1.0),
    "gemma plain": (TRUTH / "bases/gemma3", TRUTH / "peft/gemma3/plain", 0.3),
    "gemma rslora, strong": (TRUTH / "bases/gemma3", TRUTH / "peft/gemma3/rslora", 3.0),
    "demo home": (demo.base_path(), demo.adapter_path("home"), 1.0),
}


class Case:
    """A model with an adapter on the fly, each of whose logits is computed once."""

    def __init__(self, base, adapter, scale):
        self.base, self.scale = Base.open(base), scale
        self.adapter = adapter if isinstance(adapter, Adapter) else read_adapter(adapter)
        self.model = lorakit.open(base, threads=1)
        self.model.load_adapter(self.adapter, "a")
        self.prompts = built_in(self.model)
        scales = {"a": scale}
        self.one, self.plain = once(adapted(self.model, scales)), once(adapted(self.model, {}))
        self.steps = {name: once(f) for name, f in scale_steps(self.model, scales).items()}

    def against(self, folder, dtype, wrong=1.0, adapter=None, *, steps=True, weights=True):
        """The report of a comparison with a merge at `wrong` times the right scale."""
        merge(self.base, [(adapter or self.adapter, self.scale * wrong)], folder, dtype=dtype)
        with lorakit.open(folder, threads=1) as merged:
            settled = merged_weights(self.model, {"a": self.scale}, merged) if weights else ()
            return verify(
                self.one,
                merged.logits,
                self.prompts,
                rounding=Rounding(STORED[dtype], self.steps if steps else {}, settled),
                plain=self.plain if steps else None,
            )


def once(side):
    known = functools.cache(lambda ids: side(list(ids)))
    return lambda ids: known(tuple(ids))


@functools.cache
def case_of(name):
    return Case(*CASES[name])


@pytest.fixture(scope="module", autouse=True)
def closed():
    yield
    for name in CASES:
        case_of(name).model.close()
    case_of.cache_clear()


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("name", CASES)
def test_a_merge_agrees_within_its_rounding_and_a_wrong_scale_does_not(name, dtype, tmp_path):
    case = case_of(name)
    right = case.against(tmp_path / "right", dtype)
    assert right.agrees, right.verdict
    assert f"agrees within {STORED[dtype]}'s rounding (effect" in right.verdict
    for wrong in (*WRONG, 0.0):
        report = case.against(tmp_path / f"{wrong}", dtype, wrong)
        assert not report.agrees, (wrong, report.verdict)
        assert report.verdict.startswith("differs"), report.verdict


def test_size_alone_would_pass_a_wrong_scale(tmp_path):
    """The broken variant: without the steps of the scale, a percent hides under the rounding."""
    case = case_of("gemma plain")
    blind = case.against(tmp_path / "blind", "bf16", 0.99, steps=False)
    assert blind.agrees
    assert not case.against(tmp_path / "seeing", "bf16", 0.99).agrees


def test_a_small_effect_is_settled_by_the_weights_and_else_not_guessed_at(tmp_path):
    base, adapter, _ = CASES["gemma plain"]
    small = Case(base, adapter, 0.01)
    with small.model:
        assert small.against(tmp_path / "f32", "f32", weights=False).agrees
        assert small.against(tmp_path / "right", "bf16").agrees
        for number, wrong in enumerate((*WRONG, 0.0)):
            alone = small.against(tmp_path / f"f32 {number}", "f32", wrong, weights=False)
            assert not alone.agrees
            assert not small.against(tmp_path / f"bf16 {number}", "bf16", wrong).agrees
        alone = small.against(tmp_path / "alone", "bf16", weights=False)
        assert not alone.agrees
        assert alone.verdict.startswith("cannot tell")


@pytest.mark.parametrize("dtype", STORED)
def test_a_module_that_was_left_out_is_found(dtype, tmp_path):
    case = case_of("demo home")
    some = Adapter(deltas=case.adapter.deltas[1:])
    assert case.against(tmp_path / "all", dtype, adapter=Adapter(deltas=case.adapter.deltas)).agrees
    assert not case.against(tmp_path / "some", dtype, adapter=some).agrees
