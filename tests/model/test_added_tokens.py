"""Adapters with added tokens, as PEFT saves them after the vocabulary was resized in memory.

data/added was written by peft 0.21.2 on the truth's tied gemma3, with its logits: ms_embed
saves the embedding (modules_to_save), tt trains two tokens (trainable_token_indices).
"""

import json
import shutil

import numpy as np
import pytest

import lorakit
from folders import DATA
from lorakit import AdapterConfig
from lorakit.adapter import Adapter, Replacement
from lorakit.base.folder import Base
from lorakit.check import check
from lorakit.errors import MismatchError
from lorakit.formats import read_adapter
from lorakit.merge import merge
from lorakit.merge.brought import brought_by
from lorakit.base.grown import rows_of

GEMMA, LLAMA = DATA / "truth/bases/gemma3", DATA / "truth/bases/llama"
ADDED = DATA / "added/gemma3"
CASES = ["ms_embed", "tt"]
GROWN = 514


def truth(case):
    with np.load(ADDED / case / "logits.npz") as file:
        return [(file[f"ids{n}"].tolist(), file[f"scale1_{n}"]) for n in range(3)]


def worst(model, case):
    return max(float(np.abs(model.logits(ids) - right).max()) for ids, right in truth(case))


@pytest.mark.parametrize("mode", ["dynamic", "merge"])
@pytest.mark.parametrize("case", CASES)
def test_it_runs_with_pefts_logits_and_its_own_tokenizer(case, mode):
    with lorakit.open(GEMMA, adapter=AdapterConfig(ADDED / case, mode=mode), threads=1) as model:
        assert worst(model, case) < 1e-4
        tokens = json.loads((ADDED / case / "tokenizer.json").read_text())["added_tokens"]
        new = [each for each in tokens if each["id"] >= 512]
        assert new
        for each in new:
            assert model.tokenizer.encode(each["content"], special=False) == [each["id"]]
        if mode == "dynamic":
            assert any("grew from 512 to 514" in warning.message for warning in model.warnings)
            ids, right = truth(case)[0]
            assert model.logits(ids, adapters={}).shape == right.shape
            assert not np.allclose(model.logits(ids, adapters={}), right, atol=1e-2)


@pytest.mark.parametrize("case", CASES)
def test_the_torch_engine_gives_them_too(case):
    pytest.importorskip("torch", reason="the torch engine needs lorakit[torch]")
    with lorakit.open(GEMMA, adapter=ADDED / case, engine="torch", threads=1) as model:
        assert worst(model, case) < 1e-4


@pytest.mark.parametrize("case", CASES)
def test_a_merge_grows_the_base_and_takes_the_adapters_tokenizer(case, tmp_path):
    files, note = brought_by([ADDED / case])
    assert note == ""
    adapter, base = read_adapter(ADDED / case), Base.open(GEMMA)
    report = merge(base, [(adapter, 1.0)], tmp_path / "out", brought=files)
    assert any("grew to 514" in note for note in report.notes)
    assert any("the adapter's own" in note and "tokenizer.json" in note for note in report.notes)
    assert (tmp_path / "out/tokenizer.json").read_bytes() == (
        ADDED / case / "tokenizer.json"
    ).read_bytes()
    out = Base.open(tmp_path / "out")
    assert out.config["vocab_size"] == out.decoder.vocabulary == GROWN
    with lorakit.open(tmp_path / "out", threads=1) as model:
        assert worst(model, case) < 1e-4


def test_without_growing_it_does_not_fit(tmp_path, monkeypatch):
    """The broken variant: a base of its own size, and what is said of it."""
    adapter, base = read_adapter(ADDED / "tt"), Base.open(GEMMA)
    assert any("resized by 2 in training" in str(found) for found in check(adapter, base))
    monkeypatch.setattr("lorakit.base.grown.rows_of", lambda _, decoder: decoder.vocabulary)
    with pytest.raises(MismatchError, match=r"\[514, 64\]"):
        merge(base, [(adapter, 1.0)], tmp_path / "out")
    with lorakit.open(GEMMA, threads=1) as model, pytest.raises(MismatchError, match="resized"):
        model.load_adapter(ADDED / "tt", "late")


