"""`lorakit chat` and `run` at a terminal, with a server that stops in mid-answer until Ctrl-C."""

import threading

from api_server import api_serving, delta, events

from terminals import CTRL_C, CTRL_D, Terminal


def test_ctrl_c_stops_an_answer_and_keeps_the_conversation():
    go = threading.Event()
    answers = iter(
        [
            events(delta(reasoning_content="Easy."), delta(content="hi"), delta("stop")),
            events(delta(content="It was a dark "), go.wait),
            events(go.wait),
            events(delta(content="Indeed."), delta("stop")),
        ]
    )
    with api_serving(v1__chat__completions=lambda body: next(answers)) as api:
        with Terminal("chat", f"{api.url}/v1", "--system", "be brief") as terminal:
            terminal.prompt()
            assert "thinking: Easy.\n\nhi\n" in terminal.say("hello")
            assert b"\x1b[2mthinking:" in terminal.raw
            terminal.key("tell me a story\r")
            terminal.sees("dark")
            terminal.key(CTRL_C)
            assert "(stopped; /retry answers anew)" in terminal.prompt()
            terminal.key("and then\r")
            terminal.until(lambda: len(api.of("/v1/chat/completions")) == 3)
            terminal.key(CTRL_C)
            assert "your message is taken back" in terminal.prompt()
            assert "Indeed." in terminal.say("really")
            terminal.key(CTRL_D)
            assert terminal.ends() == 0
        go.set()
        asked = [one.body["messages"] for one in api.of("/v1/chat/completions")]
    assert [(m["role"], m["content"]) for m in asked[3]] == [
        ("system", "be brief"),
        ("user", "hello"),
        ("assistant", "hi"),
        ("user", "tell me a story"),
        ("assistant", "It was a dark"),
        ("user", "really"),
    ]


def test_run_shows_an_answer_with_its_reasoning_apart():
    said = events(delta(reasoning_content="Easy."), delta(content="hi"), delta("stop"))
    with (
        api_serving(v1__chat__completions=lambda body: said) as api,
        Terminal("run", f"{api.url}/v1", "hello") as terminal,
    ):
        assert terminal.ends() == 0
        assert terminal.shown == "thinking: Easy.\n\nhi\n"
