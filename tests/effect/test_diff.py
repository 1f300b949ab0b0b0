"""Base against adapter on one answer, against the logits themselves."""

import math
from dataclasses import replace

import numpy as np
import pytest

import lorakit
from laid_out import faults, texts
from lorakit import demo
from lorakit.effect import Diff, diff, plot_diff, sweep
from lorakit.effect.diff import token_text
from lorakit.effect.likelihood import divergence, log_softmax
from lorakit.effect.pictures import percent, visible
from lorakit.errors import CapabilityError, ParameterError, UnknownAdapterError

LIGHTS = "turn the lights off in the kitchen"


@pytest.fixture(scope="module")
def model():
    with lorakit.open(demo.base_path(), threads=1) as opened:
        opened.load_adapter(demo.adapter_path("home"))
        yield opened


@pytest.fixture(scope="module")
def prompt(model):
    return model.chat_prompt([{"role": "user", "content": LIGHTS}])


def naive(logits):
    """Probabilities of one row, a number at a time."""
    top = max(logits)
    powers = [math.exp(float(x) - float(top)) for x in logits]
    return [p / sum(powers) for p in powers]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def test_each_token_is_what_the_logits_say(model, prompt):
    found = diff(model, prompt, adapters={"home": 0.7})
    ids = [each.token for each in found.tokens]
    assert ids == [c.token for c in model.complete(prompt, adapters={"home": 0.7}, temperature=0.0,
                                                   max_tokens=64).tokens]  # fmt: skip
    for place in (0, 3, len(ids) - 1):
        row = len(prompt) - 1 + place
        base, adapted = (
            naive(model.logits([*prompt, *ids], adapters=each)[row]) for each in ({}, {"home": 0.7})
        )
        token = found.tokens[place]
        assert token.base == pytest.approx(base[ids[place]], rel=1e-4)
        assert token.adapted == pytest.approx(adapted[ids[place]], rel=1e-4)
        assert token.kl == pytest.approx(kl(adapted, base), rel=1e-3, abs=1e-9)
        assert token.base_best[1] == pytest.approx(max(base), rel=1e-4)
        best = int(np.argmax(base))
        assert token.base_best[0] == model.tokenizer.token_bytes(best).decode()
    first = found.tokens[0]  # the other direction is another number, and would be seen
    rows = [model.logits(prompt, adapters=each)[-1] for each in ({}, {"home": 0.7})]
    assert kl(*map(naive, rows)) != pytest.approx(first.kl, rel=0.05)


def test_an_answer_of_the_users_is_read_as_it_is(model, prompt):
    found = diff(model, prompt, adapters={"home": 1.0}, answer="Sorry, I have no tool for that.")
    assert found.answer == found.base_answer == "Sorry, I have no tool for that."
    assert found.adapted_answer.startswith("<start_function_call>")
    assert "".join(each.text for each in found.tokens) == found.answer
    assert found.tokens[0].base > 0.99 > 0.01 > found.tokens[0].adapted
    assert found.first_change == 0
    assert found.kl == pytest.approx(sum(each.kl for each in found.tokens) / len(found.tokens))
    for wrong in ("",):
        with pytest.raises(ParameterError, match="no tokens"):
            diff(model, prompt, adapters={"home": 1.0}, answer=wrong)


def test_two_parts_of_characters_are_two_favourites(model, prompt):
    """Alone both are U+FFFD: by their texts nothing would have changed."""
    token = diff(model, prompt, adapters={"home": 1.0}, max_tokens=1).tokens[0]
    ids = [model.tokenizer.encode(c, special=False)[0] for c in "日é"]
    assert ids[0] != ids[1]
    assert {token_text(model, each) for each in ids} == {"\ufffd"}
    parts = replace(
        token, text="\ufffd", token=ids[0], base_best=("\ufffd", 0.9), base_best_token=ids[1],
        adapted_best=("\ufffd", 0.9), adapted_best_token=ids[0],
    )  # fmt: skip
    found = Diff(adapters={}, answer="", base_answer="", adapted_answer="", tokens=(parts,))
    assert found.first_change == 0
    shown = [each for each in texts(plot_diff(found).svg()) if each == "\ufffd"]
    assert len(shown) == 2  # the token, and the base's favourite


def test_without_a_change_there_is_none(model, prompt):
    found = diff(model, prompt, adapters={"home": 0.0}, max_tokens=4)
    assert [each.kl for each in found.tokens] == [0.0] * 4
    assert found.first_change is None
    assert found.base_answer == found.adapted_answer
    assert list(faults(plot_diff(found))) == []


def test_none_means_the_active_adapters(model, prompt):
    with pytest.raises(ParameterError, match="no adapter is named or active"):
        diff(model, prompt)
    model.apply({"home": 0.5})
    try:
        assert diff(model, prompt, max_tokens=2).adapters == {"home": 0.5}
    finally:
        model.clear_adapters()
    with pytest.raises(UnknownAdapterError):
        diff(model, prompt, adapters={"none": 1.0})


def test_impossible_tokens_and_huge_logits_are_no_accident():
    rows = log_softmax(np.array([[0.0, -np.inf, 0.0], [1e4, -1e4, 0.0]], np.float32))
    other = log_softmax(np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], np.float32))
    assert divergence(rows, rows) == pytest.approx([0, 0])
    assert divergence(rows, other) == pytest.approx([math.log(1.5), math.log(3)])
    assert np.isinf(divergence(other, rows)[0])


def test_a_diff_becomes_json(model, prompt):
    found = diff(model, prompt, adapters={"home": 1.0}, max_tokens=3).to_dict()
    assert found["adapters"] == {"home": 1.0}
    assert found["first_change"] == 0
    assert len(found["tokens"]) == 3
    assert found["tokens"][0]["base_best"][0] == "Sorry"


def test_a_picture_of_a_diff_can_be_read(model, prompt):
    found = diff(model, prompt, adapters={"home": 1.0})
    drawn = plot_diff(found, title=f"“{LIGHTS}” " * 5)
    assert list(faults(drawn)) == []
    said = texts(drawn.svg())
    assert {"token", "base", "home", "KL, nats", "base's favourite", "Sorry"} <= set(said)
    assert said.count(">99.9%") > 20
    given = diff(model, prompt, adapters={"home": 1.0}, answer="東京 " * 6)
    assert list(faults(plot_diff(given))) == []


def test_a_share_is_never_rounded_to_certainty():
    assert [percent(x) for x in (0.0, 1e-9, 0.0004, 0.0006, 0.5, 0.9994, 0.9996, 1.0)] == [
        "0.0%", "<0.1%", "<0.1%", "0.1%", "50.0%", "99.9%", ">99.9%", "100.0%",
    ]  # fmt: skip
    assert [percent(x, 0) for x in (1e-9, 0.004, 0.006, 0.994, 0.996)] == [
        "<1%", "<1%", "1%", "99%", ">99%",
    ]  # fmt: skip
    assert visible(" a\n\t\x1b") == "␣a⏎⇥\\x1b"


def test_a_model_without_logits_is_refused_before_it_generates(model, prompt, monkeypatch):
    monkeypatch.setattr(model, "capabilities", replace(model.capabilities, engine="api"))

    def refuse(*_, **__):
        raise AssertionError("it generates")

    monkeypatch.setattr(model, "batch", refuse)
    for call in (
        lambda: diff(model, prompt, adapters={"home": 1.0}),
        lambda: sweep(model, [prompt], adapters={"home": 1.0}),
    ):
        with pytest.raises(CapabilityError, match="no logits"):
            call()
