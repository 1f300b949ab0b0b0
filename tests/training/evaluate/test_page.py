"""The page: one file, no address in it, every text escaped, well-formed."""

import re
from html.parser import HTMLParser

import pytest
from evaluate_cases import call, demo_examples, example, judged, tool

from lorakit import demo
from lorakit.training.evaluate import Evaluation
from lorakit.training.evaluate.comparing import Opening, compare
from lorakit.training.evaluate.comparison import Comparison, Learnt
from lorakit.training.evaluate.contestants import contestants, first_contestant, sweep
from lorakit.training.evaluate.page import MAX_ANSWERS, page
from lorakit.training.evaluate.work import Rules

VOID = {"meta", "br"}
EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&"


class Elements(HTMLParser):
    """Every element with its attributes; fails where one is not closed."""

    def __init__(self, text):
        super().__init__()
        self.found, self.text, self._open = [], [], []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        expected = self._open.pop()
        while expected in ("tr", "td") and expected != tag:  # may be left open
            expected = self._open.pop()
        assert tag == expected

    def handle_data(self, data):
        self.text.append(data)

    @property
    def tags(self):
        return {tag for tag, _ in self.found}


def comparison(*outcomes, **more):
    return Comparison.of([(first_contestant(EVIL), Evaluation(outcomes=outcomes))], **more)


@pytest.fixture(scope="module")
def found():
    first = first_contestant(str(demo.base_path()), [str(demo.adapter_path("home"))])
    sides = [first, *contestants(first, ["base"]), *sweep(first, [0.0, 0.5, 1.0])]
    examples = [*demo_examples("home", "phrasings", 12), *demo_examples("base", "values", 6)]
    learnt = Learnt.of(examples[:3])
    return compare(sides, examples, Rules(alone=2), Opening(threads=1), learnt=learnt)


def test_it_needs_nothing_else(found):
    text = page(found, title="home.jsonl and base.jsonl")
    elements = Elements(text)
    assert "script" not in elements.tags
    assert not {"link", "img", "iframe", "object"} & elements.tags
    assert not re.search(r"https?:|//|url\(|@import", text)
    assert all(not {"src", "href", "srcset"} & set(attrs) for _, attrs in elements.found)
    assert all(not name.startswith("on") for _, attrs in elements.found for name in attrs)
    policy = next(a["content"] for t, a in elements.found if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'")


def test_it_says_what_the_comparison_says(found):
    elements = Elements(page(found, title="home.jsonl and base.jsonl"))
    text = " ".join(elements.text)
    exact = found.first.evaluation.exact
    assert f"{exact.count} of {exact.total} answers are right in everything" in text
    for line in found.verdict[1:]:
        assert line in text
    for name in (*found.first.evaluation.by_tool, "home x 0.5", "By the adapter's scale"):
        assert name in text
    assert sum(tag == "circle" for tag, _ in elements.found) == 2 * 3  # files and scales
    assert sum(a.get("class") == "first" for _, a in elements.found) == 1


def test_texts_of_data_and_models_are_only_texts():
    evil = example(
        call(EVIL, **{EVIL: EVIL}), tools=[tool(EVIL)], asked=EVIL, place=f"{EVIL}:1", phrasing=EVIL
    )
    twice = [judged(evil, call(EVIL), text=EVIL, malformed=[EVIL])] * 2
    text = page(comparison(*twice), title=EVIL)
    elements = Elements(text)
    assert not {"script", "img"} & elements.tags
    assert EVIL in elements.text
    assert not any("onerror" in attrs for _, attrs in elements.found)


def test_a_text_that_is_not_escaped_would_be_seen(monkeypatch):
    monkeypatch.setattr("lorakit.training.evaluate.page.escape", str)
    evil = example(call("set"), asked=EVIL)
    with pytest.raises(AssertionError):
        assert "script" not in Elements(page(comparison(judged(evil)), title="x")).tags


def test_many_wrong_answers_and_tools_are_cut():
    wrong = [
        judged(example(call(f"tool{n}"), asked="x" * 9000, place=f"e:{n}"), call("none", a=n))
        for n in range(MAX_ANSWERS + 50)
    ]
    text = page(comparison(*wrong), title="x")
    assert "and 50 more, in the JSON report" in text
    assert len(text) < 1_500_000
    assert "matrix" not in Elements(text).found
    assert sum(a.get("class") == "answer" for _, a in Elements(text).found) == MAX_ANSWERS


def test_texts_that_are_only_read():
    outcomes = [judged(example(text="t"), text="t")]
    assert "100.0%" in page(comparison(*outcomes), title="x")
    none = Evaluation(outcomes=())
    assert page(Comparison.of([(first_contestant("b"), none)]), title="x")
