"""Every format's calls within a reply: required, under auto and under none, tags as text."""

import pytest
from byte_tokens import END, ByteTokens, fits

from lorakit.chat.calls import ToolCall
from lorakit.chat.constraints.declared import functions_of
from lorakit.chat.constraints.replies import ToolUse, mark_or_text, reply_grammar
from lorakit.chat.constraints.vocabulary import Vocabulary
from lorakit.chat.tools import FORMATS

LIGHT = {
    "name": "set_light",
    "parameters": {
        "properties": {"room": {"type": "string"}, "on": {"type": "boolean"}},
        "required": ["room"],
    },
}
TOKENS = ByteTokens((END,))
PLAIN = Vocabulary(TOKENS, [TOKENS.end])
CALL = ToolCall(name="set_light", arguments={"on": True, "room": "the bath"}, id="abcdefghi")
HALF = ToolCall(name="set_light", arguments={"on": "maybe", "room": "x"}, id="abcdefghi")


def takes(form, text, mode):
    use = ToolUse(functions=functions_of([LIGHT]), mode=mode)
    grammar = reply_grammar(form, use, mark=mark_or_text(PLAIN.mark))
    return fits(grammar, text, TOKENS, PLAIN)


def told(form):
    """A format that has to know the tools' types knows them."""
    return form.with_tools([LIGHT]) if hasattr(form, "with_tools") else form


@pytest.mark.parametrize("name", FORMATS)
def test_a_call_is_taken_where_there_may_be_one(name):
    form = told(FORMATS[name].format)
    parameters = {**CALL.arguments}
    properties = {key: LIGHT["parameters"]["properties"][key] for key in parameters}
    ordered = {**LIGHT, "parameters": {**LIGHT["parameters"], "properties": properties}}
    use = {mode: ToolUse(functions=functions_of([ordered]), mode=mode)
           for mode in ("auto", "required", "none")}  # fmt: skip

    def taken(text, mode):
        grammar = reply_grammar(form, use[mode], mark=mark_or_text(PLAIN.mark))
        return fits(grammar, text, TOKENS, PLAIN)

    call = form.render_call(CALL)
    assert taken(call, "required")
    assert taken(call, "auto")
    assert not taken(call, "none")
    assert taken("hello there", "auto")
    assert taken("hello there", "none")
    assert not taken("hello there", "required")


@pytest.mark.parametrize("name", FORMATS)
def test_a_call_that_does_not_fit_is_never_taken(name):
    form = told(FORMATS[name].format)
    for mode in ("required", "auto", "none"):
        assert not takes(form, form.render_call(HALF), mode)
        other = ToolCall(name="other", arguments={}, id="abcdefghi")
        assert not takes(form, form.render_call(other), mode)
