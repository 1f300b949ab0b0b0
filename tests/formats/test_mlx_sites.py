"""Embeddings, heads, experts and replaced rows in MLX's files: what mlx-lm recorded, and mlx-lm
itself where it is. The recorded adapters are made by tests/data/recorded/record_mlx.py.
"""

from dataclasses import replace

import numpy as np
import pytest

import lorakit
from folders import DATA
from lorakit.adapter import Adapter, Delta, Magnitude, Replacement, Site
from lorakit.base.folder import Base
from lorakit.errors import UnsupportedError
from lorakit.formats import FORMATS, expressible, read_adapter
from lorakit.formats.convert import convert
from lorakit.formats.mlx import read_mlx, write_mlx
from lorakit.formats.peft import write_peft
from lorakit.formats.replaced_rows import rows_as_deltas

RECORDED, TRUTH = DATA / "recorded", DATA / "truth"
FOLDERS = sorted(path.parent for path in RECORDED.glob("mlx/*/*/adapter_config.json"))
TABLE, HEAD = "model.embed_tokens", "lm_head"


def named(path):
    return "/".join(path.parts[-2:])


def base_at(name):
    root = RECORDED if name == "qwen3_moe" else TRUTH
    return Base.open(root / "bases" / name)


@pytest.mark.parametrize("path", FOLDERS, ids=named)
def test_it_comes_back_from_what_we_write(path, tmp_path):
    decoder = base_at(path.parent.name).decoder
    adapter = read_mlx(path, decoder)
    write_mlx(adapter, tmp_path / "a", decoder=decoder)
    assert read_mlx(tmp_path / "a", decoder) == adapter


@pytest.mark.parametrize("name", ["gemma3/tied_embedding", "llama/untied_embedding"])
def test_the_onnx_engine_gives_mlx_logits(name):
    base, recorded = name.split("/")[0], np.load(RECORDED / "mlx" / name / "logits.npz")
    with lorakit.open(TRUTH / "bases" / base, threads=1) as model:
        model.load_adapter(RECORDED / "mlx" / name, "a")
        found = model.logits(recorded["ids"].tolist(), adapters={"a": 1.0})
    np.testing.assert_allclose(found[::4], recorded["scale1"], atol=3e-4)


def test_the_base_decides_where_an_embedding_acts(tmp_path):
    tied, untied = (RECORDED / "mlx" / name for name in
                    ("gemma3/tied_embedding", "llama/untied_embedding_dora"))  # fmt: skip
    for path in (tied, untied):
        with pytest.raises(UnsupportedError, match="base"):
            read_adapter(path)
    sites = {d.module: d.site for d in read_adapter(tied, base_at("gemma3").decoder).deltas}
    assert sites[TABLE] is Site.BOTH
    sites = {d.module: d.site for d in read_adapter(untied, base_at("llama").decoder).deltas}
    assert sites[TABLE] is Site.INPUT
    headed = read_adapter(RECORDED / "mlx/llama/untied_embedding")  # its head says it
    assert {d.module: d.site for d in headed.deltas}[TABLE] is Site.INPUT


@pytest.mark.parametrize(("base", "uses"), [("gemma3", "both"), ("llama", "input")])
def test_dora_of_an_embedding_is_by_rows_in_mlx_and_by_columns_in_peft(base, uses, tmp_path):
    folder = {"gemma3": "tied_embedding_dora", "llama": "untied_embedding_dora"}[base]
    decoder = base_at(base).decoder
    adapter = read_adapter(RECORDED / "mlx" / base / folder, decoder)
    (magnitude,) = adapter.magnitudes
    assert magnitude.value.shape == (decoder.vocabulary,)
    assert "for each token" in str(expressible(adapter, decoder)["peft"])
    by_column = replace(
        adapter,
        deltas=tuple(replace(d, site=Site.INPUT) for d in adapter.deltas),
        magnitudes=(Magnitude(module=TABLE, value=np.ones(decoder.hidden, "f4")),),
    )
    assert expressible(by_column, decoder)["peft"] == ()
    assert "for each feature" in str(expressible(by_column, decoder)["mlx"])
    write_peft(by_column, tmp_path / "a")
    assert read_adapter(tmp_path / "a") == by_column


def test_a_square_embedding_with_dora_is_ambiguous_and_refused(tmp_path):
    ones = np.ones((1, 4), "f4")
    adapter = Adapter(
        deltas=(Delta(module=TABLE, a=ones, b=ones.T, scale=1.0, site=Site.INPUT),),
        magnitudes=(Magnitude(module=TABLE, value=ones[0]),),
    )
    for write in (write_mlx, write_peft):
        with pytest.raises(UnsupportedError, match="square"):
            write(adapter, tmp_path / "a", decoder=base_at("llama").decoder)


def delta(module, site=Site.LINEAR, n_in=8, n_out=6):
    return Delta(
        module=module, a=np.ones((1, n_in), "f4"), b=np.ones((n_out, 1), "f4"), scale=1, site=site
    )


@pytest.mark.parametrize(
    ("base", "deltas", "said"),
    [
        ("gemma3", [delta(TABLE, Site.INPUT)], "both uses"),
        ("gemma3", [delta(HEAD)], "tied"),
        ("llama", [delta(TABLE, Site.BOTH)], "lookup alone"),
        (None, [delta(TABLE, Site.BOTH)], "depends on the base"),
        (None, [delta("model.layers.0.mlp.switch_mlp.up_proj")], "another module"),
    ],
)
def test_what_mlx_cannot_say_of_embeddings_is_refused(base, deltas, said, tmp_path):
    decoder = base_at(base).decoder if base else None
    with pytest.raises(UnsupportedError, match=said):
        write_mlx(Adapter(deltas=tuple(deltas)), tmp_path / "a", decoder=decoder)


