"""Constraints of a model's answers: calls, JSON, expressions, choices, grammars; many at once."""

import asyncio
import json
import re
import threading
import time
from dataclasses import replace

import pytest

import lorakit
from lorakit import demo
from lorakit.chat.constraints.vocabulary import Vocabulary
from lorakit.chat.rendering import RenderOptions
from lorakit.chat.tools import validate_call
from lorakit.errors import CapabilityError, ParameterError
from lorakit.model import constraining
from lorakit.model.constraining import tool_use

LIGHT = {
    "type": "function",
    "function": {
        "name": "set_light",
        "parameters": {
            "type": "object",
            "properties": {
                "room": {"type": "string", "enum": ["kitchen", "bath"]},
                "level": {"type": "integer", "minimum": 0, "maximum": 100},
            },
            "required": ["room"],
        },
    },
}
MUSIC = {
    "name": "play_music",
    "parameters": {
        "properties": {"title": {"type": "string", "maxLength": 9}},
        "required": ["title"],
    },
}
TOOLS = [LIGHT, MUSIC, {"name": "stop"}]
ASKED = [{"role": "user", "content": "Is it going to rain in Oslo?"}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}, "rain": {"type": "boolean"}},
    "required": ["city", "rain"],
    "additionalProperties": False,
}
JSON = {"type": "json_schema", "json_schema": {"schema": SCHEMA}}


class Model:
    """What pydantic's models have."""

    @classmethod
    def model_json_schema(cls):
        return SCHEMA


@pytest.fixture(scope="module")
def model():
    with lorakit.open(demo.base_path(), max_batch=4) as opened:
        yield opened


@pytest.fixture(scope="module")
def spoken(model):
    model.load_adapter(demo.adapter_path("shop"), "shop")
    return model


@pytest.mark.parametrize("seed", range(6))
def test_a_required_call_is_always_one_of_a_declared_tool(spoken, seed):
    adapters = {"shop": 1.0} if seed % 2 else {}  # the wrong adapter, and the base
    reply = spoken.chat(
        ASKED, tools=TOOLS, tool_choice="required", parallel_tool_calls=False, adapters=adapters,
        temperature=1.5, seed=seed, max_tokens=80,
    )  # fmt: skip
    (call,) = reply.tool_calls
    assert validate_call(call, TOOLS) == []
    assert (reply.text, reply.malformed, reply.finish_reason) == ("", (), "tool_calls")


def test_without_the_constraint_it_calls_what_is_not_there(model):
    """The broken variant."""
    reply = model.chat(ASKED, tools=TOOLS, tool_choice="free", max_tokens=80)
    assert [validate_call(call, TOOLS) for call in reply.tool_calls] != [[]]


def test_a_function_is_chosen_by_its_name(model):
    openai = {"type": "function", "function": {"name": "play_music"}}
    for choice in ("play_music", openai):
        reply = model.chat(ASKED, tools=TOOLS, tool_choice=choice, max_tokens=80)
        assert [call.name for call in reply.tool_calls] == ["play_music"]
        assert validate_call(reply.tool_calls[0], TOOLS) == []


def test_under_auto_the_model_talks_as_before(model):
    thanks = [{"role": "user", "content": "Thank you"}]
    free = model.chat(thanks, tools=TOOLS, tool_choice="free", max_tokens=80)
    assert free.text
    for choice in (None, "auto", "none"):
        assert model.chat(thanks, tools=TOOLS, tool_choice=choice, max_tokens=80).text == free.text


def test_no_call_can_begin_under_none(model):
    home = "Turn the light in the kitchen on"
    asked = [{"role": "user", "content": home}]
    bias = {model.tokenizer.token_id("<start_function_call>"): 100.0}  # it wants to
    called = model.chat(asked, tools=TOOLS, logit_bias=bias, max_tokens=60)
    assert called.completion.text.startswith("<start_function_call>")
    reply = model.chat(asked, tools=TOOLS, tool_choice="none", logit_bias=bias, max_tokens=60)
    assert (reply.tool_calls, reply.malformed) == ((), ())


