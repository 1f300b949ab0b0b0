"""An answer in the page as its tokens come: when each part is told, where it ends, and which tokens
may not come."""

import pytest

CALL = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
QWEN = "<tool_call>\n<function=f>\n<parameter=zip>\n90210\n</parameter>\n</function>\n</tool_call>"
TOOL = {"name": "f", "parameters": {"properties": {"zip": {"type": "string"}}}}


def asked(text: str, *, format: str = "hermes", size: int = 1, **more):
    """An answer whose tokens are so many bytes each."""
    data = text.encode()
    pieces = [list(data[at : at + size]) for at in range(0, len(data), size)]
    return {"format": format, "pieces": pieces, **more}


@pytest.fixture
def answers(plain_node):
    return lambda *given, **how: plain_node.run("answers.mjs", list(given), **how)


def kinds(events) -> list[str]:
    return [event["type"] for event in events]


def said(told) -> str:
    return "".join(e["text"] for events in told for e in events if e["type"] == "text")


def test_answers_are_told_ended_and_kept_from_calling(answers):
    found = answers(
        asked("né 😀 a < b"),
        asked("one STOP two", stop=["STOP"]),
        asked(f"{CALL}\n{CALL}"),
        asked(f"{CALL}\n{CALL}", options={"parallelToolCalls": False}),
        asked(f"Well. {CALL}", options={"toolChoice": "none"}),
        asked(f"Well. {CALL}", size=200, options={"toolChoice": "none"}),
        asked('{"name": "f", "parameters": {}}', format="llama3", options={"toolChoice": "none"}),
        asked(QWEN, format="qwen3coder"),
        asked(QWEN, format="qwen3coder", tools=[TOOL]),
        asked('<tool_call>{"name": "f", "arguments": {"a": True}}</tool_call>'),
        asked(
            '<tool_call>{"name": "f", "arguments": {"a": True}}</tool_call>',
            options={"repair": True},
        ),
    )
    halves, stopped, two, one, silent, whole, lead, bare, typed, broken, mended = found
    assert said(halves["told"]) == "né 😀 a < b"
    assert [said([events]) for events in halves["told"][:4]] == ["n", "", "é", ""]
    assert (stopped["raw"], said(stopped["told"])) == ("one ", "one")  # no half of the stop text
    assert stopped["parsed"]["text"] == "one "
    assert len(two["parsed"]["calls"]) == 2
    assert (one["parsed"]["calls"], one["raw"]) == ([{"name": "f", "arguments": {"a": 1}}], CALL)
    first = [kind for events in one["told"] for kind in kinds(events)]
    assert (first[0], first[-1], set(first[1:-1])) == ("callStart", "callEnd", {"callArguments"})
    for quiet in (silent, whole, lead):
        assert quiet["refused"]
        assert (quiet["parsed"]["calls"], quiet["parsed"]["malformed"]) == ([], [])
    assert silent["parsed"]["text"].startswith("Well. <tool_call")
    assert [f["parsed"]["calls"][0]["arguments"] for f in (bare, typed)] == [
        {"zip": 90210}, {"zip": "90210"},
    ]  # fmt: skip
    assert (broken["parsed"]["calls"], len(broken["parsed"]["malformed"])) == ([], 1)
    assert mended["parsed"]["calls"] == [{"name": "f", "arguments": {"a": True}}]
    assert [repair["index"] for repair in mended["parsed"]["repairs"]] == [0]


@pytest.mark.parametrize(
    ("text", "replacement"),
    [
        ("half < 0 ? this.text : this.text.slice(0, half)", "this.text"),
        ("whole.slice(0, whole.length - keep)", "whole"),
        ("if (!this.use.silent) return true;", "return true;"),
        ("if (!this.use.parallel)", "if (false)"),
    ],
)
def test_a_broken_answer_is_seen(plain_node, broken_web, text, replacement):
    def run(**how):
        return plain_node.run(
            "answers.mjs",
            [
                asked("né 😀 STOP", stop=["STOP"]),
                asked(CALL * 2, options={"parallelToolCalls": False}),
                asked(CALL, options={"toolChoice": "none"}),
            ],
            **how,
        )

    assert run(web=broken_web({"answer.js": (text, replacement)})) != run()
