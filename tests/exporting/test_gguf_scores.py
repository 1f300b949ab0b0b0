"""Scores of SentencePiece's tokens: as its file says them, and as they follow from merges."""

import json
import random
from collections import Counter
from contextlib import suppress

import numpy as np
import pytest

import tokenizer_cases as cases
from folders import DATA
from lorakit.base.folder import Base
from lorakit.errors import BaseModelError, FormatError, LorakitError, UnsupportedError
from lorakit.exporting.gguf import sentencepiece as module
from lorakit.exporting.gguf.merges import derived_scores, ways_to_cut
from lorakit.exporting.gguf.sentencepiece import ADDED, read_pieces, scores
from lorakit.exporting.gguf.tokenizer_json import TokenizerJson
from lorakit.exporting.gguf.vocabulary import gguf_vocabulary
from tokenizer_cases import MODEL, changed, sentencepiece

RECORDED = json.loads((DATA / "sentencepiece/recorded.json").read_text("utf-8"))
CONTENT = MODEL.read_bytes()


def test_pieces_are_those_that_sentencepiece_reads():
    pieces = read_pieces(MODEL)
    assert [piece.text for piece in pieces] == RECORDED["pieces"]
    assert [piece.score for piece in pieces] == RECORDED["scores"]


def test_scores_are_the_files_but_of_tokens_that_are_found_before_text_is_cut(tmp_path):
    found = scores(TokenizerJson.open(sentencepiece(tmp_path / "base")), 703)
    assert found.dtype == np.float32
    assert found[4:700].tolist() == RECORDED["scores"][4:]
    assert set(found[[0, 1, 2, 3, 700, 701, 702]]) == {ADDED}


def test_derived_scores_have_the_order_of_sentencepieces_own(tmp_path):
    """But for runs of spaces, which have one and the same score there: the lowest."""
    tokenizer = TokenizerJson.open(sentencepiece(tmp_path / "base", model=False))
    found = scores(tokenizer, 700)
    joined = {left + right for left, right in tokenizer.pairs()}
    theirs = {
        index: RECORDED["scores"][index]
        for token, index in tokenizer.ids.items()
        if token in joined and set(token) != {cases.SPACE} and index not in tokenizer.added
    }
    order = sorted(theirs, key=lambda index: -theirs[index])
    assert (np.diff(found[order]) < 0).all()
    assert len(order) > 200


def test_without_tokenizer_model_and_with_merges_that_give_none_it_is_refused(tmp_path):
    folder = sentencepiece(tmp_path / "base", model=False)
    model = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]
    merges = model["merges"]
    times = Counter(map("".join, merges))
    at = next(i for i, merge in enumerate(merges) if times["".join(merge)] == 2 and i > 50)
    whole = "".join(merges[at])
    changed(folder, model={**model, "merges": merges[:at] + merges[at + 1 :]})
    with pytest.raises(UnsupportedError, match="no scores of SentencePiece") as raised:
        gguf_vocabulary(Base.open(folder), 700)
    assert raised.value.items == (f"{whole!r}: can be joined in a way of which there is no merge",)
    assert "tokenizer.model" in raised.value.hint
    late = [*merges[:at], *merges[at + 1 :], merges[at]]
    changed(folder, model={**model, "merges": late})
    with pytest.raises(UnsupportedError, match="no scores of SentencePiece") as raised:
        gguf_vocabulary(Base.open(folder), 700)
    assert raised.value.items == (f"{whole!r}: is made by merges that do not follow each other",)


def test_merges_between_tokens_that_are_never_made_may_be_missing(tmp_path):
    """As of an added token, which is taken out of text before anything is joined."""
    folder = sentencepiece(tmp_path / "base", model=False)
    model = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]
    tokens = [*map(cases.added, range(3), RECORDED["pieces"])]
    the = cases.SPACE + "the"
    merges = [merge for merge in model["merges"] if "".join(merge) != the and the not in merge]
    changed(folder, model={**model, "merges": merges}, added_tokens=[
        *tokens, cases.added(RECORDED["pieces"].index(the), the, special=False)
    ])  # fmt: skip
    assert len(merges) < len(model["merges"])
    assert derived_scores(TokenizerJson.open(folder)).size == 700


def test_ways_to_cut_are_counted_as_one_would():
    drawn = random.Random(1)
    letters = ["a", "b", "\u2581", "\U0001f600", "\u00e9"]
    tokens = {"".join(drawn.choices(letters, k=drawn.randint(1, 6))) for _ in range(800)}
    naive = sum(
        token[:at] in tokens and token[at:] in tokens
        for token in tokens
        for at in range(1, len(token))
    )
    assert ways_to_cut(tokens) == naive > 100


def test_the_file_of_another_model_is_refused(tmp_path):
    folder = sentencepiece(tmp_path / "base", model=False)
    content = CONTENT.replace("\u2581the".encode(), "\u2581xyz".encode(), 1)
    (folder / "tokenizer.model").write_bytes(content)
    with pytest.raises(BaseModelError, match="does not have the tokens") as raised:
        gguf_vocabulary(Base.open(folder), 700)
    assert any("xyz" in item for item in raised.value.items)


def test_a_unigram_model_is_refused(tmp_path):
    trainer = CONTENT.rindex(b"\x18\x02")  # model_type: BPE
    path = tmp_path / "tokenizer.model"
    path.write_bytes(CONTENT[:trainer] + b"\x18\x01" + CONTENT[trainer + 2 :])
    with pytest.raises(UnsupportedError, match="kind 1, not BPE"):
        read_pieces(path)


BROKEN = {
    "a length beyond the end": b"\x0a\xff\xff\xff\xff\x0f",
    "a number without an end": b"\x0a" + b"\xff" * 20,
    "a field cut off": b"\x0a\x05\x0a\x09abc",
    "a group": b"\x0b",
    "no text": b"\x0a\x04\x0a\x02\xff\xfe",
    "a short score": b"\x0a\x03\x12\x01\x00",
    "a number for a piece": b"\x08\x01",
    "pieces in a number": b"\x10\x01",
    "text in a number": b"\x0a\x02\x08\x01",
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_an_error_of_ours(case, tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(BROKEN[case])
    with pytest.raises(FormatError, match=r"tokenizer\.model"):
        read_pieces(path)


def test_a_file_that_is_cut_or_changed_anywhere_is_read_or_refused(tmp_path):
    path, drawn = tmp_path / "tokenizer.model", random.Random(0)
    for _ in range(300):
        content = bytearray(CONTENT[: drawn.randrange(len(CONTENT))] or CONTENT)
        for _ in range(drawn.randrange(4)):
            content[drawn.randrange(len(content))] = drawn.randrange(256)
        path.write_bytes(content)
        with suppress(LorakitError):
            read_pieces(path)


def test_a_huge_file_is_refused(monkeypatch):
    monkeypatch.setattr(module, "MAX_MODEL", len(CONTENT) - 1)
    with pytest.raises(FormatError, match="larger than"):
        read_pieces(MODEL)
