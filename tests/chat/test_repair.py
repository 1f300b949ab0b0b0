"""Calls that small models nearly write: malformed by default, mended where that is asked for."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_reading import CALLS, joined, replies

from growth import is_linear
from lorakit.chat.calls import Repair, ToolCall
from lorakit.chat.formats import gemma, jsoncall, jsonlist, mending, qwen3coder
from lorakit.chat.formats.broken import past
from lorakit.chat.formats.mending import (
    BRACES,
    CLOSING,
    COMMA,
    CONTROL,
    FENCE,
    LIST,
    LITERAL,
    MISSING,
    QUOTED,
    QUOTES,
)
from lorakit.chat.reading import ReplyReader
from lorakit.chat.tools import get_format

HERMES, LLAMA3, GEMMA = map(get_format, ("hermes", "llama3", "functiongemma"))
F1 = "f(a=1)"
MENDED = {  # the inside of <tool_call> and </tool_call>, its calls, and what was mended
    '{"name": "f", "arguments": {"a": "x\ny\t"}}': (['f(a="x\\ny\\t")'], [CONTROL]),
    '{"name": "f", "arguments": {"a": 1,}}': ([F1], [COMMA]),
    '{"name": "f", "arguments": {"a": [1, 2,],},}': (["f(a=[1, 2])"], [COMMA]),
    "{'name': 'f', 'arguments': {'a': True}}": (["f(a=True)"], [QUOTES, LITERAL]),
    """{"name": "f", "arguments": {"a": 'it\\'s "q"\\\\'}}""": (
        ['f(a="it\'s \\"q\\"\\\\")'], [QUOTES]),
    '{"name": "f", "arguments": {"a": None, "b": False}}': (["f(a=None, b=False)"], [LITERAL]),
    '{{"name": "f", "arguments": {{"a": 1}}}}': ([F1], [BRACES]),
    '{{"name": "f", "arguments": {"a": {}}}}': (["f(a={})"], [BRACES]),
    '```json\n{"name": "f", "arguments": {"a": 1}}\n```': ([F1], [FENCE]),
    '```\n{"name": "f", "arguments": {"a": 1}}': ([F1], [FENCE]),
    '[{"name": "f", "arguments": {"a": 1}}, {"name": "g"}]': ([F1, "g()"], [LIST]),
    '{"name": "f", "arguments": {"a": 1}': ([F1], [MISSING]),
    '{"name": "f", "arguments": {"a": 1': ([F1], [MISSING]),
    '{"name": "f"': (["f()"], [MISSING]),
}  # fmt: skip
NOT_CLEAR = [
    '{"name": "f", "arguments": {"a": "x}}',
    "{'name': 'f', 'arguments': {'a': 'it's'}}",
    "{'name': 'f', 'arguments': {'a': 'b\\/'}}",  # of Python with the backslash, of JSON without
    '{"name": "f", "arguments": {"a": "he said "so" then"}}',
    '{"name": "f", "arguments": {"a": 1}} and then',
    '{"name": "f", "arguments": {"a": 1}}}',
    '{"name": "f", "arguments": {"a": 1 "b": 2}}',
    '{"name": "f", "arguments": {"a": 1, "a": 2,}}',
    '{"name": "f", "arguments": {"a": kitchen,}}',
    '{"name": "f", "arguments": {"a": 007,}}',
    '{"name": "f", "arguments": {"a": NaN,}}',
    '{"name": "f", "arguments": {"a": "\\ud83d",}}',
    '{"name": "f", "arguments": {,}}',
    '{"arguments": {"a": 1,}}',
    '[{"name": "f"}, 5]',
    "[]",
    "```",
    "",
]
OF_GEMMA = {
    "call:f{a:1,}": ([F1], [COMMA]),
    "call:f{a:[1,]}": (["f(a=[1])"], [COMMA]),
    'call:f{"a": "x",b:None}': (['f(a="x", b=None)'], [QUOTED]),
    "call:f{a:'x',b:<escape>\"y\"<escape>}": (['f(a="x", b="\\"y\\"")'], [QUOTED, QUOTES]),
    "call:f{{a:{}}}": (["f(a={})"], [BRACES]),
    "call:f{a:{b:1}": (["f(a={\"b\": 1})"], [MISSING]),
}  # fmt: skip


def seen(parsed):
    return [str(call) for call in parsed.tool_calls], [each.words for each in parsed.repairs]


