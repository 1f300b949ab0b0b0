"""Conversations of a model: streamed as events, in batches, with what the template is given."""

import asyncio
import shutil
from dataclasses import replace

import pytest

import lorakit
from lorakit import CallEnd, CallStart, ReasoningDelta, ReplyEnd, Request, TextDelta, demo
from lorakit.chat.dialogue import Dialogue
from lorakit.errors import CancelledError, ParameterError, UnknownAdapterError
from lorakit.model.conversation import Session

LIGHTS = [{"role": "user", "content": "turn the lights off"}]
HELLO = [{"role": "user", "content": "hello"}]
SHORT = {"max_tokens": 8}


@pytest.fixture(scope="module")
def model():
    with lorakit.open(demo.base_path(), threads=1) as model:
        model.load_adapter(demo.adapter_path("home"))
        yield model


@pytest.fixture(scope="module")
def home(model):
    return model.find("home")


def text_of(events):
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def test_a_call_is_an_event_and_no_text(model, home):
    start, *pieces, call, end = list(model.stream(LIGHTS, adapters={home: 1.0}, max_tokens=40))
    assert start == CallStart(0, "set_lights")
    assert len(pieces) > 1
    assert "".join(piece.text for piece in pieces) == '{"state": "off"}'
    assert isinstance(call, CallEnd)
    assert (call.index, call.call.name) == (0, "set_lights")
    assert isinstance(end, ReplyEnd)
    assert end.reply.tool_calls == (call.call,)
    assert end.reply.finish_reason == "tool_calls"
    assert end.reply.completion.finish_reason == "stop"


def test_events_joined_are_what_chat_answers(model):
    for messages in (LIGHTS, HELLO):
        for adapters in ({}, ["home"]):
            asked = {"adapters": adapters, "max_tokens": 40}
            reply = model.chat(messages, **asked)
            *events, end = list(model.stream(messages, **asked))
            assert text_of(events) == reply.text
            calls = tuple(event.call for event in events if isinstance(event, CallEnd))
            assert calls == reply.tool_calls
            assert end.reply.message == reply.message
            assert "".join(model.stream(messages, **asked).text) == reply.text
            assert model.stream(messages, **asked).reply.message == reply.message


def test_the_text_of_a_stream_of_text_is_itself(model):
    told = model.complete("hello", adapters={}, max_tokens=6)
    assert "".join(model.stream("hello", adapters={}, max_tokens=6).text) == told.text != ""


def test_what_streams_a_rendered_conversation_says_what_streams_messages(model):
    with pytest.raises(ParameterError, match="found messages") as caught:
        model.chat_stream(HELLO)
    assert "stream(messages)" in caught.value.hint
    rendered = model.chat_stream(model.chat_prompt(HELLO), adapters={}, **SHORT)
    assert rendered.reply.text == model.stream(HELLO, adapters={}, **SHORT).reply.text != ""


def test_text_comes_piece_by_piece(model):
    stream = model.stream(HELLO, adapters={}, max_tokens=12, ignore_eos=True)
    first = next(iter(stream))
    assert isinstance(first, TextDelta)
    assert len(first.text) < len(stream.reply.text)
    assert first.text + text_of(stream) == stream.reply.text
    assert list(stream) == []


def test_coroutines_have_the_same(model):
    async def read():
        stream = model.stream(HELLO, adapters={}, **SHORT)
        events = [event async for event in stream]
        pieces = [piece async for piece in model.stream(HELLO, adapters={}, **SHORT).text]
        return events, pieces, await stream.areply()

    events, pieces, reply = asyncio.run(read())
    assert (
        text_of(events)
        == "".join(pieces)
        == reply.text
        == model.chat(HELLO, adapters={}, **SHORT).text
    )
    assert events[-1] == ReplyEnd(reply)


def test_a_stream_that_is_cancelled_ends_without_a_reply(model):
    stream = model.stream(HELLO, adapters={}, max_tokens=200, ignore_eos=True)
    next(stream)
    stream.cancel()
    assert not any(isinstance(event, ReplyEnd) for event in stream)
    with pytest.raises(CancelledError):
        stream.reply  # noqa: B018  # waits
    assert repr(stream) == "<ChatStream of <Stream cancelled>>"


def test_a_turn_that_is_read_by_coroutines_is_kept(model):
    session = model.session(adapters={})

    async def read():
        return [event async for event in session.stream("hello", **SHORT)]

    events = asyncio.run(read())
    assert session.messages[-1] == events[-1].reply.message


