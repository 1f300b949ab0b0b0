"""A context that the model does not have: said in `warnings`, and never asked for by a hint."""

import pytest

import lorakit
from lorakit import demo
from lorakit.errors import ContextFullError
from lorakit.runtime.prompts import check_prompt, larger_context


def test_more_than_the_model_has_is_a_warning():
    with lorakit.open(demo.base_path(), threads=1) as model:
        limit = model.capabilities.longest
        assert model.capabilities.context == limit
        assert model.warnings == ()
    with lorakit.open(demo.base_path(), threads=1, context=limit) as model:
        assert model.warnings == ()
    with lorakit.open(demo.base_path(), threads=1, context=limit + 1) as model:
        (warning,) = model.warnings
        assert (warning.code, warning.adapter) == ("context_limited", "")
        assert f"{limit} of the {limit + 1}" in warning.message
        assert model.capabilities.context == limit
        with pytest.raises(ContextFullError) as caught:
            model.complete([5] * limit, max_tokens=1)
        assert caught.value.hint == f"shorten the prompt: the model's limit is {limit}"


def test_a_larger_one_is_asked_for_only_where_there_is_one():
    with lorakit.open(demo.base_path(), threads=1, context=64) as model:
        limit = model.capabilities.longest
        assert limit > 64
        for ask in (lambda ids: model.complete(ids, max_tokens=1), model.logits):
            with pytest.raises(ContextFullError) as caught:
                ask([5] * 65)
            assert f"larger context=, at most {limit}" in caught.value.hint


@pytest.mark.parametrize(
    ("longest", "hint"),
    [
        (0, "shorten the prompt"),
        (8, "shorten the prompt: the model's limit is 8"),
        (9, "shorten the prompt, or open the model with a larger context=, at most 9"),
    ],
)
def test_what_is_asked_for(longest, hint):
    with pytest.raises(ContextFullError) as caught:
        check_prompt([1] * 8, 8, 64, longest=longest)
    assert caught.value.hint == hint
    assert bool(larger_context(8, longest)) == (longest == 9)
