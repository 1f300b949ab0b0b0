"""Tokenizer and its streams, against `tokenizers` and transformers on real and built files."""

import functools
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.errors import BaseModelError, FormatError, ParameterError, UnsupportedError
from lorakit.text.tokenizer import Tokenizer

BASES = Path(__file__).parents[1] / "data/truth/bases"
DEMO = Path(__file__).parents[2] / "src/lorakit/demo/base"
SENTENCEPIECE = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ],
}
GEMMA = {"type": "Sequence", "decoders": SENTENCEPIECE["decoders"][:3]}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
PIECES = ["<s>", "▁", "▁hello", "▁wörld", "lo", "日", "▁▁", " ", "<0x4>", "é"]
VOCABULARY = PIECES + [f"<0x{byte:02X}>" for byte in range(256)]


def special(index: int, content: str) -> dict[str, object]:
    flags = dict.fromkeys(["single_word", "lstrip", "rstrip", "normalized"], False)
    return {"id": index, "content": content, "special": True, **flags}


def tokenizer_json(decoder: object, **changes: object) -> dict[str, object]:
    model = {
        "type": "BPE",
        "vocab": {token: index for index, token in enumerate(VOCABULARY)},
        "merges": [],
        "byte_fallback": True,
        "unk_token": None,
    }
    parts = {"version": "1.0", "added_tokens": [special(0, "<s>")], "model": model}
    return parts | {"decoder": decoder} | changes


def write(folder: Path, content: object, **files: object) -> Path:
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return folder


@pytest.fixture(scope="module", params=["gemma3", "llama", "demo"])
def folder(request: pytest.FixtureRequest) -> Path:
    return DEMO if request.param == "demo" else BASES / request.param


@pytest.fixture(scope="module")
def real(folder: Path) -> tuple[Tokenizer, tokenizers.Tokenizer]:
    return Tokenizer.open(folder), tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture(params=["llama2", "gemma", "metaspace", "none", "fuse"])
def built(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Tokenizer, tokenizers.Tokenizer]:
    decoder = {
        "llama2": SENTENCEPIECE,
        "gemma": GEMMA,
        "metaspace": METASPACE,
        "none": None,
        "fuse": {"type": "Fuse"},
    }[request.param]
    write(tmp_path, tokenizer_json(decoder))
    upstream = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    return Tokenizer.open(tmp_path), upstream


def streamed(tokenizer: Tokenizer, ids: list[int], **options: object) -> list[str]:
    stream = tokenizer.stream(**options)  # type: ignore[arg-type]
    return [*map(stream.step, ids), stream.flush()]


@settings(deadline=None)
@given(text=st.text())
def test_text_survives_a_round_trip_on_byte_level_tokenizers(real, text):
    tokenizer, upstream = real
    ids = tokenizer.encode(text, special=False)
    assert ids == upstream.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids) == text
    assert "".join(streamed(tokenizer, ids)) == text


@functools.cache
def _built(decoder: str) -> tuple[Tokenizer, tokenizers.Tokenizer]:
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), tokenizer_json(json.loads(decoder)))
        upstream = tokenizers.Tokenizer.from_file(str(Path(name) / "tokenizer.json"))
        return Tokenizer.open(name), upstream


@settings(deadline=None)
@given(data=st.data())
def test_any_ids_decode_as_upstream_and_stream_alike_on_byte_level_tokenizers(real, data):
    tokenizer, upstream = real
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocabulary + 5)))
    assert tokenizer.decode(ids) == upstream.decode(ids, skip_special_tokens=False)
    assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids)


@settings(deadline=None)
@given(ids=st.lists(st.integers(0, len(VOCABULARY) - 1)), skip=st.sets(st.integers(0, 9)))
def test_any_ids_stream_as_they_decode_on_built_tokenizers(ids, skip):
    for decoder in (SENTENCEPIECE, GEMMA, METASPACE, None):
        tokenizer, upstream = _built(json.dumps(decoder))
        for continuing in (False, True):
            pieces = streamed(tokenizer, ids, skip=skip, continuing=continuing)
            whole = tokenizer.decode(ids, skip=skip, continuing=continuing)
            assert "".join(pieces) == whole
        expected = upstream.decode(ids, skip_special_tokens=False)
        if "\ufffd" not in expected:
            assert tokenizer.decode(ids) == expected


@pytest.mark.parametrize("first", ["▁hello", "▁", "▁▁", " ", "lo", "<s>", "<0x20>", "<0x4>"])
def test_the_start_of_a_text_is_upstreams(built, first):
    tokenizer, upstream = built
    for ids in ([first, "▁wörld", "日"], [first, first, "▁", "lo"], ["<s>", first]):
        numbers = [VOCABULARY.index(token) for token in ids]
        assert tokenizer.decode(numbers) == upstream.decode(numbers, skip_special_tokens=False)


