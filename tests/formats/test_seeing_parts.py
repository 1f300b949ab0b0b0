"""Adapters that were trained on a model that also sees, beside a base of text: what is for the
pictures is left out and said, what is for text acts, and nothing else is left out."""

import json
import logging

import numpy as np
import pytest
from adapter_files import BASE, LLAMA, MODULES, peft

import lorakit
from commands import invoke
from lorakit.architectures import is_seeing, seeing_in_files
from lorakit.check import check, for_text
from lorakit.errors import FormatError, MismatchError, UnsupportedError
from lorakit.exporting.export import export
from lorakit.formats import read_adapter
from lorakit.formats.convert import convert
from lorakit.formats.names import is_canonical
from lorakit.merge import merge

TEXT = [f"model.language_model.{m.removeprefix('model.')}" for m in MODULES]
TOWERS = {  # what they call a layer's query and value in their towers
    "Gemma 3": "model.vision_tower.encoder.layers.{n}.self_attn.{p}_proj",
    "Gemma 3, transformers 4.50": "vision_tower.vision_model.encoder.layers.{n}.self_attn.{p}_proj",
    "Llava": "model.vision_tower.vision_model.encoder.layers.{n}.self_attn.{p}_proj",
    "Qwen 2.5 VL": "model.visual.blocks.{n}.attn.{p}_proj",
    "Qwen 2 VL": "visual.blocks.{n}.attn.{p}_proj",
    "Mllama": "vision_model.transformer.layers.{n}.self_attn.{p}_proj",
    "Gemma 3n": "model.audio_tower.conformer.{n}.attention.attn.{p}_proj",
    "SmolVLM": "model.connector.modality_projection.{n}.{p}_proj",
    "Phi 3 V": "model.vision_embed_tokens.img_processor.layers.{n}.{p}_proj",
    "a projector": "model.multi_modal_projector.linear_{n}.{p}_proj",
}