@pytest.fixture
def slipping(model, monkeypatch):
    """The model, as if it wrote quotation marks where its format has delimiters of its own."""
    parse = Dialogue.parse

    def slip(self, text, **options):
        return parse(self, text.replace("<escape>", '"'), **options)

    monkeypatch.setattr(Dialogue, "parse", slip)
    return model


def test_calls_are_mended_everywhere_where_that_is_asked_for(slipping, home, tmp_path):
    asked = {"adapters": {home: 1.0}, "max_tokens": 40}
    assert len(slipping.chat(LIGHTS, **asked).malformed) == 1
    assert slipping.session(**asked).send("turn the lights off").tool_calls == ()
    asked["repair"] = True
    session = slipping.session(**asked)
    replies = [
        slipping.chat(LIGHTS, **asked),
        slipping.chat(LIGHTS, n=2, **asked).others[0],
        asyncio.run(slipping.achat(LIGHTS, **asked)),
        slipping.stream(LIGHTS, **asked).reply,
        slipping.batch([Request(messages=LIGHTS, **asked)])[0],
        session.fork().send("turn the lights off"),
        session.send("turn the lights off"),
    ]
    assert [str(reply) for reply in replies] == ['set_lights(state="off")'] * len(replies)
    assert {len(reply.repairs) for reply in replies} == {1}
    assert session.regenerate(repair=False).malformed
    session.save(tmp_path / "talk.json")
    loaded = Session.load(slipping, tmp_path / "talk.json", repair=True)
    assert loaded.regenerate().tool_calls == replies[0].tool_calls
    ends = [e for e in slipping.stream(LIGHTS, **asked) if isinstance(e, CallEnd)]
    assert tuple(end.call for end in ends) == replies[0].tool_calls


def test_a_reply_is_read_by_the_types_of_the_tools_of_its_prompt(model, tmp_path):
    shutil.copytree(demo.base_path(), tmp_path / "qwen")
    template = "{# <tool_call><function=<parameter= #}{{ tools }}{{ messages[-1].content }}"
    (tmp_path / "qwen" / "chat_template.jinja").write_text(template, "utf-8")
    properties = {"zip": {"type": "string"}}
    tool = {"name": "f", "parameters": {"type": "object", "properties": properties}}
    text = "<tool_call><function=f><parameter=zip>90210</parameter></function></tool_call>"
    said = replace(model.complete("x", max_tokens=1), text=text)
    with lorakit.open(tmp_path / "qwen", threads=1, context=64) as other:
        for tools, zip_code in (([tool], "90210"), (None, 90210)):
            prompt = other.chat_prompt(HELLO, tools=tools)
            (call,) = other.parse_reply(said, prompt).tool_calls
            assert call.arguments == {"zip": zip_code}
            reader = other.reader(prompt)
            assert [e.call for e in reader.feed(text) if isinstance(e, CallEnd)] == [call]


def test_usage_is_counted(model):
    reply = model.chat(LIGHTS, max_tokens=5, ignore_eos=True, adapters={})
    usage = reply.usage
    assert usage == reply.completion.usage
    assert usage.completion_tokens == len(reply.tokens) == 5
    assert usage.prompt_tokens == len(model.chat_prompt(LIGHTS))
    assert usage.total_tokens == usage.prompt_tokens + 5
    assert reply.finish_reason == "length"
    again = model.chat(LIGHTS, max_tokens=5, ignore_eos=True, adapters={})
    assert again.usage.cached_tokens == again.completion.cached_tokens > 0


def test_a_batch_is_of_prompts_and_conversations(model, home):
    requests = [
        Request(messages=LIGHTS, adapters={home: 1.0}, max_tokens=40),
        Request(prompt="hello", adapters={}, max_tokens=4),
        Request(prompt=model.chat_prompt(HELLO), adapters={}, max_tokens=4, temperature=0.0),
    ]
    found = model.batch(requests)
    assert found[0].tool_calls[0].name == "set_lights"
    assert found[0].message == model.chat(LIGHTS, adapters=[home], max_tokens=40).message
    assert [len(each.tokens) for each in found[1:]] == [4, 4]
    assert found[1].text == model.complete("hello", adapters={}, max_tokens=4).text
    other = asyncio.run(model.abatch(requests))
    assert [str(each) for each in other] == [str(each) for each in found]
    assert other[0].message == found[0].message


@pytest.mark.parametrize("given", [Request(messages=HELLO), 7, None])
def test_a_batch_that_is_no_list_is_said(model, given):
    with pytest.raises(ParameterError, match=r"a list of lorakit\.Request") as error:
        model.batch(given)
    assert "a list" in error.value.hint
    with pytest.raises(ParameterError, match=r"a list of lorakit\.Request"):
        asyncio.run(model.abatch(given))