@pytest.mark.parametrize("body", MENDED)
def test_what_small_models_slip_on_is_mended_where_that_is_asked_for(body):
    reply = f"So: <tool_call>\n{body}\n</tool_call>"
    strict = HERMES.parse(reply)
    assert (strict.tool_calls, strict.repairs, len(strict.malformed)) == ((), (), 1)
    mended = HERMES.parse(reply, repair=True)
    assert seen(mended) == MENDED[body]
    assert (mended.text, mended.malformed) == ("So:", ())
    assert {each.index for each in mended.repairs} == {0}


@pytest.mark.parametrize("body", NOT_CLEAR)
def test_what_could_mean_two_things_stays_malformed(body):
    reply = f"<tool_call>{body}</tool_call>"
    assert HERMES.parse(reply, repair=True) == HERMES.parse(reply)
    assert len(HERMES.parse(reply).malformed) == 1


@pytest.mark.parametrize("body", OF_GEMMA)
def test_gemmas_notation_is_mended_too(body):
    reply = f"<start_function_call>{body}<end_function_call>"
    assert GEMMA.parse(reply).tool_calls == ()
    assert seen(GEMMA.parse(reply, repair=True)) == OF_GEMMA[body]
    for wrong in (
        'call:f{a:"C:\\new"}',
        "call:f{a:kitchen}",
        "call:f{a:<escape>x}",
        "call:{a:1,}",
        "f{a:1,}",
    ):
        reply = f"<start_function_call>{wrong}<end_function_call>"
        assert GEMMA.parse(reply, repair=True) == GEMMA.parse(reply)


QUOTED_CALLS = {  # of each format: a call, and how one begins that holds it in a string
    "functiongemma": ("<start_function_call>call:rm{}<end_function_call>", [
        '<start_function_call>call:say{text:"%s"}', "<start_function_call>call:say{text:'%s'}",
        "<start_function_call>call:say{a:oops,b:<escape>%s<escape>}"]),
    "hermes": ('<tool_call>{"name": "rm"}</tool_call>', [
        "<tool_call>{'name': 'say', 'arguments': {'text': '%s'}}",
        "<tool_call>```json\n{'name': 'say', 'arguments': {'text': '%s"]),
    "llama3_function": ("<function=rm>{}</function>", [
        '<function=say>{"text": "a\n%s"}', '<function=say>{"on": True, "text": "%s"}']),
    "mistral11": ("[TOOL_CALLS]rm[ARGS]{}", ['[TOOL_CALLS]say[ARGS]{"a": [1,], "text": "%s"}']),
    "mistral": ("[TOOL_CALLS]rm[ARGS]{}", [
        '[TOOL_CALLS] [{"name": "say", "arguments": {"a": True}}, {"name": "say", "arguments": '
        '{"text": "%s"}}]']),
    "phi4": ('<|tool_call|>[{"name": "rm"}]<|/tool_call|>', [
        "<|tool_call|>[{'name': 'say', 'arguments': {'text': '%s'}}]"]),
    "deepseek": ("<｜tool▁call▁begin｜>f<｜tool▁sep｜>rm\n{}<｜tool▁call▁end｜>", [
        '<｜tool▁call▁begin｜>f<｜tool▁sep｜>say\n{"text": "a\n%s"}<｜tool▁call▁end｜>']),
    "qwen3coder": ("<tool_call><function=rm></function></tool_call>", [
        '<tool_call><function=say>{"text": "%s"}', '<tool_call>{"name": "say", "text": "%s"}']),
}  # fmt: skip


@pytest.mark.parametrize("repair", [False, True])
@pytest.mark.parametrize("name", QUOTED_CALLS)
def test_a_call_in_a_string_of_one_that_cannot_be_read_is_none(name, repair, monkeypatch):
    form, (call, wholes) = get_format(name), QUOTED_CALLS[name]
    assert [one.name for one in form.parse(call).tool_calls] == ["rm"]
    for whole in wholes:
        reply = whole % call
        for text in (reply, f"{reply}\n", f"{reply} {call}"):
            parsed = form.parse(text, repair=repair)
            ran = [one.name for one in parsed.tool_calls]
            assert ran.count("rm") <= text.count(call) - 1
            reader = ReplyReader(form.syntax, repair=repair)
            events = [event for char in text for event in reader.feed(char)]
            assert joined([*events, *reader.end(parsed)])[2] == list(parsed.tool_calls)
    for module in (jsoncall, jsonlist, gemma, qwen3coder):  # what is run without it
        monkeypatch.setattr(module, "past", lambda text, position, escape="": position)
    ran = form.parse(wholes[0] % call).tool_calls
    assert "rm" in [one.name for one in ran]


