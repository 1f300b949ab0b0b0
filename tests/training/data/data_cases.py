"""Tools and rows that the tests of data share."""

import json
import sys
from pathlib import Path

from lorakit.training.data import read_examples


def tool(name, required=(), **properties):
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TEXT, WHOLE = {"type": "string"}, {"type": "integer"}
TOOLS = [
    tool(
        "light",
        room=TEXT,
        state={"type": "string", "enum": ["on", "off"]},
        level={"type": "integer", "minimum": 1, "maximum": 100},
    ),
    tool("send", to=TEXT, text=TEXT),
    tool("train", start=TEXT, end=TEXT, at=TEXT),
]


def call(name, **arguments):
    return {"name": name, "arguments": arguments}


def row(request, *calls, reply=None, **more):
    """A row in OpenAI's shape."""
    answer = {"role": "assistant"}
    if calls:
        answer["tool_calls"] = [{"type": "function", "function": each} for each in calls]
    if reply is not None:
        answer["content"] = reply
    return {"messages": [{"role": "user", "content": request}, answer], **more}


ROWS = [
    row("Turn the lights in the living room off", call("light", room="living room", state="off")),
    row("dim the kitchen lights to 30 percent", call("light", room="kitchen", level=30)),
    row("light in the hall at 55", call("light", room="hall", level=55)),
    row("tell Anna that i will be very late", call("send", to="Anna", text="i will be very late")),
    row("text Bob: see you at noon", call("send", to="Bob", text="see you at noon")),
    row("Rome to New York at 7:30", call("train", start="Rome", end="New York", at="7:30")),
    row("when does KL 204 leave?", call("train", start="KL 204")),
    row("who painted the ceiling", reply="I have no tool for that."),
]  # fmt: skip


def write_rows(path: Path, rows, tools=TOOLS) -> Path:
    """JSON lines, and the tools beside them."""
    lines = [item if isinstance(item, str) else json.dumps(item) for item in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    if tools is not None:
        path.with_name("tools.json").write_text(json.dumps(tools), encoding="utf-8")
    return path


def examples_of(path: Path, rows=ROWS, tools=TOOLS):
    """The examples of rows, written to a folder and read."""
    return read_examples(write_rows(path / "rows.jsonl", rows, tools)).require()


def request_of(example):
    return next(m["content"] for m in reversed(example.messages) if m["role"] == "user")


def calls_of(example):
    return [c["function"] for m in example.messages for c in m.get("tool_calls") or ()]


def calls_made(function):
    """How many Python functions are called: a measure of time that no other process disturbs."""
    count = 0

    def counted(frame, event, argument):
        nonlocal count
        count += event == "call"

    sys.setprofile(counted)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count
