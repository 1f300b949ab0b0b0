"""lorakit eval, through the command line."""

import json

import pytest

from commands import invoke
from folders import DATA
from lorakit import demo
from lorakit.chat.tools import get_format
from lorakit.errors import (
    BaseModelError,
    ContextFullError,
    FormatError,
    MismatchError,
    ParameterError,
    SourceError,
    WriteError,
)

BASE, HOME = demo.base_path(), demo.adapter_path("home")
ROOM = {"type": "string"}


def row(each):
    """An example of the demo's evaluation set as a line of a file."""
    answer = get_format("functiongemma").parse(each.expected)
    calls = [call.to_openai() for call in answer.tool_calls]
    said = {"role": "assistant", "content": answer.text} | ({"tool_calls": calls} if calls else {})
    tools = {
        call.name: {
            "type": "function",
            "function": {
                "name": call.name,
                "parameters": {"type": "object", "additionalProperties": True},
            },
        }
        for call in answer.tool_calls
    }
    return {"messages": [*each.messages, said], "tools": [*tools.values()]}


def write(path, rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{json.dumps(each)}\n" for each in rows), "utf-8")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rows = [row(each) for each in demo.examples("home", "phrasings")[:20]]
    return write(tmp_path_factory.mktemp("data") / "home.jsonl", rows)


def lorakit(*arguments, code=0):
    done = invoke("eval", BASE, *arguments, "--threads", "1")
    assert done.code == code, done
    return done.stdout


def refused(error, *arguments):
    done = invoke("eval", BASE, *arguments, "--threads", "1")
    assert isinstance(done.error, error), done
    return str(done.error)


def test_a_table_with_what_is_wrong_and_a_verdict(data):
    out = lorakit("-a", HOME, "--data", data, "--compare", "base", "--failures", "1")
    lines = out.splitlines()
    assert lines[0].split()[:3] == ["right", "names", "arguments"]
    assert lines[1].startswith("home")
    assert lines[2].startswith("base")
    assert "set_lock" in out
    assert "of 20 answers right" in out
    assert "base: 0.0%; better on 0 and worse on" in out


def test_constrained_and_free_answers_stand_beside_each_other(data):
    out = lorakit("-a", HOME, "--data", data, "--constrained", "--failures", "0")
    assert out.splitlines()[1].startswith("home+constrained")
    assert out.splitlines()[2].startswith("free")
    assert "exact match is never lowered" in " ".join(out.split())


def test_json_has_every_outcome(data):
    out = lorakit("-a", HOME, "--data", data, "--scales", "0:1:0.5", "--json")
    found = json.loads(out)
    names = [side["name"] for side in found["sides"]]
    assert names == ["home", "home x 0", "home x 0.5", "home x 1"]
    assert found["best_scale"] == 1
    assert len(found["sides"][0]["outcomes"]) == 20
    assert found["sides"][0]["exact"] == found["sides"][3]["exact"]
    assert found["sides"][0]["alone_seconds"] > 0


def test_the_exit_code_of_a_share_that_is_asked_for(data):
    assert "below" not in lorakit("-a", HOME, "--data", data, "--min", "0.5")
    out = lorakit("--data", data, "--min", "0.5", code=1)
    assert "0.0% is below the 50.0% that were asked for" in out
    lorakit("--data", data, "--min", "0.5", "--json", code=1)


def test_a_page_and_nothing_where_it_fails(data, tmp_path):
    page = tmp_path / "new/report.html"
    lorakit("-a", HOME, "--data", data, "--limit", "4", "--html", page)
    assert page.read_text("utf-8").startswith("<!doctype html>")
    assert [each.name for each in page.parent.iterdir()] == ["report.html"]
    taken = tmp_path / "file"
    taken.write_text("", "utf-8")
    done = invoke("eval", BASE, "--data", data, "--limit", "1", "--html", taken / "report.html")
    assert done.error.code == "write_failed"
    assert "exists" in refused(ParameterError, "--data", data, "--html", tmp_path)


def test_a_page_that_cannot_be_written_is_told_before_anything_runs(data, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise AssertionError("it ran")

    monkeypatch.setattr("lorakit.cli.eval.compare", fail)
    refused(WriteError, "--data", data, "--html", tmp_path)


def test_several_files_are_told_apart(data, tmp_path):
    rows = [row(each) for each in demo.examples("base", "values")[:6]]
    other = write(tmp_path / "kept.jsonl", rows)
    out = lorakit("-a", HOME, "--data", data, "--data", other, "--compare", "base", "--limit", "20")
    assert "home.jsonl" in out.splitlines()[0]
    assert "kept.jsonl" in out.splitlines()[0]
    same = write(tmp_path / "again/kept.jsonl", rows)
    found = json.loads(lorakit("--data", other, "--data", same, "--json"))
    assert len(found["sides"][0]["by_file"]) == 2


def test_the_data_that_it_was_trained_on(data, tmp_path):
    train = write(tmp_path / "train.jsonl", [row(demo.examples("home", "phrasings")[0])])
    found = json.loads(lorakit("-a", HOME, "--data", data, "--train", train, "--json"))
    assert found["leaked"] == 1
    novelty = found["by_novelty"]
    assert novelty["known phrasings"]["total"] + novelty["new phrasings"]["total"] == 20


def test_answers_in_words(tmp_path):
    pairs = [("hello", "Hello there."), ("good morning", "Morning.")]
    words = write(
        tmp_path / "words.jsonl",
        [{"messages": [{"role": "user", "content": a}, {"role": "assistant", "content": b}]}
         for a, b in pairs],
    )  # fmt: skip
    style = demo.adapter_path("style")
    out = lorakit("-a", style, "--data", words, "--regex", "(?i)arr|ahoy|matey|aye|ye")
    assert "of 2 answers right" in out
    scorer = tmp_path / "judge.py"
    scorer.write_text("def short(example, reply):\n    return 0.5\n", "utf-8")
    found = json.loads(lorakit("--data", words, "--scorer", f"{scorer}:short", "--json"))
    assert found["sides"][0]["score"] == 0.5
    texts = write(tmp_path / "texts.jsonl", [{"text": "the lights are on in the kitchen"}])
    out = lorakit("--data", texts, "--compare", "int8")
    assert out.splitlines()[0].split()[0] == "perplexity"
    lorakit("--data", texts, "--max-perplexity", "2", code=1)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (("--compare", "nonsense"), ParameterError, "words: base"),
        (("--scales", "0:1:0.5"), ParameterError, "-a REF"),
        (("--scales", "1"), ParameterError, "no adapter"),
        (("-a", HOME, "--scales", "x"), ParameterError, "no scales"),
        (("-a", DATA / "truth/peft/llama/plain"), MismatchError, ""),
        (("-a", "nowhere"), SourceError, "nowhere"),
        (("-a", f"{HOME}:half"), ParameterError, "no scale"),
        (("--regex", "("), ParameterError, "regular expression"),
        (("--regex", "x", "--scorer", "a:b"), ParameterError, "exclude"),
        (("--scorer", "nowhere.py:f"), ParameterError, "nowhere.py"),
        (("--max-perplexity", "5"), ParameterError, "--min"),
        (("--context", "4"), ContextFullError, "do not fit the context"),
    ],
)
def test_what_makes_no_sense_is_refused(data, arguments, error, said):
    assert said in refused(error, "--data", data, *arguments)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("", "no example"),
        ("{}\n", "broken.jsonl:1"),
        ('{"messages": [{"role": "user", "content": "x"}]}\n', "broken.jsonl:1"),
        ("not json\n", "broken.jsonl:1"),
    ],
)
def test_data_with_faults(tmp_path, lines, said):
    path = tmp_path / "broken.jsonl"
    path.write_text(lines, "utf-8")
    assert said in refused(FormatError, "--data", path)
    refused(SourceError, "--data", tmp_path / "nowhere.jsonl")


def test_texts_have_no_share_of_right_answers(tmp_path):
    texts = write(tmp_path / "texts.jsonl", [{"text": "the lights are on"}])
    assert "--max-perplexity" in refused(ParameterError, "--data", texts, "--min", "0.5")
    assert "no answer" in refused(ParameterError, "--data", texts, "--regex", "x")


def test_a_base_without_a_template(data):
    done = invoke("eval", DATA / "truth/bases/llama", "--data", data, "--threads", "1")
    assert isinstance(done.error, BaseModelError), done


@pytest.mark.parametrize("words", [("--min", "1.5"), ("--limit", "0"), ("--batch", "0"), ()])
def test_wrong_usage(data, words):
    given = () if not words else ("--data", data)
    assert invoke("eval", BASE, *given, *words).code == 2
