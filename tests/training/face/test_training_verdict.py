"""What is said of an evaluation."""

import math

import pytest
from made_up import answered, call, exact, texts, words

from lorakit.training import verdict as module
from lorakit.training.evaluate import Evaluation, Share
from lorakit.training.verdict import headline, percent


def verdict(after, before=None, **more):
    return module.verdict({"after": after, "before": before, **more})


def test_it_worked():
    said = verdict(exact(96, 100), exact(3, 100))
    assert said[0] == "The adapter calls right in 96% of 100 unseen requests, the base 3%."
    assert "All 4 wrong answers call the right tool with a wrong argument." in said
    assert not any("no better" in sentence for sentence in said)


def test_it_did_not():
    assert "no better than the base" in " ".join(verdict(exact(3, 100), exact(3, 100)))
    assert "may be chance" in " ".join(verdict(exact(5, 100), exact(3, 100)))
    assert "worse than the base" in " ".join(verdict(exact(3, 100), exact(60, 100)))
    assert "the base" not in " ".join(verdict(exact(100, 100), exact(100, 100))[1:])


def test_few_say_little():
    said = verdict(exact(10, 10), exact(0, 10))
    assert said[1] == "So few say little: the true share may be anything from 72% to 100%."
    assert not any("So few" in sentence for sentence in verdict(exact(100, 100)))


def test_what_is_wrong_is_named():
    lights, dim = call("set_lights", room="hall"), call("dim_lights", room="hall")
    outcomes = [answered(lights, lights) for _ in range(40)]
    outcomes += [answered(dim, lights) for _ in range(3)] + [answered(dim, dim)]
    outcomes += [answered(lights, invalid=("no end",)), answered(lights)]
    outcomes += [answered(None, lights)] + [answered(None) for _ in range(3)]
    outcomes += [answered(lights, call("set_dim"))]
    said = verdict(Evaluation(outcomes=tuple(outcomes)))
    assert said[0] == "The adapter calls right in 86% of 51 unseen requests."
    assert "Two tools are confused: set_lights is called for dim_lights (3 of 4)." in said
    assert "1 answer calls a tool that does not exist, such as set_dim." in said
    assert "2% of the answers are no valid call." in said
    assert "2% of the requests that a tool fits call none." in said
    assert "It calls nothing in 75% of 4 requests that no tool fits." in said


def test_a_sentence_begins_with_a_capital():
    lights = call("set_lights")
    outcomes = [answered(lights, lights) for _ in range(300)] + [answered(lights)]
    said = verdict(Evaluation(outcomes=tuple(outcomes)))
    assert said[-1] == "Under 1% of the requests that a tool fits call none."


def test_what_was_trained_on_is_not_called_unseen():
    measured = {"after": exact(9, 10)}
    assert "unseen" in module.verdict(measured)[0]
    said = module.verdict(measured, leaked=4)
    assert said[0] == "The adapter calls right in 90% of 10 requests."
    assert said[1].startswith("4 of the 10 are in the training data too")


def test_the_phrasings_that_fail_are_named():
    lights, dark = call("set_lights", on=True), call("set_lights", on=False)
    good = [answered(lights, lights, phrasing="lights on") for _ in range(40)]
    bad = [answered(lights, dark, phrasing="let there be light") for _ in range(5)]
    said = verdict(Evaluation(outcomes=(*good, *bad)))
    assert said[-1] == "It does worst on requests such as “let there be light” (0 of 5)."
    assert not any("worst" in each for each in verdict(Evaluation(outcomes=tuple(good))))


def test_known_wordings_and_new_ones_are_told_apart():
    lights, dark = call("set_lights", on=True), call("set_lights", on=False)
    known = [answered(lights, lights, phrasing="lights on") for _ in range(40)]
    new = [answered(lights, lights if n else dark, phrasing="shine") for n in range(20)]
    measured = {"after": Evaluation(outcomes=(*known, *new))}
    said = module.verdict(measured, {"lights on"})
    assert said[1] == (
        "Where the wording is as in training: 100% of 40; where it is new: 95% of 20."
    )
    all_known = module.verdict(measured, {"shine", "lights on"})
    assert not any("Where the" in each for each in all_known)
    assert all_known[1].startswith("All of them are worded as in training, with other values")
    alike = "worded as in training"
    assert not any(alike in each for each in module.verdict(measured, {"shine"}))
    assert not any(alike in each for each in module.verdict(measured, {"shine", "lights on"}, 60))


def test_what_the_base_could_do():
    assert verdict(exact(9, 90), kept=exact(89, 100))[-1] == (
        "It answers 89% of 100 other requests as the base does."
    )
    assert verdict(exact(9, 90), **{"kept beside style": exact(8, 10)})[-1] == (
        "It answers 80% of 10 other requests as the base does beside style."
    )
    assert "perplexity 8.2" in verdict(exact(9, 90), kept=texts(math.log(8.2)))[-1]
    assert verdict(exact(9, 90), replay=exact(8, 10), replay_before=exact(9, 10))[-1] == (
        "Of what it had to keep it does 80% right, the base 90%."
    )


def test_text_is_judged_by_perplexity_where_less_is_better():
    said = verdict(texts(math.log(8.2), 9), texts(math.log(21.4), 9))
    assert said == ("Perplexity on 9 unseen texts: 8.2, with the base 21.4.",)
    worse = verdict(texts(math.log(21.4), 20), texts(math.log(8.2), 20))
    assert "worse than the base" in worse[1]


def test_answers_in_words():
    assert verdict(words(40, 100), words(0, 100))[0] == (
        "The adapter answers word for word as wanted in 40% of 100 unseen requests, the base 0%."
    )


def test_nothing_was_measured():
    assert "nobody knows" in verdict(None)[0]
    assert "nobody knows" in verdict(Evaluation(outcomes=()))[0]


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (Share(10, 10), "100%"), (Share(999, 1000), "over 99%"), (Share(0, 10), "0%"),
        (Share(1, 1000), "under 1%"), (Share(96, 100), "96%"), (Share(0, 0), "none"),
    ],
)  # fmt: skip
def test_all_and_none_are_said_of_all_and_none_alone(share, said):
    assert percent(share) == said


def test_the_figure_fits_the_task():
    assert (headline(exact(1, 2)).name, headline(exact(1, 2)).said) == ("exact match", "50.0%")
    assert (headline(texts(0.0)).name, headline(texts(0.0)).said) == ("perplexity", "1")
    assert headline(words(1, 2)).name == "text match"