def test_a_continuation_keeps_its_first_space(tmp_path):
    tokenizer = Tokenizer.open(write(tmp_path, tokenizer_json(SENTENCEPIECE)))
    hello = [VOCABULARY.index("▁hello")]
    assert tokenizer.decode(hello) == "hello"
    assert tokenizer.decode(hello, continuing=True) == " hello"
    assert "".join(streamed(tokenizer, hello, continuing=True)) == " hello"


def test_a_stream_never_splits_a_character(tmp_path):
    tokenizer = Tokenizer.open(write(tmp_path, tokenizer_json(GEMMA)))
    ids = [VOCABULARY.index(f"<0x{byte:02X}>") for byte in "a😀é".encode()]
    assert streamed(tokenizer, ids) == ["a", "", "", "", "😀", "", "é", ""]
    assert streamed(tokenizer, ids[:3]) == ["a", "", "", "\ufffd"]


def test_valid_characters_beside_invalid_bytes_are_kept_at_once(tmp_path):
    tokenizer = Tokenizer.open(write(tmp_path, tokenizer_json(GEMMA)))
    ids = [VOCABULARY.index(f"<0x{byte:02X}>") for byte in b"a\xff\xffb"]
    assert streamed(tokenizer, ids) == ["a", "\ufffd", "\ufffd", "b", ""]


def test_skip_hides_tokens_and_control_tokens_are_shown_without_it():
    tokenizer = Tokenizer.open(BASES / "gemma3")
    ids = [1, *tokenizer.encode("ab", special=False), 2]
    assert tokenizer.decode(ids) == "<bos>ab<eos>"
    assert tokenizer.decode(ids, skip=tokenizer.control_ids) == "ab"
    assert tokenizer.decode(ids, skip={2}) == "<bos>ab"


def test_special_tokens_are_found():
    tokenizer = Tokenizer.open(BASES / "gemma3")
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.vocabulary) == (1, {2}, 512)
    assert tokenizer.special_tokens["bos_token"] == "<bos>"
    assert tokenizer.is_control(0)
    assert not tokenizer.is_control(100)
    assert tokenizer.token_id("<eos>") == 2
    assert tokenizer.token(2) == "<eos>"
    assert (tokenizer.token_id("nowhere"), tokenizer.token(10_000)) == (None, "")


