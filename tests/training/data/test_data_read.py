"""Reading data sets: every shape, every fault with its place, in bounded memory and linear time."""

import json
import tracemalloc

import pytest
from data_cases import ROWS, TOOLS, call, calls_made, calls_of, request_of, row, tool, write_rows

from lorakit.errors import FormatError, LorakitError, SourceError
from lorakit.training.data import read, read_examples, read_tools

ASKED, CALL = "dim the kitchen lights to 30 percent", call("light", room="kitchen", level=30)
AS_TEXT = {**CALL, "arguments": json.dumps(CALL["arguments"])}
# One request and call in every shape that has them.
CALLING = {
    "OpenAI": row(ASKED, CALL),
    "OpenAI, arguments as text": row(ASKED, AS_TEXT),
    "OpenAI, tools as text": row(ASKED, CALL, tools=json.dumps(TOOLS)),
    "pairs": {"userQuery": ASKED, "expectedToolCalls": [CALL]},
    "pairs, arguments as text": {"userQuery": ASKED, "expectedToolCalls": [AS_TEXT]},
    "pairs, OpenAI's calls": {"userQuery": ASKED, "expectedToolCalls": [{"function": CALL}]},
    "the lab's data set": {
        "user_content": ASKED,
        "tool_name": "light",
        "tool_arguments": AS_TEXT["arguments"],
    },
    "request and call": {"request": ASKED, "call": CALL},
    "ShareGPT": {
        "conversations": [
            {"from": "human", "value": ASKED},
            {"from": "function_call", "value": json.dumps(CALL)},
        ]
    },
    "TRL's prompt and completion": {
        "prompt": row(ASKED, CALL)["messages"][:1],
        "completion": row(ASKED, CALL)["messages"][1:],
    },
}
CHATTING = {
    "request and reply": {"request": "hi", "reply": "Hello!"},
    "OpenAI": row("hi", reply="Hello!"),
    "ShareGPT": {
        "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "Hello!"}]
    },
    "Alpaca": {"instruction": "hi", "input": "", "output": "Hello!"},
    "TRL's prompt and completion": {
        "prompt": [{"role": "user", "content": "hi"}],
        "completion": [{"role": "assistant", "content": "Hello!"}],
    },
    "Gemma's name of the assistant": {
        "messages": [{"role": "user", "content": "hi"}, {"role": "model", "content": "Hello!"}]
    },
}


@pytest.mark.parametrize("shape", CALLING)
def test_a_call_is_the_same_in_every_shape(tmp_path, shape):
    (example,) = read_examples(write_rows(tmp_path / "a.jsonl", [CALLING[shape]])).require()
    assert example.task == "calls"
    assert example.place == "a.jsonl:1"
    assert request_of(example) == ASKED
    assert calls_of(example) == [CALL]
    assert list(example.tools) == TOOLS
    assert example.phrasing == "dim the {room} lights to {level} percent"


@pytest.mark.parametrize("shape", CHATTING)
def test_chat_is_the_same_in_every_shape(tmp_path, shape):
    (example,) = read_examples(write_rows(tmp_path / "a.jsonl", [CHATTING[shape]])).require()
    assert (example.task, example.tools, example.phrasing) == ("chat", (), "hi")
    assert [dict(message) for message in example.messages] == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Hello!"},
    ]


def test_completions_and_texts(tmp_path):
    rows = [{"prompt": "Once ", "completion": "upon"}, {"text": "Upon a time"}]
    completion, text = read_examples(write_rows(tmp_path / "a.jsonl", rows)).require()
    assert (completion.task, completion.prompt, completion.text) == ("completion", "Once ", "upon")
    assert (text.task, text.prompt, text.text) == ("text", "", "Upon a time")


