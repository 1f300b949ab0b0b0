"""The rules of Gemma's calls: what no walk over byte tokens shows."""

from pathlib import Path

import llguidance
import pytest
import tokenizers
from walking_calls import accepts, grammar_of

from lorakit.chat.calls import ToolCall
from lorakit.chat.constraints.declared import functions_of
from lorakit.chat.constraints.lark import literal
from lorakit.chat.formats.gemma import FUNCTIONGEMMA, GEMMA4
from lorakit.errors import ParameterError

DEMO = Path(__file__).parents[3] / "src/lorakit/demo/base"
MARKS = ("<start_function_call>", "<end_function_call>", "<escape>")
TOOL = {
    "name": "f",
    "parameters": {
        "type": "object",
        "properties": {"room": {"type": "string"}, "B": {"enum": ["", "on"]}},
        "required": ["room"],
    },
}


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizers.Tokenizer.from_file(str(DEMO / "tokenizer.json"))


@pytest.fixture(scope="module")
def vocabulary(tokenizer):
    eos = tokenizer.token_to_id("<eos>")
    return llguidance.LLTokenizer(tokenizer.to_str(), eos_token=eos)


def fits(vocabulary, tokens):
    calls = FUNCTIONGEMMA.grammar(functions_of([TOOL]), lambda t: t if t in MARKS else literal(t))
    grammar = f"start: {calls.first} ({calls.more})*\n{calls.rules}"
    matcher = llguidance.LLMatcher(
        vocabulary, llguidance.LLMatcher.grammar_from_lark(grammar), log_level=0
    )
    assert not matcher.is_error(), matcher.get_error()
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


def spelled(tokenizer, text):
    """Its tokens, none of which is a marker: each character by itself."""
    return [
        token for char in text for token in tokenizer.encode(char, add_special_tokens=False).ids
    ]


@pytest.mark.parametrize("text", ["", "hall", "a,b}:{[]", "<escap>", "no <b>mark</b>"])
def test_markers_are_the_model_s_own_tokens(tokenizer, vocabulary, text):
    for arguments in ({"room": text}, {"room": text, "B": ""}, {"room": text, "B": "on"}):
        written = FUNCTIONGEMMA.render_call(ToolCall(name="f", arguments=arguments))
        assert fits(vocabulary, tokenizer.encode(written * 2, add_special_tokens=False).ids)


def test_plain_tokens_cannot_spell_the_marker(tokenizer, vocabulary):
    head = tokenizer.encode("<start_function_call>call:f{room:<escape>", add_special_tokens=False)
    end = tokenizer.encode("<escape>}<end_function_call>", add_special_tokens=False)
    assert fits(vocabulary, head.ids + spelled(tokenizer, "<escap>") + end.ids)
    assert not fits(vocabulary, head.ids + spelled(tokenizer, "<escape>") + end.ids)


@pytest.mark.parametrize("form", [FUNCTIONGEMMA, GEMMA4], ids=lambda form: form.name)
def test_keys_are_sorted_as_the_templates_sort_them(form):
    grammar = grammar_of(form, functions_of([TOOL]))
    open_, close = form.call
    room, on = f"room:{form.escape}x{form.escape}", f"B:{form.escape}on{form.escape}"
    assert accepts(grammar, f"{open_}call:f{{{on},{room}}}{close}")
    assert not accepts(grammar, f"{open_}call:f{{{room},{on}}}{close}")
    assert not accepts(grammar, f"{open_}call:f{{ {room}}}{close}")


def test_what_cannot_be_written_is_named_with_its_path():
    parameters = {
        "type": "object",
        "properties": {
            "o": {"type": "object", "properties": {"k": {"enum": ["a<escape>b"]}}},
            "l": {"type": "array", "items": {"const": "<escape>"}},
            "a<escape>": {"type": "integer"},
        },
    }
    tools = [{"name": "f", "parameters": parameters}, {"name": "a b"}]
    with pytest.raises(ParameterError) as error:
        FUNCTIONGEMMA.grammar(functions_of(tools), literal)
    faults = "\n".join(error.value.items)
    assert "a b: cannot be a function's name" in faults
    for path in ("f.o.k", "f.l[]", "f.a<escape>"):
        assert f"{path}: a string that holds <escape>" in faults
    assert GEMMA4.grammar(functions_of(tools[:1]), literal).rules  # whose marker is another
