"""Folders made of GGUF files beside llama.cpp on the files themselves: token ids and logits."""

import numpy as np
import pytest

import lorakit
from folders import DATA
from gguf_files import changed, sentencepiece
from lorakit import LlamaOptions
from lorakit.base.gguf import open_base
from lorakit.engines.llama.quantize import quantize
from lorakit.engines.llama.tokenizer import LlamaTokenizer
from lorakit.errors import UnsupportedError
from lorakit.files.gguf import Value, open_gguf
from lorakit.merge import merge
from lorakit.merge.gguf import splitting
from lorakit.merge.gguf.splitting import SPLITTINGS

BASE = DATA / "truth/gguf/llama.base.f32.gguf"
IDS = [1, *range(4, 504, 13)]


def proven(file, tmp_path):
    """The note on the comparison of ids."""
    report = merge(open_base(file), [], tmp_path / "out", tokenizer=LlamaTokenizer(file))
    return report.notes[-1]


def logits(path, **options):
    with lorakit.open(path, threads=1, **options) as model:
        return np.array(model.logits(IDS))


@pytest.mark.parametrize("name", sorted(SPLITTINGS))
def test_ids_are_llama_cpps_however_text_is_cut(name, tmp_path):
    file = changed(BASE, tmp_path / "base.gguf", {"tokenizer.ggml.pre": Value("str", name)})
    assert "all equal" in proven(file, tmp_path)


@pytest.mark.parametrize("prefix", [True, False])
def test_ids_of_a_sentencepiece_vocabulary_are_llama_cpps(prefix, tmp_path):
    values = {**sentencepiece(512), "tokenizer.ggml.add_space_prefix": Value("bool", prefix)}
    assert "all equal" in proven(changed(BASE, tmp_path / "base.gguf", values), tmp_path)


@pytest.mark.parametrize("wrong", ["default", "smollm"])
def test_a_wrong_way_to_cut_text_is_found(wrong, tmp_path, monkeypatch):
    """Digits that stay together have merges in this vocabulary."""
    merges = Value("str", ("1 9", "19 8", "198 4", "\u0120 a", ". \u0120a"), array=True)
    tokens = list(_tokens())
    for at, new in enumerate(("19", "198", "1984", ".\u0120a"), len(tokens) - 4):
        tokens[at] = new
    values = {
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.tokens": Value("str", tuple(tokens), array=True),
        "tokenizer.ggml.token_type": Value("i32", [3] * 4 + [1] * 508, array=True),
    }
    file = changed(BASE, tmp_path / "base.gguf", values)
    monkeypatch.setitem(splitting.SPLITTINGS, "gpt-2", SPLITTINGS[wrong])
    with pytest.raises(UnsupportedError, match="ids of the file's own"):
        proven(file, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["base.gguf"]


def _tokens():
    return open_gguf(BASE, model=True, vocabulary=True).values["tokenizer.ggml.tokens"].data


@pytest.mark.parametrize("kind", ["Q4_0", "Q5_1", "IQ4_NL"])
def test_logits_are_llama_cpps_of_the_quantised_file(kind, tmp_path):
    """llama.cpp also rounds activations to 8 bits: far less than what 4 or 5 bits changed."""
    quantize(BASE, tmp_path / "q.gguf", type=kind, threads=1)
    merge(open_base(tmp_path / "q.gguf"), [], tmp_path / "out")
    folder = logits(tmp_path / "out")
    theirs = logits(tmp_path / "q.gguf", llama=LlamaOptions(kv_type="f32"))
    lost = _rms(folder - logits(DATA / "truth/bases/llama"))
    assert _rms(folder - theirs) < 0.2 * lost


def _rms(array):
    return float(np.sqrt(np.mean(np.square(array))))