def test_alpaca_with_input_system_and_history(tmp_path):
    record = {
        "system": "Be brief.",
        "history": [["hi", "Hello!"]],
        "instruction": "Add up",
        "input": "1 2",
        "output": "3",
    }
    (example,) = read_examples(write_rows(tmp_path / "a.jsonl", [record])).require()
    assert [(m["role"], m["content"]) for m in example.messages] == [
        ("system", "Be brief."),
        ("user", "hi"),
        ("assistant", "Hello!"),
        ("user", "Add up\n\n1 2"),
        ("assistant", "3"),
    ]


# Tools.


def test_a_row_that_declines_to_call_has_the_tools(tmp_path):
    *_, declined = read_examples(write_rows(tmp_path / "a.jsonl", ROWS)).require()
    assert (declined.task, list(declined.tools)) == ("calls", TOOLS)


def test_tools_beside_data_that_calls_none_are_left_aside(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [row("hi", reply="Hello!")])
    assert [e.task for e in read_examples(path).require()] == ["chat"]
    given = read_examples(path, tools=tmp_path / "tools.json").require()
    assert [e.task for e in given] == ["calls"]


def test_tools_of_a_row_come_before_the_files(tmp_path):
    own = [tool("light", room={"type": "string"}, level={"type": "string"})]
    rows = [row("x", call("light", level="3"), tools=own), row("x", call("light", level="3"))]
    data = read_examples(write_rows(tmp_path / "a.jsonl", rows))
    assert [list(example.tools) for example in data.examples] == [own]
    assert [fault.code for fault in data.faults] == ["arguments_invalid"]


def test_rows_that_declare_the_same_share_it(tmp_path):
    rows = [row(f"light {i}", call("light", level=i), tools=TOOLS) for i in range(1, 4)]
    data = read_examples(write_rows(tmp_path / "a.jsonl", rows, tools=None))
    assert len({id(example.tools) for example in data.require()}) == 1


def test_arguments_of_different_tools_stay_apart(tmp_path):
    """What Arrow would merge: {"room": ..., "to": null, ...}."""
    examples = read_examples(write_rows(tmp_path / "a.jsonl", ROWS)).require()
    assert [c["arguments"].keys() for e in examples for c in calls_of(e)] == [
        m["tool_calls"][0]["function"]["arguments"].keys()
        for r in ROWS
        for m in r["messages"]
        if "tool_calls" in m
    ]


def test_files_of_tools(tmp_path):
    write_rows(tmp_path / "a.jsonl", [])
    assert list(read_tools(tmp_path / "tools.json")) == TOOLS
    for content in ("{", '["x"]', '{"a": 1}', json.dumps([TOOLS[0], TOOLS[0]])):
        (tmp_path / "tools.json").write_text(content)
        with pytest.raises(FormatError):
            read_tools(tmp_path / "tools.json")


# Faults.

FAULTS = {
    "json_invalid": ["{", '{"a": 1, "a": 2}', {"userQuery": "x", "expectedToolCalls": "{"}],
    "row_invalid": ["[1]", "3", {"text": 3}, {"userQuery": "x", "expectedToolCalls": [3]}],
    "shape_unknown": ["{}", {"question": "x"}, {"prompt": "x"}],
    "message_invalid": [
        {"messages": []},
        {"messages": [3]},
        {"messages": [{"role": "usr", "content": "x"}, {"role": "assistant", "content": "x"}]},
        {"conversations": [{"from": "nobody", "value": "x"}]},
        row("x", {"name": "light", "arguments": "{"}),
        {"instruction": "x", "output": "y", "history": [["one"]]},
    ],
    "turn_missing": [
        {"messages": [{"role": "user", "content": "x"}]},
        {"messages": [{"role": "assistant", "content": "x"}]},
        row("x", reply=""),
        row("", reply="x"),
        {"userQuery": "x", "expectedToolCalls": []},
        {"text": " "},
        {"prompt": "x", "completion": ""},
    ],
    "tool_unknown": [row("x", call("lihgt", room="hall"))],
    "arguments_invalid": [
        row("x", call("light", level="30")),
        row("x", call("light", level=101)),
        row("x", call("light", rom="hall")),
        row("x", call("light", state="dim")),
    ],
    "tools_invalid": [row("x", reply="y", tools=[3]), row("x", reply="y", tools=[TOOLS[0]] * 2)],
    "unsupported": [
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
                {"role": "assistant", "content": "x"},
            ]
        },
        {
            "messages": [
                {"role": "user", "content": "x"},
                {"role": "assistant", "content": "", "function_call": {"name": "light"}},
            ]
        },
    ],
    "not_utf8": [r'{"text": "\ud800"}'],
}


