"""The formats whose calls are JSON between markers: variants that are read, and faults."""

import pytest
from walking_calls import accepts, grammar_of

from lorakit.chat.calls import ToolCall
from lorakit.chat.constraints.declared import functions_of
from lorakit.chat.tools import get_format
from lorakit.errors import ParameterError

F = '{"name": "f", "arguments": {"a": 1}}'
G = '{"name": "g", "parameters": {}}'
DEEP = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>"
ENDS = "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"


@pytest.mark.parametrize(
    ("name", "reply", "names", "text"),
    [
        ("phi4", f"<|tool_call|>[{F}, {G}]<|/tool_call|>", "fg", ""),
        ("phi4", f"<|tool_call|>{F}<|/tool_call|><|end|>", "f", ""),
        ("phi4", f"I call.<|tool_call|>[{F}]", "f", "I call."),
        ("phi4", f"functools[{F}, {G}]", "fg", ""),
        ("phi4", f"functools[{F}] is a list", "f", " is a list"),
        ("granite", f"<|tool_call|>[{F}, {G}]<|end_of_text|>", "fg", ""),
        ("granite", f"<|tool_call|> {F}", "f", ""),
        ("granite", f"<tool_call>[{F}]</tool_call>", "f", ""),
        ("mistral", f"[TOOL_CALLS] [{F}, {G}]</s>", "fg", ""),
        ("mistral", f'[TOOL_CALLS][{F[:-1]}, "id": "abcdefghi"}}]', "f", ""),
        ("mistral", '[TOOL_CALLS]f[ARGS]{"a": 1}', "f", ""),
        ("mistral11", '[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[ARGS]{}</s>', "fg", ""),
        ("mistral11", '[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{"a": 1}', "f", ""),
        ("mistral11", '[TOOL_CALLS]f{"a": 1}', "f", ""),
        ("mistral11", f"[TOOL_CALLS] [{F}]", "f", ""),
        ("mistral11", '[THINK]so[/THINK]Yes.[TOOL_CALLS]f[ARGS]{"a": 1}', "f", "Yes."),
        ("llama3_function", '<function=f>{"a": 1}</function><function=g>{}</function>', "fg", ""),
        ("llama3_function", 'Ok <function=f> {"a": 1}<|eom_id|>', "f", "Ok"),
        ("deepseek", f'</think>{DEEP}f\n```json\n{{"a": 1}}\n```{ENDS}', "f", ""),
        ("deepseek", f'{DEEP}f\n{{"a": 1}}{ENDS}<｜end▁of▁sentence｜>', "f", ""),
        (
            "deepseek",
            f"{DEEP}f\n```json\n{{}}\n```<｜tool▁call▁end｜>\n"
            f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>g\n```json\n{{}}\n```{ENDS}",
            "fg",
            "",
        ),
        ("json", F, "f", ""),
        ("json", f"\n[{F}, {G}]\n", "fg", ""),
        ("json", f"```json\n{F}\n```", "f", ""),
        ("json", f"```\n[{F}]\n```\n", "f", ""),
        ("json", f"{F}\n{G}", "fg", ""),
        ("json", f"<think>?</think>{F}", "f", ""),
        ("json", "Use " + F, "", "Use " + F),
        ("json", '{"name": "Bob", "age": 3}', "", '{"name": "Bob", "age": 3}'),
        ("json", "```json\n[1, 2]\n```", "", "```json\n[1, 2]\n```"),
    ],
)
def test_variants_are_read(name, reply, names, text):
    parsed = get_format(name).parse(reply)
    assert not parsed.malformed
    assert "".join(call.name for call in parsed.tool_calls) == names
    assert parsed.text.strip() == text.strip()


@pytest.mark.parametrize(
    ("name", "reply", "calls", "reason"),
    [
        ("phi4", "<|tool_call|>[]<|/tool_call|>", 0, "empty"),
        ("phi4", f"<|tool_call|>[{F}] and", 1, "expected <|/tool_call|>"),
        ("phi4", "functools[1]", 0, "expected a JSON object"),
        ("granite", f"<|tool_call|>[{F} {G}]", 1, "expected ',' or ']'"),
        ("granite", f"<|tool_call|>[{F}, 1]", 1, "expected a JSON object"),
        ("granite", f"<tool_call>[{F}] so", 1, "expected </tool_call>"),
        ("mistral", "[TOOL_CALLS]", 0, "expected a list of calls or a name"),
        ("mistral", '[TOOL_CALLS] [{"name": "f", ', 0, "not valid JSON"),
        ("mistral11", "[TOOL_CALLS]f", 0, "expected [ARGS]"),
        ("mistral11", "[TOOL_CALLS]f[CALL_ID][ARGS]{}", 0, "identity"),
        ("mistral11", "[TOOL_CALLS]f[ARGS][1]", 0, "must be an object"),
        ("llama3_function", "<function=>{}</function>", 0, "no name"),
        ("llama3_function", "<function=f{}</function>", 0, "expected '>'"),
        ("llama3_function", "<function=f>[]</function>", 0, "must be an object"),
        ("llama3_function", "<function=f>{} so", 0, "expected </function>"),
        ("deepseek", f"{DEEP}\n{{}}{ENDS}", 0, "no name"),
        ("deepseek", f"{DEEP}f\n```json\n{{}}{ENDS}", 0, "expected ```"),
        ("deepseek", f"{DEEP}f\n[]{ENDS}", 0, "must be an object"),
        ("deepseek", f"{DEEP}f\n{{}}<｜tool▁call▁end｜>more", 1, "or another call"),
        ("json", '{"name": "f", "arguments": [1]}', 0, "must be an object"),
        ("json", f"{F} and more", 1, "not valid JSON"),
    ],
)
def test_faults_are_reported_with_a_reason(name, reply, calls, reason):
    parsed = get_format(name).parse(reply)
    assert len(parsed.tool_calls) == calls
    (bad,) = parsed.malformed
    assert reason in bad.reason
    assert reply[bad.position :].startswith(bad.text)


