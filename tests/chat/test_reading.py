"""A reply read in pieces: its events, joined, are the whole parse, however it was cut."""

import itertools
import json
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from growth import is_linear
from lorakit.chat import in_progress, reading, saying, scanning
from lorakit.chat.arguments import Growing
from lorakit.chat.calls import NO_CALLS, ToolCall
from lorakit.chat.events import (
    CallArguments,
    CallEnd,
    CallStart,
    CallWithdrawn,
    ReasoningDelta,
    TextDelta,
    Withdrawn,
)
from lorakit.chat.formats import gemma_arguments, hermes
from lorakit.chat.reading import ReplyReader
from lorakit.chat.scanning import take_apart
from lorakit.chat.tools import FORMATS, get_format

CALLS = [
    ToolCall(name="set_lights", arguments={"room": "kitchen, left", "on": False}),
    ToolCall(name="f", arguments={"a": {"b": [1, 2.5, None, {"c": "x}]"}]}, "t": "</tool_call>"}),
    ToolCall(name="g"),
]
MARKS = {
    "functiongemma": ["<start_function_call>", "<end_function_call>", "<escape>", "<end_of_turn>",
                      "call:", "call:f{a:1}", "<start_function_response>"],
    "gemma4": ["<|tool_call>", "<tool_call|>", '<|"|>', "<turn|>", "call:f{a:1}", "<|channel>",
               "thought", "<channel|>"],
    "hermes": ["<tool_call>", "</tool_call>", "<|im_end|>", '{"name": "f"}', '{"name":'],
    "llama3": ["<|python_tag|>", ";", "<|eom_id|>", "<|eot_id|>", '{"name": "f", "parameters": {}}',
               '{"name": "f", "age": 3}', '{"a": 1}', '{"type" : '],
    "qwen3coder": ["<tool_call>", "</tool_call>", "<function=f>", "</function>", "<parameter=a>",
                   "<parameter=b>", '"', "{", "[", "</parameter>", "<|im_end|>",
                   "<function=g>\n</function>"],
    "llama3_function": ["<function=f>", "</function>", "{}", '{"a": 1}', "<|eom_id|>",
                        "<function="],
    "mistral": ["[TOOL_CALLS]", "[TOOL_CALLS] [", '{"name": "f"}', "]", ", ", "[ARGS]", "</s>"],
    "mistral11": ["[TOOL_CALLS]", "f", "[ARGS]", "{}", '{"a": 1}', "[CALL_ID]",
                  "[TOOL_CALLS]g[ARGS]{}"],
    "phi4": ["<|tool_call|>", "<|/tool_call|>", '[{"name": "f"}]', "functools[", "]",
             '{"name": "g"}'],
    "deepseek": ["<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>",
                 "function", "<｜tool▁sep｜>", "f", "\n```json\n{}\n```", "<｜tool▁call▁end｜>"],
    "granite": ["<|tool_call|>", "<tool_call>", "</tool_call>", '[{"name": "f"}]',
                "<|end_of_text|>"],
    "json": ["```json", "```", "[", "]", ";", '{"name": "f", "arguments": {}}',
             '{"name": "f", "age": 3}', '{"a": 1}'],
    "": [],
}  # fmt: skip
TAGS = ["<think>", "</think>", "<THINK>", "< / think >", "[THINK]", "[/THINK]", "`<think>`",
        "`</think>`", "'", "`", "◁think▷", "◁/think▷", "<seed : think>", "<thought>", "</thoughts>",
        "<|channel>", "<channel|>"]  # fmt: skip
WORDS = ["words", " ", "\n", "  \n\n", "a", "<", "</", "[", "{", "}", '"', "\\", "日本", "1", ",",
         "<th", "ink>", "<tool", "_call>", "<|", "|>", "\x00", "\x1c"]  # fmt: skip
NAMES = list(MARKS)


def parse(name, reply, reasons):
    form = get_format(name) if name else None
    return (
        form.parse(reply, reasons=reasons) if form else take_apart(reply, NO_CALLS, reasons=reasons)
    )


def reader(name, reasons=False):
    return ReplyReader(get_format(name).syntax if name else NO_CALLS, reasons=reasons)