def test_for_coroutines_a_stream_that_is_cancelled_ends_without_a_reply(model):
    async def seen():
        stream = model.stream(HELLO, adapters={}, max_tokens=200, ignore_eos=True)
        first = await anext(stream)
        stream.cancel()
        return first, [event async for event in stream]

    first, rest = asyncio.run(seen())
    assert isinstance(first, TextDelta)
    assert all(isinstance(event, TextDelta) for event in rest)


def test_what_is_printed_of_a_reply_is_what_there_is_to_see(model, home):
    reply = model.chat(LIGHTS, adapters=[home], max_tokens=40)
    assert (reply.text, str(reply)) == ("", 'set_lights(state="off")')
    assert "finish_reason='tool_calls', usage=Usage(prompt_tokens=" in repr(reply)
    cut = model.chat(LIGHTS, adapters=[home], max_tokens=4)
    (bad,) = cut.malformed
    assert cut.text == ""
    assert str(cut) == f"{bad.text}\n(no call: {bad.reason})"
    told = model.chat(HELLO, adapters={}, max_tokens=8)
    assert str(told) == told.text != ""


def test_a_function_as_a_tool_is_told_what_a_tool_is(model):
    def set_lights(state: str) -> str:
        return state

    with pytest.raises(ParameterError, match="tools cannot be rendered") as error:
        model.chat(LIGHTS, tools=[set_lights])
    assert error.value.items == ("tools[0]: expected JSON values, found function set_lights",)
    for word in ("type", "function", "name", "description", "parameters"):
        assert f'"{word}": ' in error.value.hint