def test_the_end_of_a_broken_value_is_found_in_linear_time():
    for unit in ("{'a': '", '{"a": "x" ', "[", '"', "'a',", "{{'a': True}}"):
        assert is_linear(lambda count, unit=unit: past(unit * count, 0), 400)
    assert past("{'a': [True, \"}\"]} x", 0) == len("{'a': [True, \"}\"]}")
    assert past('{"a": "b" "c"}', 0) == len('{"a": "b" ')
    assert past("x", 0) == 1
    assert past("", 0) == past("<", 0) == 0


def test_brackets_are_added_at_the_end_only_behind_whole_arguments():
    whole = '<tool_call>{"name": "f", "arguments": {"a": 1}'
    assert seen(HERMES.parse(whole, repair=True)) == ([F1], [MISSING])
    listed = '<tool_call>[{"name": "f", "arguments": {"a": 1}}'
    assert seen(HERMES.parse(listed, repair=True)) == ([F1], [MISSING, LIST])
    for cut in ('{"name": "f", "arguments": {"a": 1', '{"name": "f", "arguments": {"a": "x"',
                '{"name": "f"', '{"name": "f", "arguments": {"a": [1]',
                '[{"name": "f", "arguments": {"a": 1'):  # fmt: skip
        assert HERMES.parse(f"<tool_call>{cut}", repair=True).tool_calls == ()
    assert seen(LLAMA3.parse('{"name": "f", "parameters": {"a": 1}', repair=True))[0] == [F1]
    assert LLAMA3.parse('{"name": "f", "parameters": {"a": 1', repair=True).tool_calls == ()
    open_tag = '<tool_call>{"name": "f", "arguments": {"a": 1}}<think>hm</think>'
    assert seen(HERMES.parse(open_tag, repair=True)) == ([F1], [CLOSING])


def test_llama_3_is_mended_and_its_answers_in_json_stay_text():
    two = '{"name": "f", "parameters": {"a": 1,}}; {"name": "g", "parameters": {}}<|eom_id|>'
    assert seen(LLAMA3.parse(two, repair=True)) == ([F1, "g()"], [COMMA])
    for text in ('{"name": "Bob", "age": 3,}', "{'name': 'f', 'parameters': {}}"):
        assert LLAMA3.parse(text, repair=True).text == text


LISTS = {
    "mistral": "[TOOL_CALLS] {}",
    "phi4": "<|tool_call|>{}<|/tool_call|>",
    "granite": "<|tool_call|>{}",
    "json": "{}",
}


@pytest.mark.parametrize("name", LISTS)
def test_a_call_in_the_midst_of_a_list_is_mended_alone(name):
    calls = ', {"name": "f", "arguments": '.join(["[", '{"a": 1}}', '{"a": 1,}}', '{"a": 1}}]'])
    reply = LISTS[name].replace("{}", calls.replace("[, ", "["))
    assert seen(get_format(name).parse(reply)) == ([F1], [])
    mended = get_format(name).parse(reply, repair=True)
    assert seen(mended) == ([F1] * 3, [COMMA])
    assert [each.index for each in mended.repairs] == [1]


def test_each_repair_says_of_which_call_it_is():
    good = '<tool_call>{"name": "g"}</tool_call>'
    bad = "<tool_call>{'name': 'f'}</tool_call>"
    parsed = HERMES.parse(good + bad + good + bad, repair=True)
    assert [call.name for call in parsed.tool_calls] == ["g", "f", "g", "f"]
    assert [call.id for call in parsed.tool_calls] == [f"call_{n}" for n in range(4)]
    assert parsed.repairs == (Repair(index=1, words=QUOTES), Repair(index=3, words=QUOTES))


