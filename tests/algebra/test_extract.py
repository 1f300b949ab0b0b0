"""Adapters out of fine-tunes: a known change comes back, and the engine agrees."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from lorakit import demo
from lorakit.adapter import Site
from lorakit.algebra import extract
from lorakit.base.folder import Base
from lorakit.check import require_fit
from lorakit.errors import AdapterError, MismatchError, ParameterError

Q = "model.layers.1.self_attn.q_proj"
TABLE = "model.embed_tokens"


@pytest.fixture(scope="module")
def base():
    return Base.open(demo.base_path())


def tuned(base, folder, changes, **config):
    """A copy of the base in float32 with changes added to some tensors."""
    weights = {name: np.array(t, np.float32) for name, t in base.tensors.items()}
    for name, change in changes.items():
        weights[name] = weights.get(name, 0) + change
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**base.config, **config}))
    save_file(weights, folder / "model.safetensors")
    return Base.open(folder)


def low_rank(base, name, rank, seed=0):
    rng = np.random.default_rng(seed)
    out, n_in = base.tensors[name].shape
    change = rng.standard_normal((out, rank)) @ rng.standard_normal((rank, n_in))
    return (change / np.abs(change).max()).astype(np.float32)


def test_a_known_change_comes_back(base, tmp_path):
    changes = {
        f"{Q}.weight": low_rank(base, f"{Q}.weight", 3),
        f"{TABLE}.weight": low_rank(base, f"{TABLE}.weight", 2),
        "model.norm.weight": np.float32(0.25),
    }
    model = tuned(base, tmp_path / "tuned", changes)
    adapter, report = extract(base, model, rank=4)
    require_fit(adapter, base)
    assert {d.key for d in adapter.deltas} == {(Q, "linear"), (TABLE, Site.BOTH)}
    for d in adapter.deltas:
        matrix = d.scale * d.b @ d.a
        change = changes[f"{d.module}.weight"]
        found = matrix.T if d.module == TABLE else matrix
        np.testing.assert_allclose(found, change, atol=2e-6)
    norm = adapter.replacements[0]
    assert norm.name == "model.norm.weight"
    np.testing.assert_array_equal(norm.value, model.tensors["model.norm.weight"])
    assert report.residual < 1e-6
    assert adapter.precondition.fingerprint == base.fingerprint
    _, report = extract(base, model, energy=0.9999)
    assert {m.module: m.rank_after for m in report.modules} == {Q: 3, TABLE: 2}
    assert extract(base, model, rank=4)[0] == adapter


def test_a_cut_is_the_best_of_its_rank(base, tmp_path):
    change = low_rank(base, f"{Q}.weight", 9)
    adapter, report = extract(base, tuned(base, tmp_path / "t", {f"{Q}.weight": change}), rank=4)
    values = np.linalg.svd(change.astype(np.float64), compute_uv=False)
    limit = np.sqrt(np.sum(values[4:] ** 2) / np.sum(values**2))
    assert report.modules[0].residual == pytest.approx(limit, rel=1e-4)
    assert adapter.max_rank == 4


def test_only_the_modules_asked_for(base, tmp_path):
    names = [f"{Q}.weight", "model.layers.0.mlp.up_proj.weight", "model.norm.weight"]
    changes = {n: np.float32(0.5) for n in names}
    model = tuned(base, tmp_path / "tuned", changes)
    adapter, report = extract(base, model, rank=1, modules=["q_proj"])
    assert adapter.modules == (Q,)
    assert adapter.replacements == ()
    assert set(report.skipped) == set(names[1:])
    with pytest.raises(ParameterError, match="qq_proj"):
        extract(base, model, rank=1, modules=["q_proj", "qq_proj"])


def test_a_head_of_its_own_is_a_delta_of_the_head(base, tmp_path):
    assert base.decoder.tied
    table = np.array(base.tensors[f"{TABLE}.weight"], np.float32)
    change = low_rank(base, f"{TABLE}.weight", 2)
    model = tuned(
        base, tmp_path / "t", {"lm_head.weight": table + change}, tie_word_embeddings=False
    )
    adapter, _ = extract(base, model, rank=2)
    (head,) = adapter.deltas
    assert head.key == ("lm_head", "linear")
    np.testing.assert_allclose(head.b @ head.a, change, atol=2e-6)


FAMILIES = Path(__file__).parents[1] / "data/families"


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt2", "phi3"])
def test_every_family_gives_its_canonical_deltas(tmp_path, family):
    base = Base.open(FAMILIES / family)
    rng, changes, expected = np.random.default_rng(3), {}, {}
    for module, shape in base.decoder.modules().items():
        if module == "lm_head" and base.decoder.tied:
            continue
        parts = []
        for part in base.stored(module):
            left, right = (rng.standard_normal((n, 1)) for n in base.tensors[part.name].shape)
            changes[part.name] = (left * right.T / 8).astype(np.float32)
            parts.append(part.view(changes[part.name]))
        expected[module] = parts[0] if shape.experts is None else np.stack(parts)
    adapter, report = extract(base, tuned(base, tmp_path / "t", changes), rank=1)
    require_fit(adapter, base)
    assert report.residual < 1e-5
    assert {delta.module for delta in adapter.deltas} == set(expected)
    for delta in adapter.deltas:
        np.testing.assert_allclose(delta.b @ delta.a, expected[delta.module], atol=1e-5)


def test_unchanged_models_give_nothing(base):
    adapter, report = extract(base, Base.open(demo.base_path()), rank=2)
    assert adapter.parameters == 0
    assert report.modules == ()
    assert report.residual == 0


def test_other_models_and_broken_ones_are_refused(base, tmp_path):
    model = tuned(base, tmp_path / "eps", {}, rms_norm_eps=0.5)
    with pytest.raises(MismatchError, match="other settings"):
        extract(base, model, rank=2)
    model = tuned(base, tmp_path / "nan", {f"{Q}.weight": np.float32(np.nan)})
    with pytest.raises(AdapterError, match="NaN"):
        extract(base, model, rank=2)