def tower(kind):
    return [TOWERS[kind].format(n=n, p=p) for n in (0, 1) for p in "qv"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return read_adapter(peft(tmp_path_factory.mktemp("plain") / "a", modules=TEXT), BASE.decoder)


@pytest.mark.parametrize("kind", TOWERS)
def test_text_acts_and_the_rest_is_counted_and_named(tmp_path, plain, kind):
    path = peft(tmp_path / "a", modules=[*TEXT, *tower(kind)])
    adapter = read_adapter(path, BASE.decoder)
    assert len(adapter.deltas) == 12  # whole, as it is in the file
    text = for_text(adapter)
    assert text == plain
    (note,) = text.reading.notes
    assert note.startswith("4 parts for what sees are left out")
    assert TOWERS[kind].format(n="N", p="q").replace("linear_N", "linear_0") in note
    found = check(adapter, BASE)
    assert [m.severity for m in found] == ["warning"]
    assert "4 parts" in found[0].found
    with lorakit.open(LLAMA, adapter=str(path), threads=1) as model:
        (warning,) = model.warnings
        assert (warning.code, note) == ("adapter_read", warning.message)
        assert [i.name for i in model.adapters] == ["a"]


def test_a_load_logs_it(tmp_path, plain, caplog):
    path = peft(tmp_path / "a", modules=[*TEXT, *tower("Gemma 3")])
    ids = np.load(LLAMA / "base_logits.npz")["ids0"].tolist()
    with lorakit.open(LLAMA, threads=1) as model, caplog.at_level(logging.WARNING, "lorakit"):
        handle = model.load_adapter(str(path), "seen")
        assert "4 parts for what sees" in caplog.text
        assert handle.adapter == plain
        model.load_adapter(plain, "plain")
        seen, own, base = (model.logits(ids, adapters=a)
                           for a in ({"seen": 1.0}, {"plain": 1.0}, {}))  # fmt: skip
        assert np.array_equal(seen, own)
        assert np.abs(own - base).max() > 1e-2


@pytest.mark.parametrize("kind", TOWERS)
def test_one_that_is_for_pictures_alone_is_refused(tmp_path, kind):
    path = peft(tmp_path / "a", modules=tower(kind))
    adapter = read_adapter(path, BASE.decoder)
    assert for_text(adapter) is adapter
    (found,) = (m for m in check(adapter, BASE) if m.severity == "error")
    assert "part that sees" in found.advice
    with (
        lorakit.open(LLAMA, threads=1) as model,
        pytest.raises(MismatchError, match="part that sees"),
    ):
        model.load_adapter(str(path))


@pytest.mark.parametrize(
    "module",
    [
        "model.draft.layers.0.self_attn.q_proj",
        "model.layers.9.self_attn.q_proj",
        "model.layers.0.visual.q_proj",
        "model.vision.layers.0.q_proj",
    ],
)
def test_nothing_else_is_left_out(tmp_path, module):
    path = peft(tmp_path / "a", modules=[*TEXT, *tower("Gemma 3"), module])
    found = [m.item for m in check(read_adapter(path, BASE.decoder), BASE) if m.severity == "error"]
    assert found == [module]
    with (
        lorakit.open(LLAMA, threads=1) as model,
        pytest.raises(MismatchError, match=module),
    ):
        model.load_adapter(str(path))


def test_what_is_missing_of_the_text_is_still_missed(tmp_path):
    path = peft(tmp_path / "a", modules=[*TEXT[:-2], *tower("Gemma 3")])
    with pytest.raises(FormatError, match="incomplete save"):
        read_adapter(path, BASE.decoder)


def test_a_projector_that_was_trained_whole_is_left_out_too(tmp_path, plain):
    """Its matrix is a bare parameter, which is called neither weight nor bias."""
    at = "base_model.model.model.multi_modal_projector."
    whole = {
        f"{at}mm_input_projection_weight": np.ones((8, 64), np.float32),
        f"{at}mm_soft_emb_norm.weight": np.ones(8, np.float32),
    }
    path = peft(tmp_path / "a", whole, modules=TEXT, modules_to_save=["multi_modal_projector"])
    text = for_text(read_adapter(path, BASE.decoder))
    assert text == plain
    assert "mm_input_projection_weight" in text.reading.notes[0]
    path = peft(tmp_path / "b", whole, modules=TEXT)
    with pytest.raises(FormatError, match="modules_to_save"):
        read_adapter(path)


def test_a_merge_into_text_says_it_and_one_of_the_library_refuses(tmp_path, plain):
    path = peft(tmp_path / "a", modules=[*TEXT, *tower("Gemma 3")])
    done = invoke("merge", LLAMA, "-a", path, "-o", tmp_path / "out")
    assert done.code == 0
    assert "4 parts for what sees" in done.stdout + done.stderr
    merge(BASE, [(plain, 1.0)], tmp_path / "same")
    same, out = (tmp_path / at / "model.safetensors" for at in ("same", "out"))
    assert same.read_bytes() == out.read_bytes()
    with pytest.raises(MismatchError, match="vision_tower"):
        merge(BASE, [(read_adapter(path, BASE.decoder), 1.0)], tmp_path / "no")


def test_an_export_of_text_says_it(tmp_path):
    path = peft(tmp_path / "a", modules=[*TEXT, *tower("Gemma 3")])
    result = export(LLAMA, tmp_path / "out", adapter=str(path), to="safetensors", prove_it=False)
    assert any("4 parts for what sees" in note for note in result.notes)


def test_merged_when_it_is_opened_it_warns(tmp_path):
    path = peft(tmp_path / "a", modules=[*TEXT, *tower("Gemma 3")])
    config = lorakit.AdapterConfig(str(path), mode="merge")
    with lorakit.open(LLAMA, adapter=config, threads=1) as model:
        assert any("4 parts for what sees" in w.message for w in model.warnings)


def test_another_format_leaves_it_out_where_it_is_told_to(tmp_path, plain):
    path = peft(tmp_path / "a", modules=[*TEXT, *tower("Gemma 3")])
    with pytest.raises(MismatchError, match="vision_tower"):
        convert(path, tmp_path / "b", to="mlx", base=BASE)
    report = convert(path, tmp_path / "b", to="mlx", base=BASE, lossy=True)
    assert len(report.dropped) == 4
    assert read_adapter(tmp_path / "b") == plain
    with pytest.raises(UnsupportedError, match="not named as in a model of text"):
        convert(peft(tmp_path / "c", modules=tower("Qwen 2 VL")), tmp_path / "d", to="mlx")


def test_check_says_it(tmp_path):
    path = peft(tmp_path / "a", modules=[*TEXT, *tower("Gemma 3")])
    done = invoke("check", path, "-b", LLAMA, "--json")
    assert done.code == 0
    said = json.loads(done.stdout)
    assert said["fits"]
    assert [m["item"] for m in said["mismatches"]] == ["what sees"]
    assert said["engines"]["onnx"] == []


def test_names_of_what_sees():
    for kind in TOWERS:
        assert all(is_seeing(name) and not is_canonical(name) for name in tower(kind))
    for name in (*MODULES, "model.layers.0.visual.x", "lm_head", "blk.0.attn_q", "visuals.x"):
        assert not is_seeing(name), name
    held = ["vision_tower.vision_model.encoder.x.weight", "multi_modal_projector.m"]
    for name in ("model.vision_tower.encoder.x.weight", held[0], f"model.{held[0]}"):
        assert seeing_in_files(name, held) == held[0]
    assert seeing_in_files("model.multi_modal_projector.m", held) == held[1]
    assert seeing_in_files("model.vision_tower.encoder.y.weight", held) is None