@pytest.mark.parametrize("name", ["gemma3", "llama"])
def test_replaced_rows_become_a_delta_that_gives_the_same_logits(name, tmp_path):
    base, rng = base_at(name), np.random.default_rng(4)
    rows = Replacement(
        name=f"{TABLE}.weight",
        value=rng.normal(size=(3, base.decoder.hidden)).astype("f4"),
        rows=np.array([4, 9, 77]),
    )
    linear = next(d for d in read_adapter(TRUTH / "peft" / name / "plain").deltas)
    write_peft(Adapter(deltas=(linear,), replacements=(rows,)), tmp_path / "rows")
    with pytest.raises(UnsupportedError, match="rows"):
        convert(tmp_path / "rows", tmp_path / "out", to="mlx")
    report = convert(tmp_path / "rows", tmp_path / "out", to="mlx", base=base)
    assert report.dropped == ()
    assert "rank 3" in report.notes[0]
    table = {d.module: d for d in read_adapter(tmp_path / "out", base.decoder).deltas}[TABLE]
    assert table.site is (Site.BOTH if base.decoder.tied else Site.INPUT)
    weight = base.tensors[f"{TABLE}.weight"].astype("f4")
    changed = weight + table.scale * (table.b @ table.a).T
    expected = weight.copy()
    expected[rows.rows] = rows.value
    np.testing.assert_allclose(changed, expected, atol=1e-6)


def test_rows_that_cannot_become_a_delta_stay_rows():
    base = base_at("llama")
    value = np.ones((1, base.decoder.hidden), "f4")

    def row(index, name=TABLE, **more):
        return Replacement(name=f"{name}.weight", value=value, rows=np.array([index]), **more)

    for adapter in (
        Adapter(replacements=(row(10**6),)),
        Adapter(replacements=(row(1, "model.nothing"),)),
        Adapter(replacements=(row(1),), deltas=(delta(TABLE, Site.INPUT),)),
        Adapter(replacements=(row(1, site=Site.INPUT),)),
    ):
        assert rows_as_deltas(adapter, base) == (adapter, ())
    changed, notes = rows_as_deltas(Adapter(replacements=(row(5, HEAD),)), base)
    (head,) = changed.deltas
    assert head.module == HEAD
    assert len(notes) == 1
    for form in ("gguf", "mlx"):
        prepared, said = FORMATS[form].prepare(Adapter(replacements=(row(5, HEAD),)), base)
        assert [d.module for d in prepared.deltas] == [HEAD]
        assert not prepared.replacements
        assert said == notes


@pytest.mark.parametrize("path", FOLDERS, ids=named)
def test_mlx_lm_loads_what_we_write_and_gives_its_logits(path, tmp_path):
    mx = pytest.importorskip("mlx.core", reason="needs mlx")
    utils = pytest.importorskip("mlx_lm.utils", reason="needs mlx-lm")
    tuner = pytest.importorskip("mlx_lm.tuner.utils", reason="needs mlx-lm")
    base = base_at(path.parent.name)
    write_mlx(read_mlx(path, base.decoder), tmp_path / "a", decoder=base.decoder)
    more = {"num_experts": 4, "rope_theta": 10000.0} if path.parent.name == "qwen3_moe" else {}
    model, _ = utils.load_model(base.path, model_config=more)
    tuner.load_adapters(model, str(tmp_path / "a"))
    model.eval()
    recorded = np.load(path / "logits.npz")
    found = np.array(model(mx.array(recorded["ids"])[None])[0].astype(mx.float32))
    np.testing.assert_allclose(found[::4], recorded["scale1"], atol=1e-4)


@pytest.mark.parametrize(
    "name", ["gemma3/embed_tied", "llama/embed_lmhead", "llama/trainable_tokens"]
)
def test_mlx_lm_gives_pefts_logits_of_embeddings(name, tmp_path):
    mx = pytest.importorskip("mlx.core", reason="needs mlx")
    utils = pytest.importorskip("mlx_lm.utils", reason="needs mlx-lm")
    tuner = pytest.importorskip("mlx_lm.tuner.utils", reason="needs mlx-lm")
    base = base_at(name.split("/")[0])
    convert(TRUTH / "peft" / name, tmp_path / "a", to="mlx", base=base)
    model, _ = utils.load_model(base.path)
    tuner.load_adapters(model, str(tmp_path / "a"))
    model.eval()
    truth = np.load(TRUTH / "peft" / name / "logits.npz")
    ids = np.load(TRUTH / "bases" / name.split("/")[0] / "base_logits.npz")["ids1"]
    found = np.array(model(mx.array(ids)[None])[0].astype(mx.float32))
    np.testing.assert_allclose(found, truth["scale1_1"], atol=5e-4)


def test_experts_of_mlx_are_those_of_peft(tmp_path):
    decoder = base_at("qwen3_moe").decoder
    adapter = read_adapter(RECORDED / "peft/qwen3_moe/experts", decoder)
    write_mlx(adapter, tmp_path / "mlx", decoder=decoder)
    for d in read_adapter(tmp_path / "mlx", decoder).deltas:
        (same,) = [other for other in adapter.deltas if other.module == d.module]
        expected = same.scale * (same.b @ same.a)
        np.testing.assert_allclose(d.scale * (d.b @ d.a), expected, atol=1e-6)
