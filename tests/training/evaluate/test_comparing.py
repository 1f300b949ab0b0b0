"""Sides beside each other: models opened one after another, and what the differences say."""

from dataclasses import replace

import pytest
from evaluate_cases import call, declared, demo_examples, example, judged

from folders import DATA
from lorakit import demo
from lorakit.errors import (
    BaseModelError,
    CapabilityError,
    LorakitError,
    MismatchError,
    ParameterError,
    SourceError,
)
from lorakit.training.evaluate import Evaluation, Share
from lorakit.training.evaluate.comparing import Opening, compare
from lorakit.training.evaluate.comparison import Comparison, Learnt
from lorakit.training.evaluate.contestants import contestants, first_contestant, sweep
from lorakit.training.evaluate.work import Rules

BASE, HOME, STYLE = (str(p) for p in (demo.base_path(), *map(demo.adapter_path, ("home", "style"))))
FIRST = first_contestant(BASE, [HOME])
EXAMPLES = demo_examples("home", "phrasings", 16)
ONE = Opening(threads=1)


def test_adapters_scales_a_merge_and_int8(monkeypatch):
    opened = []
    real = Opening.open
    monkeypatch.setattr(
        Opening, "open", lambda self, side, *more: opened.append(side) or real(self, side, *more)
    )
    sides = [
        FIRST,
        *contestants(FIRST, [f"base,{STYLE},merged,merged+int8"]),
        *sweep(FIRST, [0, 1]),
    ]
    seen = []
    found = compare(sides, EXAMPLES, Rules(), ONE, progress=lambda *at: seen.append(at))
    assert len(opened) == 3
    assert seen == [(n, 6 * 16) for n in range(1, 6 * 16 + 1)]  # home x 1 is home
    exact = {side.name: side.evaluation.exact.count for side in found.sides}
    assert exact["home"] == exact["home x 1"] == exact["merged"] >= 13
    assert exact["base"] == exact["home x 0"] == exact["style"] == 0
    assert exact["merged+int8"] >= exact["home"] - 1
    assert found.best_scale.name == "home x 1"
    assert found.sides[1].against.worse == exact["home"]
    assert found.others == found.sides[1:5]


@pytest.mark.parametrize(
    ("word", "error"),
    [
        ("on:/nowhere", SourceError),
        ("llama", CapabilityError),
        ("torch+int8", CapabilityError),
        ("merged+{wide}", MismatchError),
        ("on:{plain}", BaseModelError),
    ],
)
def test_what_is_wrong_with_a_later_side_is_said_before_the_first_runs(word, error, tmp_path):
    def fail(done, total):
        raise AssertionError("it ran")

    data = DATA / "truth"
    named = word.format(wide=data / "peft/llama/plain", plain=data / "bases/llama")
    with pytest.raises(LorakitError) as refused:
        compare([FIRST, *contestants(FIRST, [named])], EXAMPLES, Rules(), ONE, progress=fail)
    assert isinstance(refused.value, error), refused.value


# What the differences say.


def made(*right):
    """A side with these answers right and the others wrong."""
    outcomes = [
        judged(
            example(call("set", level=5), phrasing=f"p{n // 2}", asked=f"Ask {n}"),
            call("set", level=5 if ok else 6),
        )
        for n, ok in enumerate(right)
    ]
    return first_contestant(BASE, []), Evaluation(outcomes=tuple(outcomes))


def named(side, name, scale=None):
    contestant, evaluation = side
    return replace(contestant, name=name, scale=scale), evaluation


def test_pairs_against_the_first():
    found = Comparison.of(
        [
            named(made(1, 1, 1, 0, 0, 0), "a"),
            named(made(1, 1, 1, 1, 1, 1), "b"),
            named(made(1, 1, 1, 0, 0, 0), "c"),
        ]
    )
    assert [(s.against.better, s.against.worse) for s in found.sides[1:]] == [(3, 0), (0, 0)]
    assert found.verdict == [
        "a: 50.0% of 6 answers right (18.8-81.2%)",
        "b: 100.0%; better on 3 and worse on 0, p = 0.25",
        "c: 50.0%; no difference to a on any example",
    ]
    assert found.to_dict(outcomes=False)["sides"][1]["against_first"]["better"] == 3


