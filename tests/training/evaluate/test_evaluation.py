"""From answers to figures: what is exact, invalid, silent, confused."""

import json
import math
import subprocess
import sys

import pytest
from evaluate_cases import call, completion, example, judged, tool

from lorakit.chat.calls import ParsedReply
from lorakit.errors import ParameterError
from lorakit.training.data import Example
from lorakit.training.evaluate import Evaluation, Share, load_scorer, matches
from lorakit.training.evaluate.judging import Judge

TOOLS = [tool("set", ["level"], level="number"), tool("get", city="string")]
ONE = example(call("set", level=5), tools=TOOLS)
TWO = example(call("set", level=5), call("get", city="Oslo"), tools=TOOLS)
NONE = example(text="No tool for that.", tools=TOOLS)


def of(*outcomes):
    return Evaluation(outcomes=outcomes)


def test_a_right_call_is_exact_whatever_words_stand_beside_it():
    found = judged(ONE, call("set", level=5.0), text="Sure!")
    assert found.exact
    assert found.names_right
    assert found.arguments_right
    assert found.invalid == ()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"malformed": ["<call>"]}, "no call: broken"),
        ({"ended": False}, "it does not end within the tokens that were allowed"),
    ],
)
def test_what_cannot_be_carried_out_is_not_exact(answer, reason):
    found = judged(ONE, call("set", level=5), **answer)
    assert found.invalid == (reason,)
    assert not found.exact


def test_calls_that_the_declarations_refuse_are_invalid():
    for got in (call("put", level=5), call("set", level="5"), call("set"), call("set", x=1)):
        found = judged(ONE, got)
        assert found.invalid
        assert not found.exact
    undeclared = example(call("set", level=5))
    assert judged(undeclared, call("put", level=5)).invalid == ()
    assert not judged(undeclared, call("put", level=5)).exact


def test_a_long_answer_in_words_is_no_fault_where_no_call_is_wanted():
    assert judged(NONE, text="so many words", ended=False).exact
    assert not judged(NONE, call("get", city="Oslo")).exact
    assert not judged(NONE, malformed=["<call>"]).abstained
    assert not judged(ONE, text="so many words", ended=False).exact


def test_the_order_of_calls_counts_where_that_is_asked_for():
    got = [call("get", city="Oslo"), call("set", level=5)]
    assert judged(TWO, *got).exact
    assert not judged(TWO, *got, ordered=True).exact
    assert judged(TWO, *got[::-1], ordered=True).exact


def test_the_figures_of_a_whole():
    found = of(
        judged(ONE, call("set", level=5)),
        judged(ONE, call("set", level=6)),
        judged(ONE, call("get", city="Oslo")),
        judged(ONE, text="I cannot."),
        judged(ONE, malformed=["<call>"]),
        judged(TWO, call("get", city="Oslo"), call("set", level=5)),
        judged(TWO, call("get", city="Rome")),
        judged(NONE, text="No."),
        judged(NONE, call("set", level=1)),
    )
    assert found.exact == Share(3, 9)
    assert found.names == Share(5, 9)  # of the calls that are wanted
    assert found.arguments == Share(3, 5)
    assert found.invalid == Share(1, 9)
    assert found.silent == Share(1, 7)
    assert found.abstained == Share(1, 2)
    assert found.parallel == Share(1, 2)
    assert found.by_tool == {"get": Share(1, 2), "set": Share(2, 7)}
    assert found.confusions == {
        ("set", "get"): 1, ("set", "(no call)"): 2, ("set", "(invalid)"): 1,
        ("(no call)", "set"): 1,
    }  # fmt: skip
    assert found.tools_called["set", "set"] == 3
    assert (found.score, found.goal) == (3 / 9, 3 / 9)
    assert found.headline == "33.3% of 9 answers right (12.1-64.6%)"
    assert found.perplexity is None


def test_by_phrasing_the_worst_first():
    places = [("a", 5), ("a", 6), ("b", 5), ("c", 6), ("c", 6)]
    found = of(
        *(
            judged(
                example(call("set", level=5), place=f"x.jsonl:{n}", phrasing=name),
                call("set", level=level),
            )
            for n, (name, level) in enumerate(places)
        )
    )
    assert list(found.by_phrasing.items()) == [
        ("c", Share(0, 2)),
        ("a", Share(1, 2)),
        ("b", Share(1, 1)),
    ]
    assert found.by_file == {"x.jsonl": Share(2, 5)}


def test_json_has_null_where_there_is_nothing_to_count():
    found = of(judged(ONE, call("set", level="5"), text="set(5)")).to_dict()
    said = json.loads(json.dumps(found, allow_nan=False))
    assert said["abstained"] is None
    assert said["exact"]["count"] == 0
    (outcome,) = said["outcomes"]
    assert outcome["expected"] == [{"name": "set", "arguments": {"level": 5}}]
    assert outcome["faults"] == [{"tool": "set", "argument": "level", "fault": "type"}]
    assert "outcomes" not in of().to_dict(outcomes=False)


def test_answers_in_words():
    words = Example(task="completion", place="x:1", prompt="2 + 2 =", text=" 4 ")
    assert Judge().outcome(words, completion("4"), ParsedReply(text="4")).exact
    assert not Judge().outcome(words, completion("5"), ParsedReply(text="5")).exact
    judge = Judge(scorer=matches(r"^\d$"))
    assert judge.outcome(words, completion("5"), ParsedReply(text="5")).exact
    with pytest.raises(ParameterError, match="no regular expression"):
        matches("(")


def scorer(tmp_path, body):
    path = tmp_path / "judge.py"
    path.write_text(f"def score(example, reply):\n    {body}\n", "utf-8")
    return load_scorer(f"{path}:score")


def test_a_function_of_the_users(tmp_path):
    score = scorer(tmp_path, "return len(reply.text) / 10")
    assert score(ONE, ParsedReply(text="12345")) == 0.5
    outcome = judged(ONE, text="12345", scorer=score)
    assert not outcome.exact
    assert of(outcome).score == 0.5
    assert of(outcome).headline == "a score of 0.500 in 1 answers"
    assert load_scorer("json:dumps")


@pytest.mark.parametrize("body", ["return 2", "return None", "return 'yes'", "return reply.nope"])
def test_a_function_that_gives_no_score(tmp_path, body):
    with pytest.raises(ParameterError) as refused:
        scorer(tmp_path, body)(ONE, ParsedReply())
    assert "eval.jsonl:1" in str(refused.value)


@pytest.mark.parametrize("reference", ["", "x", ":f", "nowhere.py:f", "no_such_module:f", "json:x"])
def test_no_function(reference):
    with pytest.raises(ParameterError):
        load_scorer(reference)


def test_a_file_that_cannot_be_run(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("1 / 0\n", "utf-8")
    with pytest.raises(ParameterError, match="ZeroDivisionError"):
        load_scorer(f"{path}:f")


def test_it_needs_no_torch():
    code = "import sys; from lorakit.training import evaluate; import lorakit.cli.eval; "
    code += "raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_nothing_answered():
    assert math.isnan(of().score)
    assert math.isnan(of().goal)
    assert of().to_dict()["score"] is None
