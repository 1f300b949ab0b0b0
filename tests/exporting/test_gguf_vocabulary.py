"""What a GGUF file says of a base's tokenizer: names, tokens, roles; and what it cannot say.

Whether llama.cpp makes the same ids of it is in test_gguf_tokens.py.
"""

import json
import re

import numpy as np
import pytest

import tokenizer_cases as cases
from folders import DATA
from gguf_files import changed as changed_file
from lorakit.base.folder import Base
from lorakit.demo import base_path
from lorakit.errors import BaseModelError, FormatError, LorakitError, UnsupportedError
from lorakit.exporting.gguf.spaces import Spaces
from lorakit.exporting.gguf.vocabulary import gguf_vocabulary
from lorakit.files.gguf import open_gguf
from lorakit.merge import merge
from lorakit.merge.gguf.tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from lorakit.text.tokenizer import Tokenizer
from tokenizer_cases import CONTRACTION, FAMILIES, GPT2, LLAMA3, QWEN2, byte_level, changed, split

FILE = DATA / "truth/gguf/llama.base.f32.gguf"


def vocabulary(folder, rows=704):
    return gguf_vocabulary(Base.open(folder), rows)


def said(folder, rows=704):
    """The data of the keys, by what follows tokenizer.ggml."""
    keys = vocabulary(folder, rows).keys
    return {key.removeprefix("tokenizer.ggml."): value.data for key, value in keys.items()}


def refused(folder, match, rows=704):
    with pytest.raises(UnsupportedError, match=match) as raised:
        vocabulary(folder, rows)
    return str(raised.value)


@pytest.fixture(scope="module")
def byte_bpe(tmp_path_factory):
    return cases.byte_bpe(tmp_path_factory.mktemp("bpe") / "base", byte_level(use_regex=True))


