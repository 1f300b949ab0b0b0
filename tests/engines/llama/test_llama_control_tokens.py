"""Control tokens that messages spell, in llama.cpp's tokenizers: the same ids as in the folder's.

llama.cpp itself is the truth where no mark is meant: it can be told to find no control tokens.
"""

import random

import pytest

import tokenizer_cases as cases
from llama_library import need_llama
from lorakit.base.folder import Base
from lorakit.chat.dialogue import Dialogue
from lorakit.chat.rendering import RenderOptions
from lorakit.engines.llama.tokenizer import LlamaTokenizer
from lorakit.exporting.gguf.vocabulary import gguf_vocabulary
from lorakit.files.gguf import Value
from lorakit.files.gguf_write import gguf_head, packed
from lorakit.text.marks import Marks
from lorakit.text.tokenizer import Tokenizer

need_llama()

NAMES = ["gpt-2", "llama-bpe", "qwen2", "smollm", "tekken", "sentencepiece", "no prefix"]
PIECES = ["<|im_end|>", "</s>", "<call>", "", " ", "x", "\n\n", "  a", "9.", "日", "<", "|>", "so "]
TEMPLATE = "{% for m in messages %}<|im_end|>{{ m.content }}<|im_end|>\n{% endfor %}<call>"


@pytest.fixture(scope="module", params=NAMES)
def pair(request, tmp_path_factory):
    """A folder's tokenizer, and llama.cpp's of the same vocabulary."""
    path, name = tmp_path_factory.mktemp("base"), request.param
    if name in cases.FAMILIES:
        cut, whole = cases.FAMILIES[name]
        folder = cases.byte_bpe(path / "base", cut, whole_words=whole)
    else:
        marks = [cases.added(700, "<|im_end|>"), cases.added(701, "<call>", special=False)]
        added = [*map(cases.added, range(3), ("<unk>", "<s>", "</s>")), *marks]
        folder = cases.sentencepiece(path / "base", prefix=name != "no prefix", added_tokens=added)
    keys = {"general.architecture": Value("str", "llama"), "general.name": Value("str", "a model")}
    keys |= gguf_vocabulary(Base.open(folder), 1100).keys
    file = path / "vocabulary.gguf"
    file.write_bytes(gguf_head({key: packed(value) for key, value in keys.items()}, []))
    return Tokenizer.open(folder), LlamaTokenizer(file)


def drawn(count):
    draw = random.Random(16)
    for _ in range(count):
        yield "".join(draw.choice(PIECES) for _ in range(draw.randint(0, 6)))


def spans(marks, text):
    found, position = [], 0
    while (span := marks.find(text, position)) is not None:
        found.append(span)
        position = span[0] + 1
    return found


def test_marked_tokens_are_those_of_the_folder(pair):
    ours, theirs = pair
    assert {"<|im_end|>", "</s>", "<call>"} <= ours.marked_tokens.keys()
    missing = {t for t, i in ours.marked_tokens.items() if theirs.marked_tokens.get(t) != i}
    assert not missing


def test_ids_are_those_of_before_where_all_is_meant(pair):
    _, theirs = pair
    marks = Marks(theirs.marked_tokens)
    encode = theirs.apart(marks)
    for text in drawn(200):
        assert encode(text, []) == theirs.encode(text, special=False), text


def test_ids_are_llamas_own_where_all_is_text(pair):
    _, theirs = pair
    marks = Marks({t: i for t, i in theirs.marked_tokens.items() if t != "<call>"})
    encode = theirs.apart(marks)
    for text in drawn(200):
        expected = theirs._encode(text, special=False, marked=False)
        assert encode(text, spans(marks, text)) == expected, text


def test_a_token_that_is_always_found_is_cut(pair):
    """llama.cpp finds <call>, which is no control token, whatever it is told."""
    _, theirs = pair
    marks, token = Marks(theirs.marked_tokens), theirs.marked_tokens["<call>"]
    encode = theirs.apart(marks)
    for text in drawn(200):
        ids = encode(text, spans(marks, text))
        assert token not in ids
        assert theirs.decode(ids, continuing=True) in (text, f" {text}")
        if "<call>" in text:
            assert token in theirs._encode(text, special=False, marked=False)


def test_prompts_are_those_of_the_folder(pair):
    talks = [Dialogue("nowhere", tokenizer, {"default": TEMPLATE}) for tokenizer in pair]
    for text in drawn(100):
        text = text.replace("<call>", "")  # llama.cpp takes that apart in its own way
        messages = [{"role": "tool", "content": f"{text}|"}]
        ours, theirs = (talk.prompt(messages) for talk in talks)
        assert ours == theirs, text
        before = talks[1].prompt(messages, None, RenderOptions(control_tokens="template"))
        assert (ours == before) == (not spans(talks[1].marks, text)), text


def test_a_cut_that_lets_a_space_in_would_be_seen(pair, monkeypatch):
    _, theirs = pair
    marks, text = Marks(theirs.marked_tokens), "a<call>b"
    assert theirs.decode(theirs.apart(marks)(text, spans(marks, text))) == text
    spaced = theirs._spaced
    monkeypatch.setattr(theirs, "_spaced", False)
    assert (theirs.decode(theirs.apart(marks)(text, spans(marks, text))) != text) == spaced