def test_what_begins_as_a_call_ends_as_one(model):
    bias = {model.tokenizer.token_id("<start_function_call>"): 100.0}
    reply = model.chat(
        ASKED, tools=TOOLS, parallel_tool_calls=False, logit_bias=bias, max_tokens=80
    )
    assert [validate_call(call, TOOLS) for call in reply.tool_calls] == [[]]


def test_tools_that_are_not_declared_still_say_what_calls_are(model):
    plain = model.chat_prompt(ASKED)
    assert list(model.chat_prompt(ASKED, tools=TOOLS, declare=False)) == list(plain)
    reply = model.chat(
        ASKED, tools=TOOLS, declare=False, tool_choice="required", max_tokens=80,
        parallel_tool_calls=False,
    )  # fmt: skip
    assert validate_call(reply.tool_calls[0], TOOLS) == []


@pytest.mark.parametrize("seed", range(3))
def test_response_format_is_json_that_fits(model, seed):
    text = model.chat(ASKED, response_format=JSON, temperature=1.2, seed=seed, max_tokens=80).text
    value = json.loads(text)
    assert value.keys() == {"city", "rain"}
    assert len(value["city"]) <= 8
    assert isinstance(value["rain"], bool)


def test_json_object_is_an_object(model):
    reply = model.chat(
        ASKED, response_format={"type": "json_object"}, logit_bias={}, temperature=2.0, seed=11,
        max_tokens=120,
    )  # fmt: skip
    assert reply.text.startswith("{")
    if reply.finish_reason == "stop":
        assert isinstance(json.loads(reply.text), dict)
    assert model.complete("a", response_format={"type": "text"}, max_tokens=3).text


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"regex": "[0-9]{3}-(a|b)"}, "[0-9]{3}-[ab]"),
        ({"choices": ["yes", "no", "yes please"]}, "yes|no|yes please"),
        ({"choices": "maybe"}, "maybe"),
        ({"grammar": 'root ::= "x" [0-9]{2} "y"'}, "x[0-9]{2}y"),
        ({"grammar": 'start: "q" /[a-c]{2}/'}, "q[a-c]{2}"),
    ],
)
def test_answers_fit(model, options, pattern):
    found = model.complete("Hello", temperature=1.0, seed=3, max_tokens=30, **options)
    assert re.fullmatch(pattern, found.text)
    assert found.finish_reason == "stop"
    pieces = model.stream("Hello", temperature=1.0, seed=3, max_tokens=30, **options)
    assert "".join(pieces) == found.text
    several = model.complete("Hello", n=3, temperature=1.0, seed=3, max_tokens=30, **options)
    assert several.choices[0].text == found.text
    assert all(re.fullmatch(pattern, each.text) for each in several.choices)


def test_requests_of_a_batch_have_their_own_constraints(model):
    requests = [
        lorakit.Request(prompt="Hello", regex="[0-9]{4}"),
        lorakit.Request(messages=ASKED, tools=TOOLS, tool_choice="stop", max_tokens=60),
        lorakit.Request(prompt="Hello", choices=["left", "right"]),
        lorakit.Request(prompt="Hello", max_tokens=4),
        lorakit.Request(prompt="Hello", regex="[0-9]{4}"),
    ]
    number, call, side, free, again = model.batch(requests)
    assert re.fullmatch("[0-9]{4}", number.text)
    assert again.text == number.text
    assert str(call) == "stop()"
    assert side.text in ("left", "right")
    assert free.text == model.complete("Hello", max_tokens=4).text
    assert str(asyncio.run(model.abatch(requests[1:2]))[0]) == "stop()"


def test_log_probabilities_and_ignored_ends_work_with_a_constraint(model):
    found = model.complete("Hello", regex="[0-9]{4}", logprobs=2, max_tokens=30)
    assert all(token.logprob <= 0 for token in found.tokens)
    assert model.complete(
        "Hello", regex="[0-9]{1,40}", ignore_eos=True, max_tokens=3
    ).text.isdigit()


