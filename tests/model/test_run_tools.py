"""Tools that are run for the demo's model, whose adapters call what they know by heart, and in
sessions."""

import asyncio
import time
from typing import Literal

import pytest

import lorakit
from lorakit import ParameterError, Tool, ToolLimits, demo

ASKED = [{"role": "user", "content": "lights off in the kitchen"}]


def set_lights(room: str, state: Literal["on", "off"]) -> str:
    """Switch the lights."""
    return f"{room} is {state}"


def hang(room: str, state: str) -> None:
    time.sleep(3)  # longer than anybody waits for it


def fail(room: str, state: str) -> None:
    raise OSError("no lights")


def named(function, name="set_lights"):
    return Tool(function, name=name)


LIGHTS = "turn the lights off in the kitchen"
BOTH = {"home": 1.0, "style": 1.0}


@pytest.fixture(scope="module")
def model():
    with lorakit.open(demo.base_path(), threads=1) as model:
        for name in BOTH:
            model.load_adapter(demo.adapter_path(name))
        yield model


def switch(room: str, state: Literal["on", "off"]) -> str:
    return "done"


def on_demo(**options):
    asked = [{"role": "user", "content": LIGHTS}]
    tools = [named(switch)]
    return {"messages": asked, "tools": tools, "adapters": BOTH, "declare": False, **options}


def test_on_a_model(model):
    run = model.run_tools(**on_demo())
    assert run.steps[0].arguments == {"room": "kitchen", "state": "off"}
    assert (run.text, run.ended) == ("Aye, done, matey!", "answered")
    events = list(model.stream_tools(**on_demo()))
    assert events[-1].run.messages == run.messages
    assert asyncio.run(model.arun_tools(**on_demo())).messages == run.messages


def test_a_model_goes_on_after_a_failure(model):
    with pytest.raises(OSError, match="no lights"):
        model.run_tools(**on_demo(tools=[named(fail)], on_tool_error="raise"))
    run = model.run_tools(**on_demo(tools=[named(fail)]))
    assert run.text == "Arr, that did not work, matey."
    limits = ToolLimits(call_seconds=0.05)
    run = model.run_tools(**on_demo(tools=[named(hang)], limits=limits))
    assert run.steps[0].outcome == "timeout"
    assert model.run_tools(**on_demo()).text == "Aye, done, matey!"


def test_a_call_that_was_cut_off_ends_the_run(model):
    """The next one would be cut off too, until the context was full."""
    session = model.session(adapters=BOTH)
    run = session.run_tools(LIGHTS, [named(switch)], declare=False, max_tokens=6)
    assert (run.ended, run.rounds, run.text) == ("length", 1, "")
    assert [step.outcome for step in run.steps] == ["malformed"]
    assert "cut off by max_tokens" in run.steps[0].content
    assert [message["role"] for message in session.messages] == ["user", "assistant"]
    assert session.run_tools(LIGHTS, [named(switch)], declare=False).ended == "answered"


@pytest.mark.parametrize("options", [{}, {"tool_choice": "set_lights"}])
def test_a_sessions_choice_that_demands_a_call_holds_for_one_reply(model, options):
    """As a run's own does; "required" in every round would call until the limit."""
    session = model.session(adapters=BOTH, tool_choice="required")
    run = session.run_tools(LIGHTS, [named(switch)], declare=False, **options)
    assert (run.ended, run.rounds, len(run.steps)) == ("answered", 2, 1)
    assert session.rendering.tool_choice == "required"


def test_a_session_keeps_the_run(model):
    session = model.session(adapters=BOTH)
    before = session.tools
    run = session.run_tools(LIGHTS, [set_lights], declare=False)
    assert session.messages == list(run.messages)
    assert session.tools is before
    assert (
        asyncio.run(
            session.arun_tools("turn the lights on in the hall", [set_lights], declare=False)
        )
        .steps[0]
        .content.endswith("is on")
    )
    assert len(session.messages) == 8
    kept = list(session.messages)
    with pytest.raises(OSError, match="no lights"):
        session.run_tools(LIGHTS, [named(fail)], declare=False, on_tool_error="raise")
    assert session.messages == kept
    stream = session.stream_tools(LIGHTS, [set_lights], declare=False)
    next(iter(stream))
    stream.cancel()
    assert session.messages == kept
    with pytest.raises(ParameterError, match="expected what the user says"):
        session.run_tools([{"role": "user", "content": "x"}], [set_lights])
    changed = session.stream_tools(LIGHTS, [set_lights], declare=False)
    session.messages.pop()
    with pytest.raises(ParameterError, match="was changed"):
        changed.run  # noqa: B018


def test_functions_as_tools_of_chat_are_an_error_that_names_the_loop(model):
    with pytest.raises(ParameterError, match="expected JSON values, found function") as error:
        model.chat(ASKED, tools=[set_lights])
    assert "run_tools" in error.value.hint


def test_an_unknown_keyword_is_refused(model):
    with pytest.raises(ParameterError, match="unknown sampling parameters: max_rounds"):
        model.run_tools(**on_demo(max_rounds=3))
    with pytest.raises(ParameterError, match="lookahead is for stream_tools"):
        model.run_tools(**on_demo(lookahead=3))
    with pytest.raises(ParameterError, match="timeout"):
        model.session().run_tools(LIGHTS, [set_lights], timeout=3)


def test_a_demanded_call_is_one_of_the_functions_under_any_adapter(model):
    for adapters in ({}, {"style": 1.0}):
        run = model.run_tools(**on_demo(adapters=adapters, tool_choice="required", max_tokens=60))
        assert run.steps[0].ok
        assert run.ended == "answered"