@pytest.fixture
def copy(byte_bpe, tmp_path):
    """A folder to change."""
    return cases.base_folder(
        tmp_path / "base", json.loads((byte_bpe / "tokenizer.json").read_text("utf-8"))
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_the_way_text_is_cut_has_its_name(name, tmp_path):
    cut, whole_words = FAMILIES[name]
    folder = cases.byte_bpe(tmp_path / "base", cut, whole_words=whole_words)
    assert said(folder)["pre"] == name
    assert said(folder)["model"] == "gpt2"


SPELLINGS = [  # of the same
    ("gpt-2", split(GPT2)),
    ("gpt-2", {"type": "Sequence", "pretokenizers": [byte_level(use_regex=True)]}),
    ("gpt-2", split(GPT2, behavior="Removed", invert=True)),
    ("qwen2", split(QWEN2.replace(CONTRACTION, "'(?i:[sdmt]|ll|ve|re)"))),
    ("qwen2", split(QWEN2.replace(r"\r\n", "\r\n"))),
    ("qwen2", split(QWEN2.replace(r"|\p{N}|", r"|\p{N}{1}|"))),
    ("dbrx", split(LLAMA3.replace(r"]?\p{L}", r"]?+\p{L}").replace(r"]+[\r", r"]++[\r"))),
    (
        "qwen2",
        split(
            QWEN2.replace(CONTRACTION, "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])")
        ),
    ),
    ("smollm", split(r"\p{N}", GPT2)),
]


@pytest.mark.parametrize(("name", "cut"), SPELLINGS)
def test_other_spellings_have_the_same_name(name, cut, copy):
    assert said(changed(copy, pre_tokenizer=cut))["pre"] == name


def test_words_that_are_tokens_matter_where_merges_do_not_make_them(tmp_path):
    """Llama 3 takes such a word whole, and there is another name for those that do not."""
    folder = cases.byte_bpe(tmp_path / "base", split(LLAMA3))
    assert said(folder)["pre"] == "dbrx"
    whole = cases.byte_bpe(tmp_path / "whole", split(QWEN2), whole_words=True)
    assert said(whole)["pre"] == "qwen2"  # whose merges make each token
    content = json.loads((whole / "tokenizer.json").read_text("utf-8"))
    content["model"]["vocab"]["\u0120unmade"] = 705
    changed(whole, model=content["model"])
    assert said(whole, rows=710)["pre"] == "llama-bpe"  # no token here has two digits


@pytest.mark.parametrize("expression", [r"\w+|\W", r"[^ ]+ ?", cases.DEMO])
def test_an_unknown_way_to_cut_is_refused_and_shown(expression, tmp_path):
    folder = cases.byte_bpe(tmp_path / "base", split(expression))
    assert expression in refused(folder, "no name in GGUF files")


def test_one_that_never_cuts_a_token_is_as_good_as_one_with_a_name():
    """The demo's, whose few merges stay within what both cut."""
    assert said(base_path(), 1024)["pre"] == "default"


def test_tokens_and_their_kinds(byte_bpe):
    found = said(byte_bpe, 704)
    ours = Tokenizer.open(byte_bpe)
    count = ours.vocabulary
    assert found["tokens"][:count] == tuple(map(ours.token, range(count)))
    assert found["tokens"][count:] == tuple(f"[PAD{index}]" for index in range(count, 704))
    types = found["token_type"]
    assert types[:4].tolist() == [CONTROL] * 4
    assert types[count - 1] == USER_DEFINED
    assert set(types[4 : count - 1]) == {NORMAL}
    assert set(types[count:]) == {UNUSED}
    assert vocabulary(byte_bpe, 704).size == 704


def test_roles_ends_and_what_is_put_before_a_text():
    found = said(base_path(), 1024)
    roles = {"bos": 1, "eos": 2, "eot": 5, "eom": 10, "unknown": 3, "padding": 0}
    assert {role: found[f"{role}_token_id"] for role in roles} == roles
    assert not found["add_bos_token"]
    assert not found["add_eos_token"]


def test_a_key_stands_where_llama_cpps_converter_puts_it(tmp_path):
    order = [key for key in open_gguf(FILE, model=True).values if key.startswith("tokenizer.ggml")]
    ours = list(vocabulary(DATA / "truth/bases/llama", 512).keys)
    assert [key for key in ours if key in order] == [key for key in order if key in ours]


@pytest.mark.parametrize("name", ["gemma3", "llama"])
def test_keys_are_those_of_llama_cpps_converter(name):
    theirs = open_gguf(
        DATA / f"truth/gguf/{name}.base.f32.gguf", model=True, vocabulary=True
    ).values
    for key, value in vocabulary(DATA / "truth/bases" / name, 512).keys.items():
        if key in theirs:
            same = np.array_equal(value.data, theirs[key].data)
            assert same, key
            assert value.kind == theirs[key].kind


def test_a_folder_made_of_a_file_gives_its_vocabulary_again(tmp_path):
    """SentencePiece's, whose merges follow from scores, and scores from merges."""
    folder = cases.sentencepiece(tmp_path / "base")
    keys = {
        **dict.fromkeys(("tokenizer.ggml.merges", "tokenizer.ggml.pre")),
        **vocabulary(folder, 512 + 200).keys,
    }
    rows = {"token_embd.weight": 712, "output.weight": 712}
    tensors = {
        name: ("F32", (count, 64), np.ones((count, 64), "<f4").tobytes())
        for name, count in rows.items()
    }
    file = changed_file(FILE, tmp_path / "file.gguf", keys, tensors)
    merge(file, [], tmp_path / "again")
    again = vocabulary(tmp_path / "again", 712).keys
    for key in ("tokens", "token_type", "bos_token_id", "add_bos_token", "add_space_prefix"):
        key = f"tokenizer.ggml.{key}"
        assert np.array_equal(again[key].data, keys[key].data), key


def test_rows_and_tokens_that_do_not_agree(copy):
    """Gemma 3 has an added token that only its larger models have a row for."""
    extra = cases.added(900, "<image>")
    content = json.loads((copy / "tokenizer.json").read_text("utf-8"))
    count = len(content["model"]["vocab"]) + 1
    changed(copy, added_tokens=[*content["added_tokens"], extra])
    assert "<image>" not in said(copy, count)["tokens"]
    assert said(copy, 901)["tokens"][900] == "<image>"
    with pytest.raises(BaseModelError, match=r"tokens beyond the 300 rows") as raised:
        vocabulary(copy, 300)
    assert re.search("300: '", str(raised.value))


def test_sentencepieces_tokens_and_their_kinds(tmp_path):
    found = said(cases.sentencepiece(tmp_path / "base"))
    assert found["model"] == "llama"
    assert found["pre"] == "default"
    types = found["token_type"]
    assert types[:4].tolist() == [UNKNOWN, CONTROL, CONTROL, USER_DEFINED]
    assert set(types[4:260]) == {BYTE}
    assert set(types[260:700]) == {NORMAL}
    assert found["tokens"][700:] == ("[PAD700]", "[PAD701]", "[PAD702]", "[PAD703]")


def test_runs_of_spaces_are_found_by_merges_and_shown_as_spaces(tmp_path):
    """Gemma's are added tokens, written with the character that stands for a space."""
    tokens = [*map(cases.added, range(3), cases.SPECIAL)]
    ids = json.loads((DATA / "sentencepiece/recorded.json").read_text("utf-8"))["pieces"]
    run = ids.index(2 * cases.SPACE)
    tokens += [cases.added(run, ids[run], special=False)]
    found = said(cases.sentencepiece(tmp_path / "base", added_tokens=tokens))
    assert found["token_type"][run] == NORMAL
    assert found["scores"][run] > -1000


ROLES = {"bos_token": "<s>", "unk_token": "<unk>"}
LATER = {"type": "TemplateProcessing", "single": [
    {"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
]}  # fmt: skip
BYTE_REFUSED = {  # what is changed, and what is said of it
    "normalizer": ({"normalizer": {"type": "Lowercase"}}, "a normalizer"),
    "no bytes": ({"pre_tokenizer": {"type": "Whitespace"}}, "a pre_tokenizer"),
    "nothing": ({"pre_tokenizer": None}, "a pre_tokenizer"),
    "prefix": (
        {"pre_tokenizer": {**byte_level(use_regex=True), "add_prefix_space": True}},
        "a pre_tokenizer",
    ),
    "merged": ({"pre_tokenizer": split(GPT2, behavior="MergedWithNext")}, "a step"),
    "step": (
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Punctuation", "behavior": "Isolated"}, byte_level(use_regex=True)
        ]}},
        "a step",
    ),
    "around": ({"post_processor": LATER}, "a post_processor"),
    "cls": ({"post_processor": {"type": "BertProcessing"}}, "a post_processor"),
    "word": ({"added_tokens": [cases.added(0, "<unk>", single_word=True)]}, "what is beside"),
    "left": ({"added_tokens": [cases.added(0, "<unk>", lstrip=True)]}, "what is beside"),
    "right": ({"added_tokens": [cases.added(2, "</s>", rstrip=True)]}, "some tokens that take"),
}  # fmt: skip


