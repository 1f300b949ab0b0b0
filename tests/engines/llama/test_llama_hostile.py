"""Hostile GGUF files given to the llama.cpp engine in a child process, which must survive them.

Adapters are read by lorakit alone; llama.cpp gets files that lorakit wrote. Bases must be given to
llama.cpp, which ends the process over some of them: those are found in a preflight.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
from llama_cases import base_file

from lorakit.files.gguf import Value, open_gguf
from lorakit.files.gguf_write import write_gguf_file

sys.path.insert(0, str(Path(__file__).parents[2] / "hostile"))
from cases import CASES
from make import Child, write

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes are POSIX's")
ADAPTERS = [c for c in CASES.values() if c.name.startswith("gguf") and c.opens != "locked"]
PARTS = [c for c in CASES.values() if c.name.startswith("part")]
BASE = base_file("llama")


@pytest.fixture(scope="module")
def child():
    process = Child()
    yield process
    process.close()


def answer(child, path, opens):
    """The outcome of opening it; the code is "ended N" if the process crashed."""
    found = child.open(path.name, path, opens)
    assert found["code"] != "", f"{path.name} was taken"
    assert not found["code"].startswith(("ended", "not ours")), found
    return found


@pytest.mark.parametrize("case", ADAPTERS, ids=lambda case: case.name)
def test_a_hostile_adapter(case, child, tmp_path):
    answer(child, write(case, tmp_path), "llama")


@pytest.mark.parametrize("case", ADAPTERS, ids=lambda case: case.name)
def test_a_hostile_adapter_in_a_bases_place(case, child, tmp_path):
    answer(child, write(case, tmp_path), "llama base")


@pytest.mark.parametrize("case", PARTS, ids=lambda case: case.name)
def test_parts_that_do_not_belong_together(case, child, tmp_path):
    found = answer(child, write(case, tmp_path), "llama base")
    assert (found["code"], case.words in found["text"]) == (case.code, True), found


# Changes to a good base, by their effect in llama.cpp.


def halves(name):
    def change(values, tensors):
        tensors[name] = tensors[name].astype(np.float16)

    return change


def tokens(make):
    def change(values, tensors):
        found = list(values["tokenizer.ggml.tokens"].data)
        values["tokenizer.ggml.tokens"] = Value("str", tuple(make(found)), array=True)

    return change


def key(name, kind, data, array=False):
    def change(values, tensors):
        values[name] = Value(kind, data, array=array)

    return change


def without(*names):
    def change(values, tensors):
        for name in names:
            (values if name in values else tensors).pop(name)

    return change


ENDS_THE_PROCESS = {
    "a norm in float16": halves("blk.2.ffn_norm.weight"),
    "a token that is there twice": tokens(lambda found: [*found[:-1], found[5]]),
    "a SentencePiece vocabulary without bytes": key("tokenizer.ggml.model", "str", "llama"),
}
REFUSED = {
    "no layers": key("llama.block_count", "u32", 0),
    "many layers": key("llama.block_count", "u32", 1 << 31),
    "a layer more": key("llama.block_count", "u32", 5),
    "no heads": key("llama.attention.head_count", "u32", 0),
    "heads that do not divide": key("llama.attention.head_count", "u32", 3),
    "no KV heads": key("llama.attention.head_count_kv", "u32", 0),
    "a negative epsilon": key("llama.attention.layer_norm_rms_epsilon", "f32", -1.0),
    "no width": key("llama.embedding_length", "u32", 0),
    "a huge width": key("llama.embedding_length", "u32", 0xFFFFFFFF),
    "another width": key("llama.embedding_length", "u32", 96),
    "a huge context of a wrong type": key("llama.context_length", "str", "many"),
    "the width as a float": key("llama.embedding_length", "f32", 64.0),
    "the architecture as a number": key("general.architecture", "u32", 5),
    "an adapter's type": key("general.type", "str", "adapter"),
    "no tokens": tokens(lambda found: ()),
    "a token less": tokens(lambda found: found[:-1]),
    "a token more": tokens(lambda found: [*found, "more"]),
    "no vocabulary": without("tokenizer.ggml.tokens"),
    "a tokenizer that nobody knows": key("tokenizer.ggml.model", "str", "no such thing"),
    "a rope of no width": key("llama.rope.dimension_count", "u32", 7),
    "no embedding": without("token_embd.weight"),
    "no final norm": without("output_norm.weight"),
    "no q": without("blk.1.attn_q.weight"),
}


def changed(path, change):
    """The good base with changed values and tensors."""
    file = open_gguf(BASE)
    values = dict(file.values)
    tensors = {name: tensor.array() for name, tensor in file.tensors.items()}
    change(values, tensors)
    with path.open("wb") as out:
        write_gguf_file(out, values, tensors)
    return path


@pytest.mark.parametrize("name", ENDS_THE_PROCESS)
def test_the_preflight_finds_a_base_that_crashes_llama_cpp(name, child, tmp_path):
    path = changed(tmp_path / "base.gguf", ENDS_THE_PROCESS[name])
    found = answer(child, path, "llama base")
    assert found["code"] == "format_invalid"
    assert "llama.cpp crashes when it runs it" in found["text"]


@pytest.mark.parametrize("name", REFUSED)
def test_a_broken_base_is_refused(name, child, tmp_path):
    answer(child, changed(tmp_path / "base.gguf", REFUSED[name]), "llama base")


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.3, 0.9, 0.9999])
def test_a_base_that_was_cut_off(share, child, tmp_path):
    content = BASE.read_bytes()
    path = tmp_path / "base.gguf"
    path.write_bytes(content[: int(len(content) * share)])
    assert answer(child, path, "llama base")["code"] == "format_invalid"


def test_a_base_that_passed_the_preflight_is_not_tried_again(child, tmp_path, monkeypatch):
    from lorakit.engines.llama import preflight
    from lorakit.engines.llama.options import LlamaOptions

    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "cache"))
    path = changed(tmp_path / "base.gguf", lambda values, tensors: None)
    runs, run = [], preflight.run_child
    monkeypatch.setattr(preflight, "run_child", lambda *a: (runs.append(a), run(*a))[1])
    for _ in range(2):
        preflight.preflight_model(path, LlamaOptions())
    preflight.preflight_model(path, LlamaOptions(preflight=False))
    assert len(runs) == 1
    path.write_bytes(path.read_bytes() + bytes(32))
    preflight.preflight_model(path, LlamaOptions(preflight=False))
    assert len(runs) == 1
    preflight.preflight_model(path, LlamaOptions())
    assert len(runs) == 2
