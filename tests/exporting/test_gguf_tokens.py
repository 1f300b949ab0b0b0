"""Token ids of written vocabularies in llama.cpp: equal to the base's own, or refused.

Each way to be wrong that a writer could have is tried, and found.
"""

import json

import numpy as np
import pytest

import tokenizer_cases as cases
from folders import DATA
from gguf_files import changed as changed_file
from llama_library import need_llama
from lorakit.base.folder import Base
from lorakit.demo import base_path
from lorakit.engines.llama.tokenised import tokenised
from lorakit.errors import EngineError, FormatError, UnsupportedError
from lorakit.exporting.gguf.sentencepiece import ADDED
from lorakit.exporting.gguf.tokens import require_same_ids, trial_vocabulary
from lorakit.exporting.gguf.vocabulary import gguf_vocabulary
from lorakit.files.gguf import Value
from lorakit.merge.gguf.corpus import RUNS, SPACES, TEXTS
from tokenizer_cases import FAMILIES

need_llama()

TRUTH = DATA / "truth"
DIFFERENT = "gives other token ids in llama.cpp"
CHAT = "{{ bos_token }}{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}"


def trial(folder, rows=704, name="a model", **changes):
    """How many texts were compared. changes: of the tokenizer's keys, None for none."""
    found = gguf_vocabulary(Base.open(folder), rows).keys
    found |= {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    general = {"general.architecture": "llama", "general.name": name}
    keys = {key: Value("str", value) for key, value in general.items()} | found
    kept = {key: value for key, value in keys.items() if value is not None}
    return trial_vocabulary(Base.open(folder), kept)


def values(folder, key, rows=704):
    """The data of a key, to be changed."""
    return gguf_vocabulary(Base.open(folder), rows).keys[f"tokenizer.ggml.{key}"].data


def byte_bpe(folder, name, **changes):
    cut, whole_words = FAMILIES[name]
    return cases.byte_bpe(folder / "base", cut, whole_words=whole_words, **changes)


@pytest.mark.parametrize("name", FAMILIES)
def test_ids_of_byte_level_tokenizers_are_equal(name, tmp_path):
    assert trial(byte_bpe(tmp_path, name)) > 1000


WRONG = {  # what each is taken for
    "gpt-2": "qwen2",
    "llama-bpe": "qwen2",
    "qwen2": "gpt-2",
    "smollm": "gpt-2",
    "tekken": "llama-bpe",
    "gpt-4o": "qwen2",
    "deepseek-v3": "llama-bpe",
    "deepseek-coder": "gpt-2",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_name_for_the_way_text_is_cut_is_found(name, tmp_path):
    with pytest.raises(UnsupportedError, match=DIFFERENT):
        trial(byte_bpe(tmp_path, name), pre=Value("str", WRONG[name]))


def test_the_demo_and_the_bases_of_the_tests_have_their_ids():
    """The demo cuts text as no name does; with its few merges one gives the same."""
    assert trial(base_path(), 1024) > 2000
    with pytest.raises(UnsupportedError, match=DIFFERENT):
        trial(base_path(), 1024, pre=Value("str", "gpt-2"))
    for name in ("gemma3", "llama"):
        assert trial(TRUTH / "bases" / name, 512) > 1000


def test_the_files_that_llama_cpps_converter_wrote_have_the_ids():
    for name in ("gemma3", "llama"):
        file = TRUTH / f"gguf/{name}.base.f32.gguf"
        assert require_same_ids(Base.open(TRUTH / "bases" / name), file) > 1000


@pytest.mark.parametrize("model", [True, False])
@pytest.mark.parametrize("prefix", [True, False])
def test_ids_of_sentencepiece_are_equal_with_its_own_scores_and_with_derived_ones(
    prefix, model, tmp_path
):
    assert trial(cases.sentencepiece(tmp_path / "base", prefix=prefix, model=model)) > 1000


def test_a_file_of_derived_scores_gives_what_sentencepiece_itself_gives(tmp_path):
    """Recorded of the library, which knows no merges."""
    folder = cases.sentencepiece(tmp_path / "base", model=False)
    path = tmp_path / "vocabulary.gguf"
    keys = gguf_vocabulary(Base.open(folder), 700).keys
    changed_file(TRUTH / "gguf/llama.base.f32.gguf", path, {**_none_of_tokenizer(), **keys}, {})
    texts = [*TEXTS, *(f"a{space * length}b" for space in SPACES for length in RUNS)]
    recorded = json.loads((DATA / "sentencepiece/recorded.json").read_text("utf-8"))["ids"]
    found = tokenised(path, texts, []).ids
    assert [ids[1:] for ids in found] == recorded


def _none_of_tokenizer():
    return dict.fromkeys(["tokenizer.ggml.merges", "tokenizer.ggml.pre"])


def _reversed(scores):
    return scores[::-1].copy()


@pytest.mark.parametrize("wrong", [lambda s: np.full_like(s, ADDED), _reversed, np.zeros_like])
def test_wrong_scores_are_found(wrong, tmp_path):
    folder = cases.sentencepiece(tmp_path / "base")
    scores = Value("f32", wrong(values(folder, "scores")), array=True)
    with pytest.raises(UnsupportedError, match=DIFFERENT) as raised:
        trial(folder, scores=scores)
    assert "by llama.cpp [" in raised.value.items[0]


NORMAL, CONTROL, USER_DEFINED, BYTE = 1, 3, 4, 6


@pytest.mark.parametrize(
    ("kind", "before", "after", "shown"),
    [
        ("byte", USER_DEFINED, NORMAL, "<call>"),  # is not found in text
        ("byte", CONTROL, NORMAL, "<s>"),
        ("byte", NORMAL, CONTROL, ""),
        ("spm", BYTE, NORMAL, "is shown as"),
        ("spm", NORMAL, USER_DEFINED, ""),
        ("spm", USER_DEFINED, NORMAL, "<mask>"),
    ],
)
def test_wrong_kinds_of_tokens_are_found(kind, before, after, shown, tmp_path):
    if kind == "byte":
        folder = byte_bpe(tmp_path, "gpt-2")
    else:
        folder = cases.sentencepiece(tmp_path / "base")
    types = values(folder, "token_type")
    types[types == before] = after
    with pytest.raises(UnsupportedError, match=DIFFERENT) as raised:
        trial(folder, token_type=Value("i32", types, array=True))
    assert shown in str(raised.value)


@pytest.mark.parametrize("key", ["add_bos_token", "add_eos_token", "add_space_prefix"])
def test_wrong_flags_are_found(key, tmp_path):
    folder = cases.sentencepiece(tmp_path / "base")
    with pytest.raises(UnsupportedError, match=DIFFERENT):
        trial(folder, **{key: Value("bool", not values(folder, key))})


def test_a_token_that_ends_a_reply_and_is_not_named_is_found():
    with pytest.raises(UnsupportedError, match=r"10 .'<start_function_response>'. ends a reply"):
        trial(base_path(), 1024, eom_token_id=None)


def test_spaces_after_special_tokens_are_taken_by_the_name_of_phi_3(tmp_path):
    """llama.cpp has no key for it: it looks at the model's name."""
    tokens = [
        cases.added(0, "<unk>"),
        cases.added(1, "<s>"),
        cases.added(2, "</s>", rstrip=True),
        cases.added(3, "<mask>", rstrip=True, special=False),
        cases.added(700, "<|endoftext|>"),
        cases.added(701, "<|user|>", rstrip=True),
    ]
    folder = cases.sentencepiece(tmp_path / "base", added_tokens=tokens)
    assert gguf_vocabulary(Base.open(folder), 704).stripping
    assert trial(folder, name="My Phi-3 mini") > 1000
    with pytest.raises(UnsupportedError, match=DIFFERENT):
        trial(folder, name="My model")
    plain = cases.sentencepiece(tmp_path / "plain")
    assert not gguf_vocabulary(Base.open(plain), 704).stripping
    with pytest.raises(EngineError, match="cannot load"):
        trial(plain, name="phi3")  # which llama.cpp wants to have <|endoftext|>


METASPACE = {  # what puts a space before text; whether chats are expected; what the file says
    ("never", False): (False, ""),
    ("always", False): (True, "a space before text that begins with one"),
    ("first", False): (True, "before what follows a special token"),
    ("first", True): (False, "no space before text that does not begin with a special token"),
}


@pytest.mark.parametrize(("scheme", "chats"), METASPACE)
def test_metaspace_is_said_as_far_as_it_can_be(scheme, chats, tmp_path):
    prefixed, note = METASPACE[scheme, chats]
    cut = {
        "type": "Metaspace", "replacement": cases.SPACE, "prepend_scheme": scheme, "split": False,
    }  # fmt: skip
    folder = cases.sentencepiece(tmp_path / "base", normalizer=None, pre_tokenizer=cut)
    if chats:
        (folder / "chat_template.jinja").write_text(CHAT)
    found = gguf_vocabulary(Base.open(folder), 704)
    assert found.keys["tokenizer.ggml.add_space_prefix"].data is prefixed
    assert note in "".join(found.notes)
    assert len(found.notes) == bool(note)
    assert trial(folder) > 1000
    if scheme != "first":  # of which either is right where it is looked at
        with pytest.raises(UnsupportedError, match=DIFFERENT):
            trial(folder, add_space_prefix=Value("bool", not prefixed))


def test_what_llama_cpp_does_not_do_is_noted_and_not_compared(tmp_path):
    composing = byte_bpe(tmp_path, "qwen2", normalizer={"type": "NFC"})
    note, *_ = gguf_vocabulary(Base.open(composing), 704).notes
    assert "NFC" in note
    assert trial(composing) > 1000
    cased = byte_bpe(tmp_path / "cased", "gpt-4o")
    note, *_ = gguf_vocabulary(Base.open(cased), 704).notes
    assert "combining marks" in note
    plain = gguf_vocabulary(Base.open(byte_bpe(tmp_path / "plain", "gpt-2")), 704).notes
    assert not [note for note in plain if "NFC" in note or "marks" in note]
    assert ["end of a reply" in note for note in plain] == [True], plain


def test_a_vocabulary_that_crashes_llama_cpp_ends_a_child_alone(tmp_path):
    """It asserts that no two tokens have one text."""
    folder = byte_bpe(tmp_path, "gpt-2")
    twice = list(values(folder, "tokens"))
    twice[600] = twice[601]
    with pytest.raises(FormatError, match="crashes over it") as raised:
        trial(folder, tokens=Value("str", twice, array=True))
    assert "GGML_ASSERT" in str(raised.value)


def test_a_vocabulary_that_llama_cpp_refuses_is_an_error(tmp_path):
    with pytest.raises(EngineError, match="cannot load"):
        trial(byte_bpe(tmp_path, "gpt-2"), model=Value("str", "nonsense"))


def test_without_children_it_is_asked_in_this_process(tmp_path, monkeypatch):
    monkeypatch.setattr("lorakit.engines.llama.tokenised.can_start", lambda: False)
    monkeypatch.setattr("lorakit.engines.llama.tokenised.run_child", None)
    assert trial(byte_bpe(tmp_path, "gpt-2")) > 1000
