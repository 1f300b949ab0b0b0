"""Greedy answers of two models, and requests made again."""

import pytest

import lorakit
from folders import DATA
from lorakit.errors import ParameterError
from lorakit.verify import Again, AnswerReport, compare_answers
from lorakit.verify.answers import GREEDY, NEW, cold, first_difference

TRUTH = DATA / "truth"
BASE = TRUTH / "bases/llama"
PROMPTS = ([5, 6, 7, 8, 9, 10, 11, 12], [5, 6, 7, 30, 31, 32, 33, 34, 35], [40, 41, 42, 43, 44, 45])


@pytest.fixture(scope="module")
def model():
    with lorakit.open(BASE, threads=1) as model:
        model.load_adapter(TRUTH / "peft/llama/plain", "plain")
        yield model


class Other:
    """The model, but requests of one kind get the answers of another set of adapters."""

    def __init__(self, model, *, complete=None, batch=None):
        self.capabilities = model.capabilities
        self._model, self._complete, self._batch = model, complete, batch

    def complete(self, prompt, **options):
        return self._model.complete(prompt, adapters=self._complete, **options)

    def batch(self, requests):
        return self._model.batch(
            lorakit.Request(prompt=each.prompt, sampling=each.sampling, adapters=self._batch)
            for each in requests
        )


def asked(report):
    return {again.how: (again.differ, again.asked) for again in report.repeats}


def test_a_model_agrees_with_itself_and_repeats_itself(model):
    report = compare_answers(model, model, PROMPTS, repeats=14)
    assert report.differs_at == (None, None, None)
    assert report.same == 3
    assert report.mean_differs_at is None
    assert asked(report) == {"cold": (0, 3), "hit": (0, 3), "batch": (0, 8)}


def test_an_adapter_changes_answers_and_a_batch_of_its_own_is_told(model):
    report = compare_answers(model, Other(model, complete={"plain": 1.0}), PROMPTS, repeats=13)
    assert report.same < 3
    assert all(at is None or 0 <= at < NEW for at in report.differs_at)
    assert asked(report)["batch"] == (7, 7)  # the plain base answers there
    both = Other(model, complete={"plain": 1.0}, batch={"plain": 1.0})
    assert asked(compare_answers(model, both, PROMPTS, repeats=13))["batch"] == (0, 7)


def test_a_cold_answer_takes_nothing_from_the_cache(model):
    for turn in range(4):
        assert cold(model, PROMPTS[0], turn).cached_tokens == 0
        assert model.complete(PROMPTS[0], sampling=GREEDY).cached_tokens > 0  # but for `cold`
        assert model.complete(PROMPTS[1], sampling=GREEDY).cached_tokens > 0


def test_what_is_asked(model):
    long = list(range(5, 5 + model.capabilities.context - NEW + 1))
    report = compare_answers(model, model, [long], repeats=8)
    assert report == AnswerReport(differs_at=())
    report = compare_answers(model, model, [long, *PROMPTS * 4], repeats=1)
    assert len(report.differs_at) == 8
    assert [again.asked for again in report.repeats] == [1]
    assert compare_answers(model, model, PROMPTS[:1], repeats=0).repeats == ()
    with pytest.raises(ParameterError):
        compare_answers(model, model, [[]])


def test_where_answers_part():
    assert first_difference((1, 2, 3), (1, 2, 3)) is None
    assert first_difference((1, 2, 3), (1, 5, 3)) == 1
    assert first_difference((1, 2), (1, 2, 3)) == 2
    report = AnswerReport(differs_at=(None, 3, 6), repeats=(Again(how="hit", asked=4, differ=1),))
    assert report.to_dict() == {
        "answers": 3, "same": 1, "tokens": NEW, "differs_at": [None, 3, 6],
        "repeats": [{"how": "hit", "asked": 4, "differ": 1}],
    }  # fmt: skip
    assert report.mean_differs_at == 4.5