@pytest.mark.parametrize(
    ("name", "reply"),
    [
        ("phi4", '<|tool_call|>[{"name": "f", "arguments": {"a": True,}}]<|/tool_call|>'),
        ("granite", "<|tool_call|>[{'name': 'f', 'arguments': {'a': True}}]"),
        ("mistral", '[TOOL_CALLS] [{"name": "f", "arguments": {"a": True}}]</s>'),
        ("mistral11", '[TOOL_CALLS]f[ARGS]{"a": True}'),
        ("llama3_function", '<function=f>{"a": True,}</function>'),
        ("deepseek", f'{DEEP}f\n```json\n{{"a": True}}\n```{ENDS}'),
        ("json", '{"name": "f", "arguments": {"a": True}}'),
    ],
)
def test_slips_are_mended_where_that_is_asked_for(name, reply):
    form = get_format(name)
    assert form.parse(reply).malformed
    mended = form.parse(reply, repair=True)
    assert not mended.malformed
    assert [call.arguments for call in mended.tool_calls] == [{"a": True}]
    assert mended.repairs


@pytest.mark.parametrize("name", ["mistral11", "llama3_function", "deepseek", "functiongemma"])
def test_names_that_cannot_be_written_are_named(name):
    tool = {"name": "a b", "parameters": {"type": "object", "properties": {}}}
    with pytest.raises(ParameterError, match="a b"):
        get_format(name).grammar(functions_of([tool]), repr)
    with pytest.raises(ParameterError, match="cannot name a function"):
        get_format(name).render_call(ToolCall(name="a b"))


def test_an_identity_may_be_written_before_the_arguments():
    form = get_format("mistral11")
    grammar = grammar_of(form, functions_of([{"name": "f"}]))
    assert accepts(grammar, "[TOOL_CALLS]f[ARGS]{}")
    assert accepts(grammar, "[TOOL_CALLS]f[CALL_ID]abcDEF123[ARGS]{}[TOOL_CALLS]f[ARGS]{}")
    assert not accepts(grammar, "[TOOL_CALLS]f[CALL_ID]abc[ARGS]{}")
    grammar = grammar_of(get_format("mistral"), functions_of([{"name": "f"}]))
    assert accepts(grammar, '[TOOL_CALLS][{"name": "f", "arguments": {}}]')


@pytest.mark.parametrize(
    ("name", "declared", "response"),
    [
        ("phi4", '<|tool|>[{"name": "f"}]<|/tool|>', '<|tool_response|>"ok"'),
        (
            "granite",
            '{"type": "function", "function": {"name": "f"}}',
            "<|start_of_role|>tool_response<|end_of_role|>ok<|end_of_text|>",
        ),
        (
            "mistral",
            '[AVAILABLE_TOOLS] [{"type": "function", "function": {"name": "f"}}][/AVAILABLE_TOOLS]',
            '[TOOL_RESULTS] {"content": "ok"}[/TOOL_RESULTS]',
        ),
        (
            "mistral11",
            '[AVAILABLE_TOOLS][{"type": "function", "function": {"name": "f"}}][/AVAILABLE_TOOLS]',
            "[TOOL_RESULTS]ok[/TOOL_RESULTS]",
        ),
        ("llama3_function", '{"type": "function", "function": {"name": "f"}}', "ok"),
        (
            "deepseek",
            '{"type": "function", "function": {"name": "f"}}',
            "<｜tool▁output▁begin｜>ok<｜tool▁output▁end｜>",
        ),
        ("json", '{"type": "function", "function": {"name": "f"}}', "ok"),
    ],
)
def test_declarations_and_responses(name, declared, response):
    form = get_format(name)
    assert form.render_declaration({"name": "f"}) == declared
    assert form.render_response("f", "ok") == response