def test_a_session_keeps_its_choice(model):
    session = model.session(tools=TOOLS, tool_choice="stop", max_tokens=60)
    assert str(session.send("Is it going to rain?")) == "stop()"
    assert session.fork().rendering.tool_choice == "stop"
    assert session.regenerate(tool_choice="none").tool_calls == ()


def test_a_summary_is_free_to_say_what_it_likes(model):
    prompt = model.chat_prompt(ASKED, tools=TOOLS, tool_choice="required")
    assert prompt.use is not None
    prompt.set_free()
    assert model.complete(prompt, max_tokens=40).text  # which may be no call
    asked = {"tools": TOOLS, "tool_choice": "required", "when_full": "summarise"}
    session = model.session(**asked, max_tokens=30)
    spoken = session._summary(model.chat_prompt(ASKED, tools=TOOLS, tool_choice="required"), 20)
    assert not spoken.startswith("<start_function_call>")


def test_grammars_are_compiled_once(model, monkeypatch):
    made = []
    compiled = constraining.Compiled
    monkeypatch.setattr(constraining, "KEPT", 2)
    monkeypatch.setattr(
        constraining, "Compiled", lambda *given: (made.append(given[1]), compiled(*given))[1]
    )
    for pattern in ("[a-b]", "[a-b]", "[a-c]", "[a-d]", "[a-c]", "[a-b]"):
        model.complete("Hello", regex=pattern, max_tokens=3)
    assert len(made) == 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"regex": "(?=a)"}, "look-around"),
        ({"grammar": "start: ((("}, "cannot be enforced"),
        ({"grammar": "root ::= ((("}, "expected"),
        ({"grammar": "start: other"}, "other"),
        ({"regex": "a", "choices": ["a"]}, "regex and choices both say"),
        ({"choices": [""]}, "choices must be"),
        ({"choices": []}, "choices must be"),  # rather than unrestricted
        ({"choices": ["x"] * 2001}, "choices must be None, or 1 to 2000 texts"),
        ({"regex": ""}, "regex must be"),
        ({"lookup": 1}, "lookup must be"),
        ({"response_format": {"type": "xml"}}, "response_format must be"),
        ({"response_format": {"type": "json_schema"}}, "response_format must be"),
        ({"response_format": Model}, "Model.model_json_schema()"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": Model}}},
         "Model.model_json_schema()"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}},
         "response_format: 'not' cannot be enforced"),
    ],
)  # fmt: skip
def test_what_cannot_be_enforced_is_refused_and_the_model_goes_on(model, options, said):
    with pytest.raises(ParameterError) as error:
        model.complete("Hello", max_tokens=3, **options)
    assert said in str(error.value)
    assert model.complete("Hello", max_tokens=3).text


@pytest.mark.parametrize(
    ("tools", "choice", "said"),
    [
        (TOOLS, "play_musik", "no such tool; did you mean play_music?"),
        (TOOLS, "any", 'did you mean "required"?'),
        (None, "required", "there are no tools"),
        ([], "stop", "there are no tools"),
        (TOOLS, 3, "tool_choice is a word or one function"),
        (TOOLS, {"type": "function"}, "tool_choice is a word or one function"),
        ([{"name": "f", "parameters": {"not": {}}}], "auto", 'tool_choice="free"'),
        ([{"name": "f", "parameters": {"not": {}}}], None, "f: 'not' cannot be enforced"),
        ([{"name": "a b{"}], None, "cannot"),
    ],
)  # fmt: skip
def test_choices_of_tools_that_cannot_be(model, tools, choice, said):
    with pytest.raises(ParameterError) as error:
        model.chat(ASKED, tools=tools, tool_choice=choice, max_tokens=3)
    assert said in str(error.value)
    if choice is None:  # as the model writes them
        assert model.chat(ASKED, tools=tools, tool_choice="free", max_tokens=3)


def test_openais_other_shapes_are_taken(model):
    flat = {"type": "json_schema", "name": "weather", "strict": True, "schema": SCHEMA}
    named = {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA}}
    found = [
        model.chat(ASKED, response_format=shape, max_tokens=80).text for shape in (flat, named)
    ]
    assert found[0] == found[1]
    assert json.loads(found[0]).keys() == SCHEMA["properties"].keys()
    for function in ({"name": "stop"}, {"function": {"name": "stop"}}):
        choice = {"type": "function", **function}
        assert str(model.chat(ASKED, tools=TOOLS, tool_choice=choice, max_tokens=60)) == "stop()"