def whole(base, rows, names=("model.embed_tokens", "lm_head")):
    rng = np.random.default_rng(0)
    shape = (rows, base.decoder.hidden)
    return Adapter(
        replacements=tuple(
            Replacement(name=f"{name}.weight", value=rng.standard_normal(shape, np.float32))
            for name in names
        )
    )


def test_an_untied_base_grows_in_both_its_tensors(tmp_path):
    base = Base.open(LLAMA)
    assert not base.decoder.tied
    adapter = whole(base, 520)
    merge(base, [(adapter, 1.0)], tmp_path / "out")
    out = Base.open(tmp_path / "out")
    for replacement in adapter.replacements:
        np.testing.assert_array_equal(
            out.tensor(replacement.name),
            replacement.value.astype(out.tensor(replacement.name).dtype),
        )


@pytest.mark.parametrize("names", [("model.embed_tokens",), ("lm_head",)])
def test_half_of_a_resized_vocabulary_is_refused(names, tmp_path):
    base = Base.open(LLAMA)
    adapter = whole(base, 520, names)
    assert rows_of([(adapter, 1.0)], base.decoder) == 512
    with pytest.raises(MismatchError, match="resized"):
        merge(base, [(adapter, 1.0)], tmp_path / "out")


def test_fewer_rows_cut_the_base_off(tmp_path):
    """As `resize_token_embeddings(len(tokenizer))` does where a base's rows are padded."""
    base = Base.open(LLAMA)
    report = merge(base, [(whole(base, 500), 1.0)], tmp_path / "out")
    assert any("shrank to 500 tokens" in note for note in report.notes)
    out = Base.open(tmp_path / "out")
    assert out.tensor("lm_head.weight").shape[0] == out.config["vocab_size"] == 500
    (found,) = [m for m in check(whole(base, 500), base) if m.item == "vocabulary"]
    assert "resized by -12" in str(found)
    with lorakit.open(LLAMA, adapter=whole(base, 500), threads=1) as model:
        assert any("shrank from 512 to 500" in warning.message for warning in model.warnings)
        with lorakit.open(tmp_path / "out", threads=1) as merged:
            ids = [1, 5, 499]
            np.testing.assert_allclose(model.logits(ids), merged.logits(ids), atol=1e-4)


def test_the_bases_own_special_tokens_keep_their_rows(tmp_path):
    folder = shutil.copytree(LLAMA, tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": 505}))
    base = Base.open(folder)
    with pytest.raises(MismatchError, match="12 rows fewer"):
        merge(base, [(whole(base, 500), 1.0)], tmp_path / "out")


def test_copies_that_differ_are_not_taken_for_one(tmp_path):
    from safetensors.numpy import load_file, save_file

    folder = shutil.copytree(ADDED / "ms_embed", tmp_path / "a")
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors["base_model.model.model.embed_tokens.weight"] += 1
    save_file(tensors, file)
    with pytest.raises(lorakit.FormatError, match="a second tensor"):
        read_adapter(folder)


def test_adapters_that_bring_different_tokenizers_leave_the_bases(tmp_path):
    other = shutil.copytree(ADDED / "tt", tmp_path / "other")
    assert brought_by([ADDED / "tt", other])[0] == brought_by([other])[0]
    (other / "chat_template.jinja").write_text("{{ messages }}")
    files, note = brought_by([ADDED / "tt", other])
    assert files == ()
    assert "different tokenizers" in note


def test_a_template_alone_comes_along(tmp_path):
    base, folder = Base.open(LLAMA), tmp_path / "adapter"
    shutil.copytree(DATA / "truth/peft/llama/plain", folder)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    files, _ = brought_by([folder])
    adapter = read_adapter(folder)
    report = merge(base, [(adapter, 1.0)], tmp_path / "out", brought=files)
    assert (tmp_path / "out/chat_template.jinja").read_text() == "{{ messages }}"
    assert any("chat_template.jinja" in note for note in report.notes)
