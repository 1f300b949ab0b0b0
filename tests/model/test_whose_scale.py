"""A scale that multiplies the file's own alpha / r, and one that replaces it."""

import numpy as np
import pytest

import lorakit
from folders import DATA
from lorakit.errors import AdapterError, ParameterError
from lorakit.formats import read_adapter
from lorakit.model.load import own_scale, twice_scaled

BASE = DATA / "truth/bases/llama"
PLAIN = DATA / "truth/peft/llama/plain"  # alpha / r is 2
IDS = np.load(BASE / "base_logits.npz")["ids0"].tolist()


@pytest.fixture(scope="module")
def relative():
    with lorakit.open(BASE, threads=1) as model:
        model.load_adapter(PLAIN, "a")
        yield lambda scale: model.logits(IDS, adapters={"a": scale}).copy()


@pytest.mark.parametrize("mode", ["dynamic", "merge"])
@pytest.mark.parametrize("absolute", [2.0, 1.0, -0.5])
def test_an_absolute_scale_replaces_the_files_own(relative, mode, absolute):
    config = lorakit.AdapterConfig(PLAIN, absolute_scale=absolute, mode=mode)
    with lorakit.open(BASE, adapter=config, threads=1) as model:
        found = model.logits(IDS)
        assert np.abs(found - relative(absolute / 2)).max() < 1e-4
        assert np.abs(found - relative(absolute)).max() > 1e-3  # as a relative one it would be that
        assert not model.warnings


@pytest.mark.parametrize(
    ("scale", "warned"), [(2.0, True), (1.0, False), (None, False), (0.5, False)]
)
def test_a_relative_scale_that_is_the_files_own_warns(scale, warned):
    with lorakit.open(BASE, adapter=lorakit.AdapterConfig(PLAIN, scale=scale), threads=1) as model:
        said = [warning for warning in model.warnings if warning.code == "same_scale"]
        assert bool(said) is warned
        if warned:
            assert "acts at 4" in said[0].message
            assert "absolute_scale=2" in said[0].message


def test_adapters_of_several_scales_have_none_of_their_own():
    assert own_scale(read_adapter(PLAIN)) == 2.0
    mixed = read_adapter(DATA / "truth/peft/gemma3/patterns")
    assert own_scale(mixed) is None
    assert twice_scaled(mixed, mixed.deltas[0].scale, "a") == ""


def test_two_scales_at_once_and_none_are_refused():
    with pytest.raises(ParameterError, match="multiplies"):
        lorakit.AdapterConfig(PLAIN, scale=1.0, absolute_scale=2.0)
    for wrong in (float("nan"), float("inf"), "2", True):
        with pytest.raises(ParameterError, match="absolute_scale"):
            lorakit.AdapterConfig(PLAIN, absolute_scale=wrong)
    from lorakit.adapter import at_scale

    with pytest.raises(AdapterError):
        at_scale(read_adapter(PLAIN), float("nan"))