def joined(events):
    """What the events say: text, reasoning, calls, and whether any were withdrawn."""
    text, reasoning, calls, withdrawn = "", "", [], 0
    begun = None  # the call that was begun: its name and its arguments
    for event in events:
        if isinstance(event, TextDelta):
            assert event.text
            text += event.text
        elif isinstance(event, ReasoningDelta):
            assert event.text
            reasoning += event.text
        elif isinstance(event, CallStart):
            assert (event.index, begun) == (len(calls), None)
            begun = [event.name, ""]
        elif isinstance(event, CallArguments):
            assert event.text
            assert event.index == len(calls)
            begun[1] += event.text
        elif isinstance(event, CallEnd):
            assert event.index == len(calls)
            assert begun[0] == event.call.name
            assert json.loads(begun[1] or "null") == event.call.arguments
            calls.append(event.call)
            begun = None
        elif isinstance(event, CallWithdrawn):
            assert begun
            assert event.index == len(calls)
            begun = None
        else:
            assert isinstance(event, Withdrawn)
            begun = None
            text, reasoning, calls, withdrawn = "", "", [], withdrawn + 1
    return text, reasoning, calls, withdrawn


def unfinished(events):
    """Whether a call was begun that neither ended nor was withdrawn."""
    kinds = (CallStart, CallEnd, CallWithdrawn, Withdrawn)
    *_, last = [None, *(event for event in events if isinstance(event, kinds))]
    return isinstance(last, CallStart)


def cut(reply, places):
    places = [0, *sorted({p % (len(reply) + 1) for p in places}), len(reply)]
    return [reply[a:b] for a, b in itertools.pairwise(places)]


def withdraws(name, reply, reasons):
    """Whether a tag closes reasoning that nothing opened: the whole parse then begins anew."""
    made = []

    class Counted(scanning._Parts):
        def __init__(self, **given):
            made.append(1)
            super().__init__(**given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scanning, "_Parts", Counted)
        parse(name, reply, reasons)
    return len(made) > 1


def check(name, pieces, reasons=False):
    reply = "".join(pieces)
    whole = parse(name, reply, reasons)
    reading = reader(name, reasons)
    events = [event for piece in pieces for event in reading.feed(piece)]
    text, reasoning, calls, withdrawn = joined(events)
    events += reading.end(whole)
    *parts, _ = joined(events)
    assert not unfinished(events)
    assert parts == [whole.text, whole.reasoning, list(whole.tool_calls)]
    if not withdraws(name, reply, reasons):  # then nothing is ever taken back
        assert withdrawn == 0
        if not whole.malformed:
            assert not any(isinstance(event, CallWithdrawn) for event in events)
        assert whole.text.startswith(text)
        assert whole.reasoning.startswith(reasoning)
        assert list(whole.tool_calls[: len(calls)]) == calls


@st.composite
def replies(draw):
    """(format, pieces, reasons) of what its models write, and of what they should not."""
    name = draw(st.sampled_from(NAMES))
    form = get_format(name) if name else None
    written = [form.render_call(call) for call in CALLS] if form else []
    parts = [*MARKS[name] * 2, *written * 3, *TAGS, *WORDS]
    reply = "".join(draw(st.lists(st.sampled_from(parts), max_size=12)))
    places = draw(st.lists(st.integers(0, 1 << 16), max_size=12))
    return name, cut(reply, places), draw(st.booleans())


@settings(max_examples=600, deadline=None)
@given(replies())
def test_events_joined_are_the_whole_parse(drawn):
    check(*drawn)


@settings(max_examples=150, deadline=None)
@given(replies())
def test_also_one_character_at_a_time(drawn):
    name, pieces, reasons = drawn
    check(name, list("".join(pieces)), reasons)