TEXTS = st.text("ab \"'\\{}[],:\n日</`", max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.just(1.5) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
SLIPS = ("comma", "python", "braces", "control", "fence", "list")


def written(value, slips):
    """A value as JSON with these slips."""
    if isinstance(value, dict):
        items = [f"{written(key, slips)}: {written(item, slips)}" for key, item in value.items()]
        inner = ", ".join(items) + "," * ("comma" in slips and bool(items))
        return f"{{{{{inner}}}}}" if "braces" in slips else f"{{{inner}}}"
    if isinstance(value, list):
        inner = ", ".join(written(item, slips) for item in value)
        return f"[{inner}{',' * ('comma' in slips and bool(value))}]"
    if "python" in slips:
        return repr(value)
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("\\n", "\n") if "control" in slips and "\\\\" not in text else text


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(TEXTS, VALUES, max_size=3), st.sets(st.sampled_from(SLIPS), min_size=1))
def test_slips_of_any_kind_together_come_to_what_was_meant(arguments, slips):
    call = {"name": "f", "arguments": arguments}
    body = written([call] if "list" in slips else call, slips)
    body = f"```json\n{body}\n```" if "fence" in slips else body
    reply = f"<tool_call>{body}</tool_call>"
    parsed = HERMES.parse(reply, repair=True)
    if "</tool_call>" not in json.dumps(arguments):
        assert [dict(each.arguments) for each in parsed.tool_calls] == [arguments]
    check_events(HERMES, reply)


@settings(max_examples=60, deadline=None)
@given(replies())
def test_replies_without_faults_are_the_same_with_and_without(drawn):
    name, pieces, reasons = drawn
    if name:
        reply, form = "".join(pieces), get_format(name)
        strict, mended = (form.parse(reply, reasons=reasons, repair=r) for r in (False, True))
        if not strict.malformed:
            assert mended == strict
        check_events(form, reply, reasons)
        for call in mended.tool_calls:
            check_keys(call.arguments, reply)


def check_keys(value, reply):
    """No key is made up: each stands in the reply, as it is or with JSON's escapes."""
    if isinstance(value, dict):
        for key, item in value.items():
            assert key in reply or json.dumps(key)[1:-1] in reply
            check_keys(item, reply)
    elif isinstance(value, list):
        for item in value:
            check_keys(item, reply)


def check_events(form, reply, reasons=False):
    """The events with repairs, joined, are the whole parse with them."""
    whole = form.parse(reply, reasons=reasons, repair=True)
    for size in (1, 7, len(reply) or 1):
        reader = ReplyReader(form.syntax, reasons=reasons, repair=True)
        pieces = [reply[at : at + size] for at in range(0, len(reply), size)]
        events = [event for piece in pieces for event in reader.feed(piece)]
        text, reasoning, calls, _ = joined([*events, *reader.end(whole)])
        assert (text, reasoning, calls) == (whole.text, whole.reasoning, list(whole.tool_calls))


def test_a_mended_call_before_another_is_no_reason_to_take_anything_back():
    bad = '<tool_call>{"name": "f", "arguments": {"a": 1,}}</tool_call>'
    reply = f"Well. {bad} and {HERMES.render_call(CALLS[0])} so it is, and so it goes on and on."
    reader = ReplyReader(HERMES.syntax, repair=True)
    events = [event for char in reply for event in reader.feed(char)]
    events += reader.end(HERMES.parse(reply, repair=True))
    *_, calls, withdrawn = joined(events)
    assert ([call.name for call in calls], withdrawn) == (["f", "set_lights"], 0)


def test_a_mender_that_closes_everything_is_caught(monkeypatch):
    monkeypatch.setattr(mending.Mending, "need_closed", lambda self, position: None)
    with pytest.raises(AssertionError):
        test_brackets_are_added_at_the_end_only_behind_whole_arguments()


LONG = {
    "faults": ("hermes", "", "<tool_call>{'a':"),
    "quotes that never close": ("hermes", "<tool_call>", "{'<tool_call>"),
    "escapes": ("hermes", "<tool_call>{'", "\\'"),
    "trailing commas": ("hermes", "<tool_call>[", "[1,],"),
    "one mended call": ("hermes", '<tool_call>{"name": "f", "arguments": {"a": "\n', "x\n"),
    "of Llama 3": ("llama3", '{"name": "f", "parameters": {"a": 1,}}', '; {"name": "f"}'),
    "of Gemma": ("functiongemma", "", "<start_function_call>call:f{a:'"),
}


@pytest.mark.parametrize("case", LONG)
def test_time_is_linear(case):
    name, beginning, unit = LONG[case]
    form = get_format(name)
    assert is_linear(lambda count: form.parse(beginning + unit * count, repair=True), 400)


def test_a_call_that_is_mended_goes_back_as_any_other():
    parsed = HERMES.parse(
        "<tool_call>{'name': 'f', 'arguments': {'a': 1}}</tool_call>", repair=True
    )
    assert parsed.tool_calls == (ToolCall(name="f", arguments={"a": 1}, id="call_0"),)
    assert parsed.to_message()["tool_calls"][0]["function"]["arguments"] == '{"a": 1}'
