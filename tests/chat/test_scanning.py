"""Reasoning in replies: what a model thinks is not said, and a call that it quotes is not one."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorakit.chat import scanning, tags
from lorakit.chat.calls import NO_CALLS, ToolCall
from lorakit.chat.dialogue import Dialogue
from lorakit.chat.scanning import take_apart
from lorakit.chat.tags import opens_reasoning
from lorakit.chat.template import ChatTemplate
from lorakit.chat.tools import FORMATS, get_format

BAD, GOOD = ToolCall(name="rm", arguments={"path": "/"}), ToolCall(name="ok", arguments={"n": 1})
TAGS = [
    ("<think>", "</think>"),
    ("<think>\n", "\n</think>\n\n"),
    ("<THINK>", "</Think>"),
    ("< think >", "< / think >"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<scratch_pad>", "</scratch_pad>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|channel>thought\n", "<channel|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
]
CALLING = list(FORMATS)


def parsed(name: str, text: str, **options: bool):
    return get_format(name).parse(text, **options)


def written(name: str, call: ToolCall) -> str:
    return get_format(name).render_call(call)


@pytest.mark.parametrize("name", CALLING)
@pytest.mark.parametrize(("opening", "closing"), TAGS, ids=[tag[0].strip() for tag in TAGS])
def test_a_call_in_reasoning_is_not_a_call(name, opening, closing):
    bad, good = written(name, BAD), written(name, GOOD)
    reply = parsed(name, f"{opening}Shall I {bad}? No.{closing}{good}")
    assert [call.name for call in reply.tool_calls] == ["ok"]
    assert not reply.malformed
    assert reply.text == ""
    assert reply.reasoning == f"Shall I {bad}? No."
    alone = parsed(name, f"{opening}Shall I {bad}? No.{closing}No.")
    assert (alone.tool_calls, alone.malformed, alone.text) == ((), (), "No.")


@pytest.mark.parametrize("name", CALLING)
@pytest.mark.parametrize(
    "shape",
    [
        "<think>{bad}",  # never closed
        "Let me see. <think>{bad}",
        "{bad} or not</think>",  # opened by the prompt
        "<think>a</think>b {bad}</think>",
        "<think>one</think><think>{bad}</think>",
        "<think>a <think> b </think> {bad} </think>",
        "<think>\n{bad}\n{bad}\n</think>\n",
    ],
)
def test_reasoning_in_every_shape_hides_its_calls(name, shape):
    text = shape.format(bad=written(name, BAD))
    reply = parsed(name, text)
    assert not reply.tool_calls
    assert not reply.malformed
    assert written(name, BAD) in reply.reasoning


@pytest.mark.parametrize("name", CALLING)
def test_what_the_prompt_opened_lasts_until_it_is_closed(name):
    bad, good = written(name, BAD), written(name, GOOD)
    cut = parsed(name, f"I could {bad}", reasons=True)
    assert (cut.tool_calls, cut.text, cut.reasoning) == ((), "", f"I could {bad}")
    whole = parsed(name, f"<think>I could {bad}</think>{good}", reasons=True)
    assert [call.name for call in whole.tool_calls] == ["ok"]
    assert whole.reasoning == f"I could {bad}"
    assert [call.name for call in parsed(name, good).tool_calls] == ["ok"]


def test_the_opening_of_a_call_that_reasoning_names_breaks_nothing():
    good = written("hermes", GOOD)
    for text in (
        f"<think>\nThe <tool_call> tag is needed.\n</think>\n{good}",
        f"The <tool_call> tag is needed.\n</think>\n{good}",
        f'Use <tool_call>{{"name": "x  </think> {good}',
    ):
        reply = parsed("hermes", text)
        assert [call.name for call in reply.tool_calls] == ["ok"]
        assert not reply.malformed
        assert reply.text == ""
    quoted = parsed("hermes", f"Write <tool_call>? <think>{written('hermes', BAD)}</think> No.")
    assert not quoted.tool_calls
    assert [part.text for part in quoted.malformed] == ["<tool_call>? "]


@pytest.mark.parametrize("name", CALLING)
def test_a_tag_within_a_call_that_can_be_read_is_its_own(name):
    call = ToolCall(name="write", arguments={"text": "<think>x</think> </think> <think>"})
    reply = parsed(name, written(name, call))
    assert [found.arguments for found in reply.tool_calls] == [call.arguments]
    assert reply.reasoning == ""


@pytest.mark.parametrize("quote", ["`", '"', "'"])
def test_a_tag_that_is_only_named_opens_nothing(quote):
    text = f"The tag {quote}<think>{quote} begins it, {quote}</think>{quote} ends it."
    assert parsed("hermes", text).text == text


def test_blocks_between_words():
    text = "<think>\n a \n</think>\n\nOne.\n<think>b</think>\nTwo.\n<think></think>"
    reply = take_apart(text, NO_CALLS)
    assert reply.text == "One.\n\nTwo.\n"
    assert reply.reasoning == "a\n\nb"


def test_a_message_keeps_its_reasoning_where_templates_read_it():
    reply = parsed("hermes", f"<think>hm</think>{written('hermes', GOOD)}")
    message = reply.to_message()
    assert message["reasoning_content"] == "hm"
    assert message["content"] is None
    text = "{% for m in messages %}{{ m.role }}{{ m.reasoning_content }};{% endfor %}"
    template = ChatTemplate(sources={"default": text})
    user = {"role": "user", "content": "x"}
    assert template.render([user, message]) == "user;assistanthm;"
    assert "reasoning_content" not in parsed("hermes", "Hello.").to_message()


class Tokenizer:
    """As much of a tokenizer as a Dialogue asks for when it parses."""

    special_tokens: dict[str, str] = {}  # noqa: RUF012
    eos_ids: tuple[int, ...] = ()

    def token_id(self, token: str) -> None:
        return None


@pytest.mark.parametrize(
    ("end", "opened"),
    [("<think>\n", True), ("[THINK]", True), ("<think>\n\n</think>\n\n", False), ("", False)],
)
def test_a_dialogue_knows_what_its_template_opens(end, opened):
    source = "{{ messages[0].content }}{% if add_generation_prompt %}<bot>" + end + "{% endif %}"
    dialogue = Dialogue("nowhere", Tokenizer(), {"default": source})
    assert dialogue.reasons is opened
    assert opens_reasoning(f"x<bot>{end}") is opened
    reply = dialogue.parse("I see.")
    assert (reply.text, reply.reasoning) == (("", "I see.") if opened else ("I see.", ""))


PARTS = ["<think>", "</think>", "words ", "\n", "`", "{", '"', "</tool_call>", "<tool_call>"]
PARTS += [written("hermes", BAD), "<|python_tag|>", written("llama3", BAD), "<end_function_call>"]
PARTS += ["[THINK]", "[/THINK]", written("functiongemma", BAD), "<start_function_call>"]


@given(parts=st.lists(st.sampled_from(PARTS)), name=st.sampled_from(CALLING), reasons=st.booleans())
def test_no_call_comes_from_before_the_last_closing_tag_outside_a_call(parts, name, reasons):
    text = "".join(parts)
    reply = parsed(name, text, reasons=reasons)
    for part in reply.malformed:
        assert text[part.position :].startswith(part.text)
    if "`" not in text and '"' not in parts and "{" not in parts:
        paired = "<think>" in text or "[THINK]" in text  # then a call may stand before a block
        last = 0 if paired else max(text.rfind("</think>"), text.rfind("[/THINK]"), 0)
        assert len(reply.tool_calls) <= text.count(BAD.name, last)  # in whichever format's words


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hermes", '<tool_call>{"name":"a","arguments":{"x":"\\ud83d"}}</tool_call>'),
        ("hermes", '<tool_call>{"name":"\\udc00","arguments":{}}</tool_call>'),
        ("hermes", '<tool_call>{"name":"a","arguments":{"x":[{"\\ud800":1}]}}</tool_call>'),
        ("hermes", '<tool_call>{"name":"a","arguments":"{\\"x\\": \\"\\\\ud83d\\"}"}</tool_call>'),
        ("llama3", '{"name":"a","parameters":{"x":"\\ud83d"}}'),
        ("functiongemma", "<start_function_call>call:a{x:<escape>\ud83d<escape>}"),
        ("gemma4", '<|tool_call>call:a{x:<|"|>\udc00<|"|>}<tool_call|>'),
    ],
)
def test_half_a_surrogate_pair_makes_a_call_malformed(name, text):
    reply = parsed(name, text)
    assert not reply.tool_calls
    (part,) = reply.malformed
    assert "surrogate" in part.reason
    whole = parsed("hermes", '<tool_call>{"name":"a","arguments":{"x":"\\ud83d\\ude00"}}')
    assert whole.tool_calls[0].arguments == {"x": "😀"}


@pytest.mark.parametrize("name", ["hermes", "llama3"])
def test_arguments_deeper_than_messages_may_be_are_malformed(name):
    def nested(levels: int) -> str:
        value: object = 1
        for _ in range(levels):
            value = [value]
        return json.dumps({"name": "f", "parameters": {"a": value}})

    form = get_format(name)
    wrap = "<tool_call>{}</tool_call>" if name == "hermes" else "{}"
    assert form.parse(wrap.format(nested(60))).tool_calls
    assert "deeper" in form.parse(wrap.format(nested(70))).malformed[0].reason


def test_null_arguments_are_none_in_hermes_and_a_fault_in_llama3():
    (call,) = parsed("hermes", '<tool_call>{"name":"f","arguments":null}</tool_call>').tool_calls
    assert call.arguments == {}
    assert not parsed("llama3", '{"name":"f","parameters":null}').tool_calls


@pytest.mark.parametrize(
    ("whole", "beginning"),
    [(tags.OPEN, tags.UNFINISHED_OPEN), (tags.CLOSE, tags.UNFINISHED_CLOSE)],
    ids=["open", "close"],
)
def test_every_beginning_of_a_tag_may_become_one(whole, beginning):
    """The pattern of unfinished tags, which is made of lists, against the pattern of tags."""

    @settings(deadline=None, max_examples=300)
    @given(st.from_regex(whole, fullmatch=True))
    def check(tag):
        for size in range(1, len(tag)):
            for pattern in (beginning, tags.UNFINISHED):
                assert pattern.match(tag[:size]), tag[:size]
        longer = tag.lower().startswith("<|channel>")  # "thought" may follow
        assert (beginning.match(tag) is not None) == (longer and not tag.lower().endswith("t"))

    check()
    for text in ("think", "<thinx", "<think >x", "[thin]", "<|", "<|star t"):
        assert not beginning.match(f"{text}?")


def test_a_parser_that_knows_no_reasoning_would_be_caught(monkeypatch):
    monkeypatch.setattr(scanning, "next_tag", lambda reply, position: None)
    reply = parsed("hermes", f"<think>{written('hermes', BAD)}</think>")
    assert [call.name for call in reply.tool_calls] == ["rm"]