@pytest.mark.parametrize("case", BYTE_REFUSED)
def test_what_llama_cpp_cannot_be_told_is_refused(case, copy):
    changes, reason = BYTE_REFUSED[case]
    refused(changed(copy, **changes), reason)


@pytest.mark.parametrize("setting", ["continuing_subword_prefix", "end_of_word_suffix"])
def test_affixes_of_tokens_are_refused(setting, copy):
    model = json.loads((copy / "tokenizer.json").read_text("utf-8"))["model"]
    refused(changed(copy, model={**model, setting: "@@"}), setting)
    vocabulary(changed(copy, model={**model, setting: ""}))


def test_more_ends_of_a_reply_than_there_is_room_for_are_refused(copy):
    changed(copy, "generation_config.json", eos_token_id=[2, 3, 260, 261])
    found = said(copy)
    assert [found[f"{role}_token_id"] for role in ("eos", "eot", "eom")] == [2, 260, 261]
    changed(copy, "generation_config.json", eos_token_id=[2, 260, 261, 262])
    refused(copy, "more tokens that end a reply")


def test_a_kind_of_tokenizer_that_is_not_bpe_is_refused(copy):
    changed(copy, model={"type": "Unigram", "vocab": [["a", 0.0]]})
    refused(copy, "of the kind 'Unigram'")