WRONG = {
    "neither": {},
    "both": {"prompt": "x", "messages": HELLO},
    "tools for a prompt": {"prompt": "x", "tools": []},
    "a template for a prompt": {"prompt": "x", "enable_thinking": True},
    "an unknown word": {"prompt": "x", "max_token": 3},
    "a value out of range": {"messages": HELLO, "top_p": 7},
    "a wrong word": {"messages": HELLO, "control_tokens": "all"},
    "no truth value": {"messages": HELLO, "repair": 1},
    "repair for a prompt": {"prompt": "x", "repair": True},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_request_says_at_once_what_is_wrong(wrong):
    with pytest.raises(ParameterError):
        Request(**WRONG[wrong])


def test_messages_where_a_prompt_is_expected(model):
    for use in (model.complete, model.encode, model.logits):
        with pytest.raises(ParameterError, match="found messages") as caught:
            use(HELLO)
        assert "chat(messages)" in caught.value.hint
    with pytest.raises(ParameterError, match="found a message") as caught:
        model.stream(HELLO[0])
    assert "chat([message])" in caught.value.hint
    with pytest.raises(ParameterError, match="tools are for messages"):
        model.stream("hello", tools=[])
    with pytest.raises(ParameterError, match="chat_template_kwargs"):
        model.stream("hello", chat_template_kwargs={})
    with pytest.raises(ParameterError, match="list of messages"):
        model.chat("hello")


def test_what_load_adapter_returned_names_an_adapter(model, home):
    expected = model.complete(model.chat_prompt(LIGHTS), adapters={"home": 0.7}, **SHORT)
    for adapters in ({home: 0.7}, {model.find("home"): 0.7}):
        found = model.complete(model.chat_prompt(LIGHTS), adapters=adapters, **SHORT)
        assert (found.text, found.adapters) == (expected.text, (("home", 0.7),))
    assert model.complete("x", adapters=[home], **SHORT).adapters == (("home", 1.0),)
    assert model.complete("x", adapters=home, **SHORT).adapters == (("home", 1.0),)
    assert model.session(adapters={home: 0.5}).adapters == {"home": 0.5}
    model.apply({home: 0.25})
    assert home.scale == 0.25
    model.clear_adapters()
    with pytest.raises(ParameterError, match="named twice"):
        model.apply({home: 1.0, "home": 1.0})


def test_an_adapter_of_another_model_or_an_unloaded_one_is_refused(model):
    with lorakit.open(demo.base_path(), threads=1, context=64) as other:
        foreign = other.load_adapter(demo.adapter_path("home"))
        with pytest.raises(ParameterError, match="another model"):
            model.complete("x", adapters={foreign: 1.0})
        foreign.unload()
        other.load_adapter(demo.adapter_path("home"))
        with pytest.raises(UnknownAdapterError, match="unloaded"):
            other.complete("x", adapters={foreign: 1.0})


TEMPLATE = (
    "{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content }}<end_of_turn>\n{% endfor %}"
    "<start_of_turn>model\n{{ day }}{% if enable_thinking %}<think>\n{% endif %}"
)


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    """The demo's base with a template that can open reasoning."""
    folder = tmp_path_factory.mktemp("base") / "thinker"
    shutil.copytree(demo.base_path(), folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE, "utf-8")
    with lorakit.open(folder, threads=1, context=256) as model:
        yield model


def test_what_the_template_is_given_reaches_it_from_everywhere(thinker):
    def ids(**options):
        return list(thinker.chat_prompt(HELLO, **options))

    thinking = {"enable_thinking": True}
    day = {"chat_template_kwargs": {"day": "Monday"}}
    assert ids(**thinking) != ids() == ids(enable_thinking=False)
    assert ids(chat_template_kwargs={"enable_thinking": True}) == ids(**thinking)
    for options in ({}, thinking, day, {**thinking, **day}):
        size = len(ids(**options))
        uses = [
            thinker.chat(HELLO, **options, **SHORT),
            asyncio.run(thinker.achat(HELLO, **options, **SHORT)),
            thinker.stream(HELLO, **options, **SHORT).reply,
            thinker.batch([Request(messages=HELLO, **options, **SHORT)])[0],
            thinker.session(**options).send("hello", **SHORT),
            thinker.session().send("hello", **options, **SHORT),
            thinker.session(**options, **SHORT).fork().send("hello"),
        ]
        assert [use.usage.prompt_tokens for use in uses] == [size] * len(uses)


def test_a_reply_is_reasoning_where_its_prompt_opened_it(thinker):
    options = {**SHORT, "ignore_eos": True}
    assert thinker.chat_prompt(HELLO, enable_thinking=True).reasons
    assert thinker.chat_prompt(HELLO).reasons is False
    reply = thinker.chat(HELLO, enable_thinking=True, **options)
    assert (reply.text, bool(reply.reasoning)) == ("", True)
    events = list(thinker.stream(HELLO, enable_thinking=True, **options))
    assert text_of(events) == ""
    assert "".join(e.text for e in events if isinstance(e, ReasoningDelta)) == reply.reasoning
    assert thinker.chat(HELLO, **options).reasoning == ""
    (batched,) = thinker.batch([Request(messages=HELLO, enable_thinking=True, **options)])
    assert batched.message == reply.message


def test_what_the_template_is_given_is_saved_with_the_session(thinker, tmp_path):
    session = thinker.session(enable_thinking=True, control_tokens="text", max_tokens=8)
    session.send("hello")
    session.save(tmp_path / "talk.json")
    loaded = Session.load(thinker, tmp_path / "talk.json")
    assert loaded.rendering == session.rendering
    assert loaded.send("more").completion.tokens == session.send("more").completion.tokens


def test_a_variable_that_the_template_does_not_read_is_refused(thinker, model):
    with pytest.raises(ParameterError, match="does not read") as caught:
        thinker.chat(HELLO, chat_template_kwargs={"enable_thinkng": False})
    assert caught.value.items == ("enable_thinkng",)
    with pytest.raises(ParameterError, match="does not read"):
        model.session(enable_thinking=True).send("hello")
    for wrong in (
        {"chat_template_kwargs": {"messages": []}},
        {"chat_template_kwargs": 5},
        {"chat_template_kwargs": {"x": object()}},
        {"enable_thinking": 1},
        {"enable_thinking": True, "chat_template_kwargs": {"enable_thinking": True}},
    ):
        with pytest.raises(ParameterError):
            thinker.chat(HELLO, **wrong)


def test_control_tokens_in_a_result_are_text(model):
    talk = [
        *LIGHTS,
        {"role": "assistant", "content": "", "tool_calls": [
            {"function": {"name": "set_lights", "arguments": {"state": "off"}}}]},
        {"role": "tool", "name": "set_lights", "content": "<end_of_turn>"},
    ]  # fmt: skip
    end = model.tokenizer.token_id("<end_of_turn>")
    before = model.chat_prompt(talk, control_tokens="template").count(end)
    assert model.chat_prompt(talk).count(end) == before - 1
    asked = [{"role": "user", "content": "<end_of_turn>"}]
    assert model.chat_prompt(asked).count(end) == 2
    assert model.chat_prompt(asked, control_tokens="text").count(end) == 1
    session = model.session(control_tokens="text")
    reply = session.send("<end_of_turn>", **SHORT)
    assert reply.usage.prompt_tokens == len(model.chat_prompt(asked, control_tokens="text"))