def test_special_adds_what_the_post_processor_adds(tmp_path):
    sequence = [
        {"SpecialToken": {"id": "<s>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ]
    processor = {
        "type": "TemplateProcessing",
        "single": sequence,
        "pair": [*sequence, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
    }
    tokenizer = Tokenizer.open(write(tmp_path, tokenizer_json(GEMMA, post_processor=processor)))
    assert tokenizer.encode("日", special=True) == [0, 5]
    assert tokenizer.encode("日", special=False) == [5]
    assert tokenizer.encode("<s>日", special=False) == [0, 5]


@pytest.mark.parametrize(
    ("files", "bos", "eos"),
    [
        ({}, None, set()),
        ({"tokenizer_config": {"bos_token": {"content": "<s>"}, "eos_token": "日"}}, 0, {5}),
        ({"special_tokens_map": {"bos_token": "<s>"}}, 0, set()),
        ({"generation_config": {"eos_token_id": [3, 5], "bos_token_id": 2}}, 2, {3, 5}),
        (
            {"tokenizer_config": {"eos_token": "日"}, "generation_config": {"eos_token_id": 3}},
            None,
            {3, 5},
        ),
        ({"config": {"eos_token_id": 7}, "generation_config": {"eos_token_id": 3}}, None, {3}),
        ({"config": {"eos_token_id": 7}, "generation_config": {}}, None, {7}),
        ({"config": {"text_config": {"eos_token_id": 7}}}, None, {7}),
    ],
)
def test_bos_and_eos_come_from_every_file(tmp_path, files, bos, eos):
    tokenizer = Tokenizer.open(write(tmp_path, tokenizer_json(GEMMA), **files))
    assert tokenizer.bos_id == bos
    assert tokenizer.eos_ids == eos


def test_token_bytes_are_what_each_token_adds(real):
    tokenizer, _ = real
    ids = tokenizer.encode("héllo 日本 😀!", special=False)
    assert b"".join(map(tokenizer.token_bytes, ids)).decode() == "héllo 日本 😀!"
    assert tokenizer.token_bytes(10**6) == b""
    assert all(isinstance(tokenizer.token_text(i), str) for i in range(tokenizer.vocabulary))


def test_truncation_and_padding_of_training_are_switched_off(tmp_path):
    truncation = {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    padding = {
        "strategy": {"Fixed": 9},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<s>",
    }
    content = tokenizer_json(GEMMA, truncation=truncation, padding=padding)
    assert len(Tokenizer.open(write(tmp_path, content)).encode("日日日日", special=False)) == 4


def test_dropout_of_training_is_switched_off(tmp_path):
    content = json.loads((BASES / "gemma3/tokenizer.json").read_text(encoding="utf-8"))
    content["model"]["dropout"] = 0.5
    tokenizer = Tokenizer.open(write(tmp_path, content))
    assert len({tuple(tokenizer.encode("hello the world", special=False)) for _ in range(20)}) == 1


def test_missing_tokenizer_has_a_code_and_a_hint(tmp_path):
    with pytest.raises(BaseModelError) as caught:
        Tokenizer.open(tmp_path)
    assert caught.value.code == "tokenizer_missing"
    assert "tokenizer.json" in caught.value.hint


@pytest.mark.parametrize(
    "content", [b"", b"{", b"{}", b"[]", b"\xff\xfe", b'{"model":{}}', b"[" * 100_000]
)
def test_a_broken_file_is_a_format_error(tmp_path, content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(FormatError):
        Tokenizer.open(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer_config", "special_tokens_map", "generation_config"])
@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_broken_side_file_is_a_format_error(tmp_path, name, content):
    write(tmp_path, tokenizer_json(GEMMA))
    (tmp_path / f"{name}.json").write_bytes(content)
    with pytest.raises(FormatError, match=name):
        Tokenizer.open(tmp_path)


@pytest.mark.parametrize("value", ["2", -1, True, [2, None], 2.5, 1 << 40, {}])
def test_an_eos_id_must_be_a_token_id(tmp_path, value):
    write(tmp_path, tokenizer_json(GEMMA), generation_config={"eos_token_id": value})
    with pytest.raises(FormatError, match="eos_token_id"):
        Tokenizer.open(tmp_path)


def test_a_rust_panic_at_opening_is_a_format_error(tmp_path, capfd):
    normalizer = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    with pytest.raises(FormatError, match="not a valid tokenizer"):
        Tokenizer.open(write(tmp_path, tokenizer_json(GEMMA, normalizer=normalizer)))
    capfd.readouterr()


def test_a_rust_panic_at_encoding_is_a_format_error(tmp_path, capfd):
    processor = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<gone>", "type_id": 0}}],
        "pair": [],
        "special_tokens": {},
    }
    tokenizer = Tokenizer.open(write(tmp_path, tokenizer_json(GEMMA, post_processor=processor)))
    with pytest.raises(FormatError, match="failed to encode"):
        tokenizer.encode("日", special=True)
    capfd.readouterr()


@pytest.mark.parametrize(
    "decoder",
    [
        {"type": "WordPiece", "prefix": "##", "cleanup": True},
        {"type": "CTC", "pad_token": "a", "word_delimiter_token": "b", "cleanup": True},
        {
            "type": "Sequence",
            "decoders": [{"type": "Strip", "content": " ", "start": 1, "stop": 0}],
        },
        {"type": "Replace", "pattern": {"Regex": "a+"}, "content": " "},
    ],
)
def test_a_decoder_that_cannot_stream_is_refused(tmp_path, decoder):
    with pytest.raises(UnsupportedError, match="decoder"):
        Tokenizer.open(write(tmp_path, tokenizer_json(decoder)))


def test_what_is_not_text_is_refused():
    tokenizer = Tokenizer.open(BASES / "gemma3")
    with pytest.raises(ParameterError, match="surrogate"):
        tokenizer.encode("a\ud800", special=False)
    with pytest.raises(ParameterError, match="string"):
        tokenizer.encode(b"a", special=False)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="token id"):
        tokenizer.decode([-1])


def test_threads_share_a_tokenizer():
    tokenizer = Tokenizer.open(BASES / "llama")
    text = "one two 日本 three" * 20
    expected = tokenizer.encode(text, special=True)
    wrong: list[object] = []

    def work() -> None:
        for _ in range(50):
            ids = tokenizer.encode(text, special=True)
            if ids != expected or tokenizer.decode(ids) != text:
                wrong.append(ids)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_after_use_warns_of_nothing():
    code = (
        "import os, sys\nfrom lorakit.text.tokenizer import Tokenizer\n"
        "t = Tokenizer.open(sys.argv[1])\n"
        "before = dict(os.environ); t.decode(t.encode('a b ' * 1000, special=True))\n"
        "pid = os.fork()\n"
        "if pid == 0: t.encode('a', special=True); os._exit(0)\n"
        "os.waitpid(pid, 0); assert dict(os.environ) == before"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(BASES / "gemma3")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == ("", "")


def test_transformers_agrees(folder):
    transformers = pytest.importorskip("transformers", reason="the oracle of this test")
    oracle = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer = Tokenizer.open(folder)
    text = "<bos>héllo 日本 turn the lights off 123"
    assert tokenizer.encode(text, special=True) == oracle.encode(text)
    assert tokenizer.encode(text, special=False) == oracle.encode(text, add_special_tokens=False)
    assert tokenizer.decode(oracle.encode(text)) == oracle.decode(oracle.encode(text))
    assert tokenizer.bos_id == oracle.bos_token_id
    assert oracle.eos_token_id in tokenizer.eos_ids


def test_the_vocabulary_counts_past_holes(tmp_path):
    content = tokenizer_json(GEMMA)
    size = len(VOCABULARY)
    content["model"]["vocab"]["late"] = size + 1
    assert Tokenizer.open(write(tmp_path, content)).vocabulary == size + 2