CALL = '<tool_call>{"name": "f"}</tool_call>'
WRITTEN = get_format("hermes").render_call(CALLS[0])
GREEDY = replace(
    hermes._SYNTAX,
    growing=Growing(name=re.compile(r'[^"]*"name": "(?P<name>\w+)'), arguments=re.compile("x")),
)
OTHER = CALL.replace('"f"', '"g"')
GEMMA = f"<start_function_call>call:f{{a:{10**18}}}"  # read again as it is twice as long
BROKEN = {
    "no beginning of a tag waits": ("hermes", "a <think>b</think>", reading, "_start",
                                    lambda pattern, text, at: len(text)),
    "no beginning of an opening waits": ("hermes", f"a {CALL}", reading, "held", lambda _, __: 0),
    "no stop token waits": ("hermes", f"{CALL} done<|im_end|>", saying, "held", lambda _, __: 0),
    "errors count at once": ("hermes", [CALL[:-6], CALL[-6:], OTHER], reading, "MARGIN", 0),
    "what ends with the text is whole": ("functiongemma", f"{GEMMA}x", reading, "END", ""),
    "no half of a delimiter waits": ("gemma4", '<|tool_call>call:f{a:<|"|>b<|"|>}<tool_call|>',
                                     gemma_arguments, "held", lambda _, __: 0),
    "what was told is not compared": ("hermes", CALL, in_progress, "_is_json_of",
                                      lambda _, __: True),
    "a name that may go on counts": ("hermes", WRITTEN, hermes, "_SYNTAX", GREEDY),
    "a tag in quotation marks counts": ("", "`<think>` is one", reading, "may_be_named",
                                        lambda _, __: False),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_reader_is_caught(fault, monkeypatch):
    name, reply, *change = BROKEN[fault]
    check(name, list(reply))
    monkeypatch.setattr(*change)
    with pytest.raises(AssertionError):
        check(name, list(reply))


def said(name, text, reasons=False):
    """What is given away once each character of a text is there."""
    reading, events = reader(name, reasons), []
    for character in text:
        events += reading.feed(character)
        yield joined(events)[:3]


@pytest.mark.parametrize("name", NAMES)
def test_words_leave_at_once(name):
    words = "If a < b, then [so] it is: {x}. 'Thin' things <thing> <- \n\n  `end`"
    late = 0
    for read, (text, *_) in enumerate(said(name, words), 1):
        waiting = words[:read][len(text) :]
        late = max(late, len(waiting.strip()))
        assert waiting.strip() == "" or waiting.lstrip()[0] in "<[{f"  # functools[
    assert text == words
    assert late == len("<thin")


@pytest.mark.parametrize("name", FORMATS)
def test_a_call_leaves_with_its_last_character(name):
    form = get_format(name)
    written = form.render_call(CALLS[0])
    second = form.render_call(CALLS[2])
    if name in ("llama3", "json"):
        reply, ends = f"{written};{second}", [len(written), len(written) + 1 + len(second)]
    else:
        reply = f"Well. {written} {second}"
        ends = [6 + len(written), len(reply)]
    seen = [0, *(len(calls) for _, _, calls in said(name, reply))]
    left = [read for read in range(1, len(seen)) if seen[read] > seen[read - 1]]
    if name in ("mistral", "granite", "phi4", "deepseek"):  # of a list: its own, not the list's
        assert all(end - 24 <= read <= end for read, end in zip(left, ends, strict=True))
    else:
        assert left == ends


def told(name, reply):
    """The events of calls, with how much of the reply was read."""
    reading = reader(name)
    return [
        (read, event)
        for read, character in enumerate(reply, 1)
        for event in reading.feed(character)
        if not isinstance(event, TextDelta)
    ]


@pytest.mark.parametrize("name", FORMATS)
def test_a_name_leaves_with_its_end_and_arguments_as_they_come(name):
    call = ToolCall(name="set_lights", arguments={"colour": "x" * 300, "on": True})
    written = f"{get_format(name).render_call(call)}"
    events = told(name, written)
    assert [type(event) for _, event in events[:2]] == [CallStart, CallArguments]
    at = written.index(call.name) + len(call.name)
    if name in ("llama3", "json"):  # other JSON has names, too
        at = written.index("{", 1)
    assert events[0] == (at + 1, CallStart(0, "set_lights"))
    pieces = [(read, event.text) for read, event in events if isinstance(event, CallArguments)]
    assert len(pieces) > 300
    late = [written.rindex("x", 0, read) for read, text in pieces if text == "x"]
    assert late == [read - 1 for read, text in pieces if text == "x"]
    assert json.loads("".join(text for _, text in pieces)) == call.arguments


def test_values_are_told_by_the_types_that_tools_declare():
    properties = {"zip": {"type": "string"}, "n": {"type": "integer"}}
    tool = {"name": "f", "parameters": {"type": "object", "properties": properties}}
    form = get_format("qwen3coder").with_tools([tool])
    call = ToolCall(name="f", arguments={"zip": "90210", "n": 5, "more": ["</parameter>"]})
    reading = ReplyReader(form.syntax)
    events = [event for char in form.render_call(call) for event in reading.feed(char)]
    texts = [event.text for event in events if isinstance(event, CallArguments)]
    assert "".join(texts) == json.dumps(call.arguments)
    assert events[-1].call.arguments == call.arguments


def test_several_calls_of_one_reading_come_one_after_the_other():
    call = get_format("llama3").render_call(ToolCall(name="f", arguments={"a": 1}))
    events = [event for _, event in told("llama3", f"{call}; {call}\n{call}; {call}")]
    order = [kind for kind, _ in itertools.groupby(map(type, events))]
    assert order == [CallStart, CallArguments, CallEnd] * 4
    assert [event.index for event in events if isinstance(event, CallEnd)] == [0, 1, 2, 3]


def test_a_call_that_is_cut_off_is_withdrawn_at_the_end():
    cut_off = WRITTEN[: WRITTEN.index("kitchen") + 3]
    reading = reader("hermes")
    events = [event for character in cut_off for event in reading.feed(character)]
    assert events[0] == CallStart(0, "set_lights")
    assert reading.end(parse("hermes", cut_off, False)) == [CallWithdrawn(0)]


def test_a_head_that_never_comes_is_told_at_the_end():
    long = "n" * 1000
    reply = f'<tool_call>{{"name": "{long}", "arguments": {{"a": 1}}}}</tool_call>'
    ends = {read for read, _ in told("hermes", reply)}
    assert ends == {len(reply)}
    check("hermes", list(reply))
    check("hermes", list('<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>'))


def test_reasoning_leaves_as_it_comes():
    *_, (text, reasoning, _) = said(
        "hermes", "I see, <i>yes</i>\n</think>\n\nSo: four", reasons=True
    )
    assert (text, reasoning) == ("So: four", "I see, <i>yes</i>")
    *_, (text, reasoning, _) = said("hermes", "I see, <i>yes</", reasons=True)
    assert (text, reasoning) == ("", "I see, <i>yes")
    *_, (text, reasoning, _) = said("", "<think>one</think> <think> two </think>")
    assert (text, reasoning) == ("", "one\n\ntwo")


def test_what_closes_without_an_opening_takes_back_what_was_said():
    pieces = ["Let me see", ".</think>", "Four."]
    reading = reader("hermes")
    events = [event for piece in pieces for event in reading.feed(piece)]
    assert events == [TextDelta("Let me see"), TextDelta("."), Withdrawn(), TextDelta("Four.")]
    assert reading.end(parse("hermes", "".join(pieces), False)) == [ReasoningDelta("Let me see.")]


def test_an_unreadable_call_ends_and_words_go_on():
    reply = "<tool_call>nonsense</tool_call> Sorry, that was not a call at all; I say it in words."
    *_, (text, _, calls) = said("hermes", reply)
    assert text == "Sorry, that was not a call at all; I say it in words."
    assert calls == []


LONG = {
    "words": ("hermes", "", "words < and [ so on\n\n"),
    "spaces": ("hermes", "x", " "),
    "a call": ("hermes", '<tool_call>{"name": "f", "arguments": {"x": [1', ",[{}]"),
    "closing tags in a string": ("hermes", '<tool_call>{"name": "', "</tool_call>"),
    "an answer in JSON": ("llama3", '{"name": 1, "x": [1', ',{"a":2}'),
    "calls": ("llama3", "", '{"name":"f","parameters":{}};'),
    "unreadable calls": ("functiongemma", "", "<start_function_call>call:f<x>"),
    "one unreadable call": ("functiongemma", "<start_function_call>call:f!", "words "),
    "reasoning": ("gemma4", "<|channel>thought", "so < it [/ goes "),
    "tags that close nothing": ("hermes", "", "a</think>"),
    "space before a name": ("hermes", "<tool_call>", " "),
    "space before arguments": ("hermes", '<tool_call>{"name": "f"', " \n"),
    "a text of Gemma": ("gemma4", '<|tool_call>call:f{a:<|"|>', 'x<|"'),
    "a word of Gemma": ("gemma4", "<|tool_call>call:f{a:", "1"),
    "space of Gemma": ("gemma4", "<|tool_call>call:f{a:", " "),
    "a parameter of Qwen": ("qwen3coder", "<function=f><parameter=a>", "</parameter"),
    "parameters of Qwen": ("qwen3coder", "<function=f>", "<parameter=a>x</parameter>"),
    "brackets": ("hermes", '<tool_call>{"name": "f", "arguments": {"a": ', '[{"a\\"":'),
}


@pytest.mark.parametrize("case", LONG)
def test_time_is_linear(case):
    name, beginning, unit = LONG[case]

    def work(count):
        reading = reader(name)
        reading.feed(beginning)
        for _ in range(count):
            reading.feed(unit)

    assert is_linear(work, 400)
