"""Keywords that a call does not have: what is meant is said, before anything slow."""

from dataclasses import fields
from inspect import signature

import pytest

import lorakit
from lorakit import demo
from lorakit.engines.table import ENGINES
from lorakit.errors import ParameterError
from lorakit.model.keywords import (
    CALL,
    CALL_ELSEWHERE,
    OPEN_ELSEWHERE,
    SAMPLING,
    likely,
    require_options,
    require_sampling,
)
from lorakit.model.open import EngineKeywords

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def model():
    with lorakit.open(demo.base_path(), threads=1, context=64) as model:
        yield model


@pytest.mark.parametrize(
    ("options", "meant"),
    [
        ({"n_ctx": 512}, "for n_ctx, did you mean context?"),
        ({"adapters": ["home"]}, "for adapters, did you mean adapter?"),
        ({"contxt": 512}, "for contxt, did you mean context?"),
        ({"adaptr": "home"}, "for adaptr, did you mean adapter?"),
        ({"enigne": "onnx"}, "for enigne, did you mean engine?"),
        ({"nonsense": 1}, "options: adapter, "),
    ],
)
@pytest.mark.parametrize("base", ["no/such/base", "http://127.0.0.1:1/v1"])
def test_open_says_what_is_meant(base, options, meant):
    with pytest.raises(ParameterError, match=f"unknown options: {next(iter(options))}") as error:
        lorakit.open(base, **options)
    assert error.value.hint.startswith(meant)


@pytest.mark.parametrize(
    ("options", "meant"),
    [
        ({"temprature": 1}, "for temprature, did you mean temperature?"),
        ({"stream": True}, "for stream, did you mean model.stream(...)"),
        ({"adapter": "home"}, "for adapter, did you mean adapters?"),
        (
            {"max_new_tokens": 1, "stpo": "x"},
            "for max_new_tokens, did you mean max_tokens? for stpo,",
        ),
        ({"num_predict": 9}, "for num_predict, did you mean max_tokens?"),
        ({"options": {"seed": 1}}, "for options, did you mean its entries as keywords"),
        ({"think": True}, "for think, did you mean enable_thinking?"),
        ({"schema": {}}, "for schema, did you mean response_format={"),
        ({"timeuot": 1}, "for timeuot, did you mean timeout?"),
        ({"zzz": 1, "temprature": 1}, "known: choices, frequency_penalty, "),
    ],
)
def test_a_call_says_what_is_meant(model, options, meant):
    for call in (
        lambda: model.chat(HELLO, **options),
        lambda: model.complete("hello", **options),
        lambda: model.stream("hello", **options),
        lambda: model.stream(HELLO, **options),
        lambda: model.session(**options),
        lambda: lorakit.Request(messages=HELLO, **options),
    ):
        with pytest.raises(ParameterError, match="unknown sampling parameters: ") as error:
            call()
        assert error.value.hint.startswith(meant)


def test_a_word_of_another_call_is_said_to_be(model):
    for call, said in (
        (lambda: model.stream("x", n=2), "for n, did you mean model.complete(..., n=...)"),
        (lambda: lorakit.Request(prompt="x", n=2), "for n, did you mean model.complete(..., n="),
        (lambda: model.complete("x", tools=[]), "for tools, did you mean model.chat(messages, too"),
    ):
        with pytest.raises(ParameterError) as error:
            call()
        assert error.value.hint.startswith(said)


def test_every_word_that_is_meant_is_one_here():
    own = {item.name for kind in ENGINES.values() for item in fields(kind.options)}
    opening = {*signature(lorakit.open).parameters, *EngineKeywords.__annotations__, *own}
    for here, elsewhere in ((opening, OPEN_ELSEWHERE), (CALL, CALL_ELSEWHERE)):
        assert not here & elsewhere.keys()
        plain = {word for word in elsewhere.values() if word.isidentifier()}
        assert plain <= here
    chat = {*signature(lorakit.Model.chat).parameters, *lorakit.ChatKeywords.__annotations__}
    assert chat - {"self", "messages", "options"} <= CALL


def test_what_there_is_passes():
    require_options(lorakit.open, dict.fromkeys(EngineKeywords.__annotations__))
    require_sampling(dict.fromkeys(SAMPLING))


def test_nothing_is_meant_by_what_is_like_nothing():
    assert likely(["zzz"], CALL, CALL_ELSEWHERE) == ""