SPM_REFUSED = {
    "normalized": (
        {"added_tokens": [cases.added(2, "</s>", normalized=True)]}, "behind a space alone"
    ),
    "normalizer": ({"normalizer": {"type": "NFKC"}}, "a way to change or cut text"),
    "cut": ({"pre_tokenizer": {"type": "Whitespace"}}, "a way to change or cut text"),
    "strip": (
        {"normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Strip", "strip_left": True, "strip_right": True},
            {"type": "Replace", "pattern": {"String": " "}, "content": cases.SPACE},
        ]}},
        "a way to change or cut text",
    ),
    "scheme": (
        {"normalizer": None, "pre_tokenizer": {
            "type": "Metaspace", "replacement": "_", "prepend_scheme": "never", "split": False
        }},
        "a way to change or cut text",
    ),
    "words": (
        {"normalizer": None, "pre_tokenizer": {
            "type": "Metaspace", "replacement": cases.SPACE, "prepend_scheme": "never",
            "split": True,
        }},
        "a way to change or cut text",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SPM_REFUSED)
def test_what_llama_cpp_cannot_be_told_of_sentencepiece_is_refused(case, tmp_path):
    changes, reason = SPM_REFUSED[case]
    refused(cases.sentencepiece(tmp_path / "base", **changes), reason)


SAME = {  # scheme, whether a space is put before text, special tokens -> what stays to compare
    ("prepend", True, ("<s>",)): ["  a", "x<s>  b  c"],
    ("always", True, ("<s>",)): ["a", "x<s>b  c"],
    ("always", True, ()): ["a", "x<s>  b  c"],
    ("first", True, ("<s>",)): ["a", "x"],
    ("first", True, ()): ["a", "x<s>  b  c"],
    ("first", False, ("<s>", "<z>")): ["<s>  a", "<s>x<s>  b  c"],
    ("first", False, ()): ["  a", "x<s>  b  c"],
}


@pytest.mark.parametrize(("scheme", "prefixed", "special"), SAME)
def test_what_is_compared_where_spaces_differ(scheme, prefixed, special):
    found = Spaces(scheme=scheme, prefixed=prefixed).same(["  a", "x<s>  b  c"], special)
    assert found == SAME[scheme, prefixed, special]


def test_sentencepiece_needs_every_byte_and_an_end(tmp_path):
    folder = cases.sentencepiece(tmp_path / "base", model=False)
    content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    ids = {token: at for token, at in content["model"]["vocab"].items() if token != "<0xF5>"}
    changed(folder, model={**content["model"], "vocab": ids})
    assert "<0xF5>" in refused(folder, "1 bytes that have no token")
    changed(folder, model={**content["model"], "ignore_merges": True})
    refused(folder, "ignore_merges")
    changed(folder, model=content["model"])
    changed(folder, "config.json", eos_token_id=None)
    (folder / "generation_config.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps(ROLES))
    refused(folder, "no token that ends a text")


BROKEN = {
    "no model": {"model": None},
    "no vocabulary": {"model": {"type": "BPE", "merges": []}},
    "numbers": {"model": {"type": "BPE", "vocab": {"a": "b"}, "merges": []}},
    "merges": {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a"]]}},
    "kinds of merges": {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b", ["a", "b"]]}},
    "three": {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b c"]}},
    "added": {"added_tokens": [{"id": "1", "content": "x"}]},
    "content": {"added_tokens": [{"id": 1, "content": 2}]},
    "steps": {"pre_tokenizer": "ByteLevel"},
    "normalizer": {"normalizer": [1]},
    "processor": {"post_processor": {"type": "Sequence", "processors": ["ByteLevel"]}},
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_tokenizer_is_an_error_of_ours(case, copy):
    with pytest.raises(LorakitError):
        vocabulary(changed(copy, **BROKEN[case]))


def test_a_file_that_is_no_json_is_an_error_of_ours(copy):
    for content in (b"", b"[]", b"\xff", b'{"a": 1, "a": 2}', b"[" * 100_000):
        (copy / "tokenizer.json").write_bytes(content)
        with pytest.raises(FormatError):
            vocabulary(copy)
    (copy / "tokenizer.json").unlink()
    with pytest.raises(BaseModelError) as raised:
        vocabulary(copy)
    assert raised.value.code == "tokenizer_missing"