@pytest.mark.parametrize(
    ("code", "bad"), [(code, bad) for code, rows in FAULTS.items() for bad in rows], ids=str
)
def test_a_bad_line_is_named_and_the_others_are_read(tmp_path, code, bad):
    path = write_rows(tmp_path / "a.jsonl", [ROWS[0], bad, "", ROWS[1]])
    data = read_examples(path)
    assert [example.place for example in data.examples] == ["a.jsonl:1", "a.jsonl:4"]
    assert [(fault.place, fault.code) for fault in data.faults] == [("a.jsonl:2", code)]
    assert data.faults[0].reason
    with pytest.raises(FormatError, match="1 line of the data") as caught:
        data.require()
    assert caught.value.items == (str(data.faults[0]),)


def test_a_fault_says_what_was_expected_and_found(tmp_path):
    bad = row("x", call("light", level="30", state="dim"))
    (fault,) = read_examples(write_rows(tmp_path / "a.jsonl", [bad])).faults
    assert "light.level: expected integer, found '30'" in fault.reason
    assert "light.state: expected one of 'on', 'off', found 'dim'" in fault.reason


def test_calls_without_any_declarations_are_a_fault(tmp_path):
    (fault,) = read_examples(write_rows(tmp_path / "a.jsonl", ROWS[:1], tools=None)).faults
    assert fault.code == "tool_unknown"
    assert "tools.json" in fault.reason


def test_bytes_that_are_no_text_and_lines_that_are_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "MAX_LINE", 1000)
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"text": "a"}\n{"text": "\xff"}\n' + b"x" * 5000 + b'\n{"text": "b"}'
    )
    data = read_examples(path)
    assert [(e.place, e.text) for e in data.examples] == [("a.jsonl:1", "a"), ("a.jsonl:4", "b")]
    assert [(f.place, f.code) for f in data.faults] == [
        ("a.jsonl:2", "not_utf8"),
        ("a.jsonl:3", "line_too_long"),
    ]


def test_after_many_faults_the_rest_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "MAX_FAULTS", 3)
    data = read_examples(write_rows(tmp_path / "a.jsonl", ["{"] * 10))
    assert [fault.code for fault in data.faults] == ["json_invalid"] * 3 + ["too_many"]


def test_keys_that_are_not_read_are_counted(tmp_path):
    rows = [{"text": "a", "id": 1}, {"text": "b", "id": 2, "source": "x"}]
    assert read_examples(write_rows(tmp_path / "a.jsonl", rows)).ignored == {"id": 2, "source": 1}


def test_no_example_is_an_error_and_says_what_one_is(tmp_path):
    with pytest.raises(FormatError, match="no example"):
        read_examples(write_rows(tmp_path / "a.jsonl", [""])).require()


@pytest.mark.parametrize("head", [b"PAR1", b"ARROW1", b"\x1f\x8b\x08", b"PK\x03\x04"])
def test_packed_files_are_refused_as_such(tmp_path, head):
    (tmp_path / "a.parquet").write_bytes(head + bytes(100))
    with pytest.raises(FormatError, match="packed"):
        read_examples(tmp_path / "a.parquet")


def test_what_is_no_file(tmp_path):
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(SourceError):
            read_examples(path)
    with pytest.raises(LorakitError):
        read_examples("\0")


# A JSON list, and CSV.