def kept(side, *tooled):
    """The same answers under constraints, where the examples have tools."""
    contestant, evaluation = side
    outcomes = [
        replace(each, constrained=bool(ok))
        for each, ok in zip(evaluation.outcomes, tooled, strict=True)
    ]
    contestant = replace(contestant, constrained=True)
    return contestant, replace(evaluation, outcomes=tuple(outcomes))


def test_what_constraints_gain_and_lose():
    free = named(made(1, 1, 0, 0), "free")
    gains = named(kept(made(1, 1, 1, 0), 1, 1, 1, 0), "a")
    found = Comparison.of([gains, free])
    assert found.verdict[-1] == (
        "a: constraints gain 1 right answer and lose none: exact match is never lowered; 1 of 4 "
        "have no tools and were answered freely"
    )
    loses = named(kept(made(0, 1, 1, 1), 1, 1, 1, 1), "b")
    lost = Comparison.of([loses, free])
    said = "b: constraints gain 2 right answers and lose 1 right answer (eval.jsonl:1)"
    assert lost.verdict[-1] == said
    (entry,) = lost.to_dict(outcomes=False)["constraints"]
    assert entry["lost"] == ["eval.jsonl:1"]
    assert lost.to_dict()["sides"][0]["constrained"] is True
    assert Comparison.of([gains, loses]).constraints == []  # nothing to compare with


def test_a_side_may_be_constrained_and_merged():
    examples = [replace(each, tools=tuple(declared(EXAMPLES))) for each in EXAMPLES]
    sides = [FIRST, *contestants(FIRST, ["constrained,merged+required"])]
    found = compare(sides, examples, Rules(), ONE)
    first, kept, merged = (side.evaluation for side in found.sides)
    assert kept.exact.count == merged.exact.count == first.exact.count
    (said,) = found.constraints
    assert (said.name, said.lost, said.unconstrained) == ("constrained", (), 0)
    with pytest.raises(ParameterError, match="nothing can be constrained"):
        compare(sides, EXAMPLES, Rules(), ONE, progress=lambda *_: pytest.fail("it ran"))


def test_the_best_scale_is_the_nearest_to_one_of_several():
    steps = [(0.25, (1, 1, 1)), (0.9, (1, 1, 1)), (1.25, (1, 1, 1)), (2.0, (1, 0, 0))]
    sides = [named(made(1, 1, 1), "a")]
    sides += [named(made(*right), f"a x {scale}", scale) for scale, right in steps[::-1]]
    found = Comparison.of(sides)
    assert found.best_scale.contestant.scale == 0.9
    assert [side.contestant.scale for side in found.sweep] == [0.25, 0.9, 1.25, 2.0]
    assert found.verdict[-1].startswith("best scale of 4 here: 0.9 (100.0%)")
    same = Comparison.of([sides[0], sides[2], sides[3]])
    assert not any("best scale" in line for line in same.verdict)


def test_known_and_new_phrasings_and_leaks():
    learnt = Learnt.of([example(call("set", level=5), phrasing="p0", asked=" ask 0")])
    found = Comparison.of([named(made(1, 1, 1, 0, 0, 0), "a")], learnt=learnt)
    assert found.by_novelty == {"known phrasings": Share(2, 2), "new phrasings": Share(1, 4)}
    assert found.leaked == 1
    assert "1 of the examples are in the training data too" in " ".join(found.verdict)
    assert Comparison.of([named(made(1), "a")]).by_novelty == {}


def test_an_adapter_with_tokens_of_its_own():
    """The base grows for it, which an open one cannot; data/added is that of tests/model."""
    base, place = str(DATA / "truth/bases/gemma3"), str(DATA / "added/gemma3/ms_embed")
    first = first_contestant(base, [place])
    asked = [example(text=text) for text in ("yes", "no")]
    found = compare([first, *contestants(first, ["base,merged"])], asked, Rules(), ONE)
    assert [side.name for side in found.sides] == ["ms_embed", "base", "merged"]
    assert all(side.evaluation.exact.total == 2 for side in found.sides)
    opened, names = ONE.open(first.model, [each.loaded for each in first.adapters], 2)
    with opened:
        assert list(names.values()) == ["ms_embed"]
        assert opened.base.decoder.vocabulary == 514
        assert not [info for info in opened.adapters if info.scale]
    opened, _ = ONE.open(first.model, [], 2)
    with opened, pytest.raises(MismatchError):
        opened.load_adapter(place)