@pytest.mark.parametrize("key", ["input_schema", "inputSchema", "parameter", "params"])
def test_a_schema_under_another_key_is_told(model, key):
    with pytest.raises(ParameterError) as error:
        model.chat(ASKED, tools=[{"name": "f", key: SCHEMA}], max_tokens=3)
    assert f"f: expected its schema under 'parameters', found it under {key!r}" in str(error.value)
    assert model.chat(ASKED, tools=[{"name": "f", "returns": {}}], max_tokens=3)


def test_a_call_that_was_cut_off_says_so(model):
    asked = {"tools": TOOLS, "tool_choice": "play_music", "max_tokens": 9}
    reply = model.chat(ASKED, **asked)
    assert (reply.finish_reason, reply.tool_calls) == ("length", ())
    (cut,) = reply.malformed
    assert cut.reason.startswith("cut off by max_tokens, or by the end of the context; ")
    assert "(no call: cut off by max_tokens" in str(reply)
    assert model.stream(ASKED, **asked).reply.malformed == reply.malformed
    whole = model.chat(ASKED, tools=TOOLS, tool_choice="play_music", max_tokens=80)
    assert whole.malformed == ()


def test_only_the_call_in_which_it_ended_was_cut_off(model):
    """The broken variant: what is wrong with an earlier call has another reason."""
    bad = "<start_function_call>call:f{a:x}<end_function_call>"
    for text, told in ((f"{bad} more", False), (f"{bad}<start_function_call>call:g{{", True)):
        completion = replace(model.complete("Hello", max_tokens=1), text=text)
        assert completion.finish_reason == "length"
        *_, last = model.parse_reply(completion).malformed
        assert last.reason.startswith("cut off") == told


@pytest.mark.parametrize("beside", [True, False])
def test_the_event_loop_goes_on_while_the_vocabulary_is_read(monkeypatch, beside):
    """Without `_prepare`, the broken variant, it stands still."""
    made = []

    def slow(tokenizer, ends):
        made.append(threading.current_thread() is threading.main_thread())
        return Vocabulary(tokenizer, ends)

    async def nothing(prompt, params):
        pass

    async def ask(model):
        answers = [model.achat(ASKED, choices=["yes", "no"]) for _ in range(3)]
        return [reply.text for reply in await asyncio.gather(*answers)]

    monkeypatch.setattr(constraining, "Vocabulary", slow)
    with lorakit.open(demo.base_path()) as model:
        if not beside:
            monkeypatch.setattr(model, "_prepare", nothing)
        assert set(asyncio.run(ask(model))) <= {"yes", "no"}
    assert made == [not beside]


def test_a_choice_and_a_format_are_not_both_taken(model):
    with pytest.raises(ParameterError, match="both say what the answer is"):
        model.chat(ASKED, tools=TOOLS, tool_choice="required", response_format=JSON)
    reply = model.chat(ASKED, tools=TOOLS, response_format=JSON, max_tokens=80)
    assert json.loads(reply.text)


def test_a_model_without_a_known_format_calls_as_it_likes():
    assert tool_use(TOOLS, RenderOptions(), known=False) is None
    assert tool_use(TOOLS, RenderOptions(tool_choice="free"), known=False) is None
    with pytest.raises(CapabilityError, match="no known format"):
        tool_use(TOOLS, RenderOptions(tool_choice="required"), known=False)


def test_many_choices_that_begin_alike_cost_no_seconds(model):
    """They are one terminal; as 2,000 words of a rule each step looked at all of them."""
    choices = ["a" * 300 + str(number) for number in range(2000)]
    model.complete("x", choices=choices[:2], max_tokens=1)
    start = time.process_time()
    reply = model.complete("x", choices=choices, max_tokens=400)
    assert reply.text in choices
    assert time.process_time() - start < 2
