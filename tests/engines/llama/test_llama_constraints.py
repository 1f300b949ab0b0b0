"""Constraints with a GGUF file's own tokenizer, which llama.cpp reads."""

import json

import pytest
from llama_cases import base_file

import lorakit
from lorakit.chat.constraints.matching import Compiled
from lorakit.chat.constraints.vocabulary import Vocabulary
from lorakit.engines.llama.tokenizer import LlamaTokenizer


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_a_gguf_vocabulary_forces_what_its_tokenizer_writes(name):
    tokenizer = LlamaTokenizer(base_file(name))
    vocabulary = Vocabulary(tokenizer, tokenizer.eos_ids)
    assert vocabulary.size == tokenizer.vocabulary
    assert vocabulary.forces
    matcher = Compiled(vocabulary, 'start: "the light" /[0-9]/').matcher(tokenizer.eos_ids)
    ids = []
    while not matcher.allows(tokenizer.encode("7", special=False)[-1]):
        ids.append(int((matcher.forced() or matcher.allowed(1 << 20))[0]))
        matcher.accept(ids[-1])
    assert b"".join(map(tokenizer.token_bytes, ids)) == b"the light"


def test_answers_fit_on_llama():
    with lorakit.open(base_file("llama")) as model:
        found = model.complete("a", grammar='root ::= "yes" | "no"', max_tokens=9)
        assert found.text in ("yes", "no")
        schema = {"properties": {"a": {"type": "integer", "maximum": 99}}, "required": ["a"]}
        asked = {"type": "json_schema", "json_schema": {"schema": {
            **schema, "additionalProperties": False}}}  # fmt: skip
        found = model.complete("a", response_format=asked, max_tokens=40, seed=1, temperature=1.0)
        assert json.loads(found.text).keys() == {"a"}