def test_a_json_list(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": "a"}, 3]))
    data = read_examples(path)
    assert [example.place for example in data.examples] == ["a.json[1]"]
    assert [fault.place for fault in data.faults] == ["a.json[2]"]
    path.write_text("[{]")
    with pytest.raises(FormatError, match="not valid JSON"):
        read_examples(path)
    monkeypatch.setattr(read, "MAX_LIST", 2)
    with pytest.raises(FormatError, match="more than 2 bytes"):
        read_examples(path)


LAB = '"Is it dark, in ""the hall""?", "light", "{""room"": ""the hall""}"\n'


def test_csv_as_googles_tuning_lab_takes_it(tmp_path):
    """No header: request, tool, arguments as JSON; a space may follow a comma."""
    path = tmp_path / "a.csv"
    write_rows(path, [])
    path.write_text(LAB + LAB)
    first, second = read_examples(path).require()
    assert calls_of(first) == [call("light", room="the hall")]
    assert request_of(first) == 'Is it dark, in "the hall"?'
    assert (first.place, second.place) == ("a.csv:1", "a.csv:2")


@pytest.mark.parametrize(
    "header", ["user_content,tool_name,tool_arguments", "User Prompt,Tool Name,Tool Args JSON"]
)
def test_csv_with_a_header(tmp_path, header):
    path = tmp_path / "a.csv"
    write_rows(path, [])
    path.write_text(f"{header}\n{LAB}")
    (example,) = read_examples(path).require()
    assert (example.place, calls_of(example)) == ("a.csv:2", [call("light", room="the hall")])


def test_csv_of_other_columns(tmp_path):
    path = tmp_path / "a.csv"
    write_rows(path, [])
    path.write_text('turn it on,"{""name"": ""light"", ""arguments"": {""state"": ""on""}}"\n')
    assert calls_of(read_examples(path).require()[0]) == [call("light", state="on")]
    path.write_text("prompt,completion\nOnce,upon\n")
    assert read_examples(path).require()[0].text == "upon"
    path = path.rename(tmp_path / "a.tsv")
    path.write_text("instruction\toutput\nhi\tHello, you\n")
    assert read_examples(path).require()[0].messages[1]["content"] == "Hello, you"


def test_faults_of_csv_have_the_line_where_the_row_begins(tmp_path):
    path = tmp_path / "a.csv"
    write_rows(path, [])
    path.write_text(
        '"two\nlines",light,{}\none,two,three,four\n' + "a,light,{\n" + '"open,light,{}\n'
    )
    data = read_examples(path)
    assert [example.place for example in data.examples] == ["a.csv:1"]
    assert [(f.place, f.code) for f in data.faults] == [
        ("a.csv:3", "csv_invalid"),
        ("a.csv:4", "message_invalid"),
        ("a.csv:5", "csv_invalid"),
    ]


# Memory and time.


def peak(function):
    """The most memory that Python held meanwhile, in bytes."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_large_file_is_read_line_by_line(tmp_path):
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        for _ in range(24):
            file.write(b"{" + b"x" * (1 << 20) + b"\n")
    assert peak(lambda: read_examples(path)) < 8 << 20
    assert peak(path.read_bytes) > 8 << 20  # the broken variant: the file at once


def test_time_is_linear_in_the_lines(tmp_path):
    rows = [
        row(f"light number {i} on", call("light", room=f"room {i}", state="on")) for i in range(400)
    ]
    once = calls_made(lambda: read_examples(write_rows(tmp_path / "a.jsonl", rows[:200])))
    twice = calls_made(lambda: read_examples(write_rows(tmp_path / "b.jsonl", rows)))
    assert twice < 2.2 * once

    def again(count):  # the broken variant: what was read is looked at again with each line
        return calls_made(lambda: [request_text(r) for i in range(count) for r in rows[:i]])

    assert again(400) > 2.2 * again(200)


def request_text(record):
    return record["messages"][0]["content"]
