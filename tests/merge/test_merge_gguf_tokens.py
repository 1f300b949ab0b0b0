"""Tokens that an adapter brings into a GGUF file: their text, their types, and PEFT's logits."""

import json

import numpy as np
import pytest

import lorakit
from folders import DATA
from llama_library import need_llama
from lorakit.base.gguf import open_gguf_base
from lorakit.errors import FormatError, UnsupportedError
from lorakit.files.gguf import open_gguf
from lorakit.formats import read_adapter
from lorakit.merge.brought import brought_by
from lorakit.merge.cached import MergedAdapter, merge_notes, merged_base
from lorakit.merge.gguf.tokens import own_text

need_llama()

FILE = DATA / "truth/gguf/gemma3.base.f32.gguf"


def merged(folder, brought=()):
    """The base with the adapter of a folder in it, and what there is to say of it."""
    base = open_gguf_base(FILE)
    adapter = read_adapter(folder, base.decoder)
    said = MergedAdapter(name="x", source="x", scale=1.0, digest=adapter.digest)
    pairs = [(adapter, said)]
    return merged_base(base, pairs, brought=brought), merge_notes(base, pairs, brought)


class TestAddedTokens:
    """An adapter that brings two tokens of its own, with its tokenizer."""

    FOLDER = DATA / "added/gemma3/ms_embed"

    def test_they_are_in_the_file_and_have_pefts_logits(self, cache):
        brought, _ = brought_by([self.FOLDER])
        base, notes = merged(self.FOLDER, brought)
        assert any("grew from 512 to 514 tokens" in note for note in notes)
        assert base.decoder.vocabulary == 514
        with (
            np.load(self.FOLDER / "logits.npz") as known,
            lorakit.open(base.path, threads=1) as model,
        ):
            assert model.encode("<|json|>a<|/json|>")[-1] == 513
            assert 512 in model.encode("<|json|>a<|/json|>")
            for n in range(3):
                found = model.logits(known[f"ids{n}"].tolist())
                np.testing.assert_allclose(found, known[f"scale1_{n}"], rtol=0, atol=4e-3)

    def test_without_a_tokenizer_they_have_no_text(self, cache):
        base, notes = merged(self.FOLDER)
        assert any("have ids, and no text" in note for note in notes)
        with lorakit.open(base.path, threads=1) as model:
            assert 512 not in model.encode("<|json|>a<|/json|>")


def brought(added, **config):
    tokens = [{"id": n, "content": text, "special": special} for n, text, special in added]
    return (
        ("tokenizer.json", json.dumps({"added_tokens": tokens}).encode()),
        ("tokenizer_config.json", json.dumps(config).encode()),
    )


class TestOwnText:
    @pytest.fixture
    def file(self):
        return open_gguf(FILE, model=True, vocabulary=True)

    def test_nothing_brought_changes_nothing(self, file):
        assert own_text(file, (), 512) == ({}, ())

    def test_tokens_a_template_and_the_end_of_a_reply(self, file):
        files = brought(
            [(512, "<|im_end|>", True), (514, "<think>", False)],
            eos_token={"content": "<|im_end|>"},
            chat_template="{{ 1 }}",
        )
        values, notes = own_text(file, files, 515)
        assert values["tokenizer.ggml.tokens"].data[512:] == ("<|im_end|>", "[PAD513]", "<think>")
        assert values["tokenizer.ggml.token_type"].data[512:].tolist() == [3, 5, 4]
        assert values["tokenizer.ggml.eos_token_id"].data == 512
        assert values["tokenizer.chat_template"].data == "{{ 1 }}"
        assert len(notes) == 2

    def test_tokens_that_are_called_otherwise_keep_the_files_name(self, file):
        values, (note,) = own_text(file, brought([(5, "other", False)]), 512)
        assert values == {}
        assert "1 tokens are called otherwise" in note

    def test_one_text_of_two_ids_is_refused(self, file):
        with pytest.raises(UnsupportedError, match="two ids"):
            own_text(file, brought([(512, "<bos>", True)]), 513)

    def test_fewer_rows_are_fewer_tokens(self, file):
        values, (note,) = own_text(file, (), 500)
        assert len(values["tokenizer.ggml.tokens"].data) == 500
        assert len(values["tokenizer.ggml.token_type"].data) == 500
        assert "shrank from 512 to 500" in note

    @pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
    def test_what_is_no_json_is_refused(self, file, name):
        with pytest.raises(FormatError, match=name):
            own_text(file, ((name, b"{"),), 512)

    @pytest.mark.parametrize(
        "content",
        [b"[]", b'{"added_tokens": 3}', b'{"added_tokens": [4, {"id": "5", "content": 6}]}',
         b'{"added_tokens": [{"id": true, "content": "a"}, {"id": -1, "content": "b"}]}'],
    )  # fmt: skip
    def test_what_says_no_tokens_changes_none(self, file, content):
        assert own_text(file, (("tokenizer.json", content),), 512) == ({}, ())
