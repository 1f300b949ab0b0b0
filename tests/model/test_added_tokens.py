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
from lorakit.base.gguf import open_base
from lorakit.base.grown import rows_of
from lorakit.check import check
from lorakit.errors import FormatError, MismatchError, UnsupportedError
from lorakit.formats import read_adapter
from lorakit.formats.brought import check_brought
from lorakit.formats.convert import convert
from lorakit.merge import merge
from lorakit.merge.brought import brought_by
from lorakit.model import load as loading

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
    monkeypatch.setattr("lorakit.base.grown.rows_of", lambda _, decoder: decoder.vocabulary)
    assert any(each.severity == "error" for each in check(adapter, base))
    with pytest.raises(MismatchError, match=r"\[514, 64\]"):
        merge(base, [(adapter, 1.0)], tmp_path / "out")
    with pytest.raises(MismatchError, match="resized by 2 in training"):
        lorakit.open(GEMMA, adapter=ADDED / "tt", threads=1)


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


def test_an_adapter_of_a_url_grows_the_base_too(web):
    url = web.put_folder("/tt", ADDED / "tt")
    with lorakit.open(GEMMA, adapter=url, threads=1) as model:
        assert worst(model, "tt") < 1e-4
        assert model.tokenizer.encode("<|json|>", special=False) == [512]


@pytest.mark.parametrize("mode", ["dynamic", "merge"])
def test_it_is_read_once(mode, monkeypatch):
    read, names = loading.read_adapter, []

    def counted(path, *args, **options):
        names.append(path.name)
        return read(path, *args, **options)

    monkeypatch.setattr(loading, "read_adapter", counted)
    config = AdapterConfig(ADDED / "tt", mode=mode)
    with lorakit.open(GEMMA, adapter=[config], threads=1, context=64):
        assert names == ["tt"]


def test_two_of_one_size_share_the_grown_base():
    both = [ADDED / "ms_embed", AdapterConfig(ADDED / "tt", scale=0)]
    with lorakit.open(GEMMA, adapter=both, threads=1) as model:
        assert worst(model, "ms_embed") < 1e-4
        model.apply({"tt": 1.0})
        assert worst(model, "tt") < 1e-4


def test_two_sizes_need_a_model_each():
    with pytest.raises(MismatchError, match="no other adapter has another size"):
        lorakit.open(GEMMA, adapter=[ADDED / "tt", resized_to(520)], threads=1)
    with pytest.raises(MismatchError, match=r"\[520, 64\], found \[514, 64\]"):
        lorakit.open(GEMMA, adapter=[resized_to(520), ADDED / "tt"], threads=1)


def resized_to(rows):
    return whole(Base.open(GEMMA), rows, ["model.embed_tokens"])


def test_after_the_base_is_open_it_is_too_late_and_said_so():
    with lorakit.open(GEMMA, threads=1, context=64) as model:
        with pytest.raises(MismatchError) as caught:
            model.load_adapter(ADDED / "tt")
        assert "lorakit.open" in caught.value.hint
        assert model.adapters == ()
    with lorakit.open(GEMMA, adapter=ADDED / "ms_embed", threads=1, context=64) as model:
        assert model.load_adapter(ADDED / "tt").name == "tt"  # there is room for it now


@pytest.mark.parametrize("rows", [520, 576, 500])
def test_padded_and_trimmed_sizes(rows, tmp_path):
    """What pad_to_multiple_of, and a trimmed padding of the base, leave."""
    adapter = resized_to(rows)
    with lorakit.open(GEMMA, adapter=adapter, threads=1, context=64) as model:
        found = model.logits([1, 5, 9])
        assert found.shape == (3, rows)
    merge(Base.open(GEMMA), [(adapter, 1.0)], tmp_path / "out")
    with lorakit.open(tmp_path / "out", threads=1, context=64) as merged:
        np.testing.assert_allclose(found, merged.logits([1, 5, 9]), atol=1e-3)


@pytest.mark.parametrize("case", CASES)
def test_check_says_what_it_does_to_the_base(case):
    found = check(read_adapter(ADDED / case), Base.open(GEMMA))
    assert {mismatch.severity for mismatch in found} == {"warning"}
    assert any("resized by 2 in training" in str(mismatch) for mismatch in found)


def test_check_says_that_new_tokens_have_no_text(tmp_path):
    base, folder = Base.open(GEMMA), shutil.copytree(ADDED / "tt", tmp_path / "tt")
    assert not any("no text" in str(each) for each in check_brought(folder, base, GROWN))
    (folder / "tokenizer.json").unlink()
    assert any("no text" in str(each) for each in check_brought(folder, base, GROWN))


@pytest.mark.parametrize("to", ["mlx", "gguf", "ort", "web"])
def test_formats_without_a_place_for_it_are_refused_by_name(to, tmp_path):
    with pytest.raises(UnsupportedError, match=f"{to} cannot say .* 512 to 514 tokens") as caught:
        convert(ADDED / "tt", tmp_path / "out", to=to, base=Base.open(GEMMA))
    assert "lorakit merge" in caught.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", CASES)
def test_as_peft_it_is_written_with_its_tokenizer(case, tmp_path):
    report = convert(ADDED / case, tmp_path / "out", to="peft", base=Base.open(GEMMA))
    assert any("from 512 to 514 tokens" in note for note in report.notes)
    with lorakit.open(GEMMA, adapter=tmp_path / "out", threads=1) as model:
        assert worst(model, case) < 1e-4
        assert model.tokenizer.encode("<|json|>", special=False) == [512]


def test_a_gguf_base_grows_where_it_becomes_a_folder(tmp_path):
    file, adapter = open_base(DATA / "truth/gguf/gemma3.base.f32.gguf"), read_adapter(ADDED / "tt")
    (said,) = [each for each in check(adapter, file) if each.item == "vocabulary"]
    assert "where the adapter is merged" in said.advice
    files, _ = brought_by([ADDED / "tt"])
    merge(file, [(adapter, 1.0)], tmp_path / "out", brought=files)
    with lorakit.open(tmp_path / "out", threads=1) as model:
        assert worst(model, "tt") < 1e-4
        assert model.tokenizer.encode("<|json|>", special=False) == [512]


def test_half_of_a_save_is_refused_though_the_base_would_grow(tmp_path):
    from safetensors.numpy import load_file, save_file

    folder = shutil.copytree(ADDED / "tt", tmp_path / "tt")
    file = folder / "adapter_model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if "layers.5." not in k}, file)
    with pytest.raises(FormatError, match="incomplete save"):
        lorakit.open(GEMMA, adapter=folder, threads=1)
    with lorakit.open(GEMMA, adapter=AdapterConfig(folder, partial=True), threads=1) as model:
        assert model.capabilities.vocabulary == GROWN
