"""lorakit data: validate, stats, split and expand."""

import json
import re
import shutil
from pathlib import Path

import pytest

from commands import invoke
from lorakit import demo
from lorakit.errors import ParameterError

TOOLS = [{"name": "dim", "parameters": {"properties": {"room": {"type": "string"}}}}]
ROWS = [
    {"request": f"{verb} the {room}", "call": {"name": "dim", "arguments": {"room": room}}}
    for verb in ("dim", "darken", "shade", "lower", "soften")
    for room in ("hall", "attic", "cellar")
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tools.json").write_text(json.dumps(TOOLS))
    put("train.jsonl", ROWS)
    return tmp_path


def put(name, rows):
    Path(name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def shown(*arguments):
    done = invoke("data", *arguments, "--json")
    assert done.error is None, done.error
    return done.code, json.loads(done.stdout)


def test_sound_data(folder):
    done = invoke("data", "validate", "train.jsonl")
    assert (done.code, done.stdout) == (0, "15 examples, nothing wrong\n")


def test_bad_lines_are_listed_with_number_and_reason(folder):
    put("bad.jsonl", [ROWS[0], {"request": "x"}, {**ROWS[0], "id": 7}])
    done = invoke("data", "validate", "bad.jsonl")
    assert done.code == 1
    assert "bad.jsonl:2: the row has request" in done.stdout
    assert "bad.jsonl:3: the same as bad.jsonl:1  [duplicate]" in done.stdout
    assert "not read: id (1 lines)" in done.stdout
    assert "2 examples, 2 bad lines" in done.stdout
    code, told = shown("validate", "bad.jsonl")
    assert code == 1
    assert [fault["code"] for fault in told["faults"]] == ["shape_unknown", "duplicate"]
    assert told["ignored"] == {"id": 1}


def test_leaks_into_the_test_data(folder):
    put("eval.jsonl", [ROWS[0], {**ROWS[0], "request": "Dim the loft", "call": loft()}])
    assert shown("validate", "eval.jsonl")[0] == 0
    code, told = shown("validate", "eval.jsonl", "--train", "train.jsonl")
    assert (code, [fault["place"] for fault in told["faults"]]) == (1, ["eval.jsonl:1"])
    code, told = shown("validate", "eval.jsonl", "--train", "train.jsonl", "--unseen-phrasings")
    assert [fault["place"] for fault in told["faults"]] == ["eval.jsonl:1", "eval.jsonl:2"]


def loft():
    return {"name": "dim", "arguments": {"room": "loft"}}


def test_lengths_are_those_of_the_base(folder):
    base = demo.base_path()
    assert shown("validate", "train.jsonl", "--base", base)[0] == 0
    code, told = shown("validate", "train.jsonl", "--base", base, "--max-tokens", 25)
    assert (code, {fault["code"] for fault in told["faults"]}) == (1, {"too_long"})
    short = shown("stats", "train.jsonl", "--base", base)[1]["tokens"]
    declared = shown("stats", "train.jsonl", "--base", base, "--declare")[1]["tokens"]
    assert declared[0] > short[0] > 15


def test_words_beside_a_call_are_counted(folder):
    """In general, and for a base whose template writes none; one that writes them is silent."""
    put("worded.jsonl", [ROWS[0], {**ROWS[1], "reply": "at once"}])
    done = invoke("data", "validate", "worded.jsonl")
    assert done.code == 0
    assert "warning: 1 example has words beside a call, which some templates" in done.stdout
    base = Path(shutil.copytree(demo.base_path(), "silent"))
    template = base / "chat_template.jinja"
    source = template.read_text("utf-8")
    said, unsaid = "text(message.content) -}}", "'' if message.tool_calls else "
    assert source.count(f"{{{{- {said}") == 1
    template.write_text(source.replace(f"{{{{- {said}", f"{{{{- {unsaid}{said}"))
    code, told = shown("validate", "worded.jsonl", "--base", base)
    assert (code, len(told["warnings"])) == (0, 1)
    assert told["warnings"][0].endswith("only the call is learnt; the first is worded.jsonl:2")
    assert shown("validate", "worded.jsonl", "--base", demo.base_path())[1]["warnings"] == []
    assert shown("validate", "train.jsonl")[1]["warnings"] == []


def test_an_empty_file_is_a_fault(folder):
    put("none.jsonl", [])
    code, told = shown("validate", "none.jsonl")
    assert (code, told["faults"][0]["code"]) == (1, "empty")


def test_counts(folder):
    done = invoke("data", "stats", "train.jsonl")
    assert re.search(r"^dim +15 +5$", done.stdout, re.MULTILINE)
    assert re.search(r"^dim.room +3$", done.stdout, re.MULTILINE)
    assert "advice: every request calls a tool" in done.stdout


def test_a_split_keeps_phrasings_apart(folder):
    code, told = shown("split", "train.jsonl", "--share", "0.2")
    assert told["written"] == {"train.train.jsonl": 12, "train.eval.jsonl": 3}
    code, _ = shown(
        "validate", "train.eval.jsonl", "--train", "train.train.jsonl", "--unseen-phrasings"
    )
    assert code == 0
    again = invoke("data", "split", "train.jsonl", "--by", "line")
    assert isinstance(again.error, ParameterError)
    assert "--overwrite" in again.error.hint
    assert shown("split", "train.jsonl", "--by", "line", "--overwrite")[1]["written"]


def test_expanding_leaves_held_out_phrasings_unseen(folder):
    put("eval.jsonl", [{**ROWS[0], "request": "dim hall", "call": ROWS[0]["call"]}])
    shown("expand", "train.jsonl", "-o", "free.jsonl", "-n", "300")
    shown("expand", "train.jsonl", "-o", "kept.jsonl", "-n", "300", "--held-out", "eval.jsonl")
    against = ("--train", "eval.jsonl", "--unseen-phrasings")
    assert leaked("free.jsonl", against)
    assert not leaked("kept.jsonl", against)


def leaked(name, against):
    return [f for f in shown("validate", name, *against)[1]["faults"] if f["code"] == "leak"]


TEMPLATES = {
    "slots": {"room": ["hall", "attic", "cellar", "den", "gym"]},
    "templates": [
        {"request": "dim the {room}", "call": {"name": "dim", "arguments": {"room": "{room}"}}}
    ],
}


def test_expanding_templates(folder):
    Path("t.json").write_text(json.dumps(TEMPLATES))
    done = invoke("data", "expand", "t.json", "-o", "a.jsonl", "--test", "b.jsonl")
    assert done.stdout == "a.jsonl: 4 examples\nb.jsonl: 1 example\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("split", "train.jsonl", "--train", "x", "--test", "x"), "both files"),
        (("split", "train.jsonl", "--share", "2"), "share"),
        (("expand", "train.jsonl", "-o", "train.jsonl"), "exists"),
        (("expand", "train.jsonl", "-o", "x", "--test", "y"), "--test"),
        (("expand", "t.json", "-o", "x", "--held-out", "train.jsonl"), "--held-out"),
    ],
)
def test_what_does_not_go_together(folder, words, message):
    Path("t.json").write_text(json.dumps(TEMPLATES))
    done = invoke("data", *words)
    assert isinstance(done.error, ParameterError)
    assert message in done.error.message
    assert not Path("x").exists()
