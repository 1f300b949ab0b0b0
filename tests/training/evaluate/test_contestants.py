"""The words of `lorakit eval --compare` and `--scales`."""

import pytest

from lorakit import demo
from lorakit.errors import ParameterError
from lorakit.training.evaluate.contestants import (
    Applied,
    Contestant,
    contestants,
    first_contestant,
    parse_scales,
    sweep,
)

BASE, HOME, STYLE = (str(p) for p in (demo.base_path(), *map(demo.adapter_path, ("home", "style"))))
FIRST = first_contestant(BASE, [f"{HOME}:0.5"])


def words(*said):
    return contestants(FIRST, said)


def test_the_first_is_called_by_its_adapters():
    assert FIRST.name == "home:0.5"
    assert FIRST.adapters == (Applied(HOME, 0.5),)
    assert first_contestant(BASE).name == "base"
    assert first_contestant(BASE, [HOME, f"{STYLE}:2"]).name == "home + style:2"


def test_each_word_changes_what_it_says():
    found = words(f"base,{STYLE},merged", f"int8, torch+base ,merged+int8,{HOME}:2+{STYLE}")
    kept = {"base": BASE, "adapters": FIRST.adapters}
    assert found == [
        Contestant(name="base", base=BASE),
        Contestant(name="style", base=BASE, adapters=(Applied(STYLE, 1.0),)),
        Contestant(name="merged", merged=True, **kept),
        Contestant(name="int8", quantize="int8", **kept),
        Contestant(name="torch+base", base=BASE, engine="torch"),
        Contestant(name="merged+int8", merged=True, quantize="int8", **kept),
        Contestant(
            name="home:2+style", base=BASE, adapters=(Applied(HOME, 2.0), Applied(STYLE, 1.0))
        ),
    ]


def test_another_file_of_the_base_and_another_model(tmp_path):
    file = tmp_path / "base+Q8, 0.gguf"
    file.touch()
    on, model, folder = words(f"on:{file}", f"model:{BASE}", BASE)
    assert (on.base, on.adapters, on.name) == (str(file), FIRST.adapters, f"on:{file.name}")
    assert (model.base, model.adapters, model.name) == (BASE, (), "model:base")
    assert (folder.base, folder.adapters, folder.name) == (BASE, (), "base")


def test_those_of_one_model_are_opened_once():
    found = [FIRST, *words(f"base,{STYLE}"), *sweep(FIRST, [0.0, 1.0])]
    assert len({side.model for side in found}) == 1
    assert found[-1].applied == FIRST.applied
    merged, other = words(f"merged,merged+{STYLE}")
    assert merged.applied == ()
    assert len({side.model for side in (FIRST, merged, other)}) == 3


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("nonsense", "no word to compare with"),
        (f"base+{HOME}", "without any"),
        (f"{HOME}+{HOME}:0.5", "twice"),
        ("base+merged", "no adapter to merge"),
        (f"{HOME}:half", "no scale"),
        ("int9", "words: base, merged, onnx"),
        ("x" * 5000, "no word to compare with"),
    ],
)
def test_words_that_make_no_sense(word, said):
    with pytest.raises(ParameterError) as refused:
        words(word)
    assert said in str(refused.value)


def test_scales():
    assert parse_scales("0:1.25:0.25") == [0.0, 0.25, 0.5, 0.75, 1.0, 1.25]
    assert parse_scales("0:0.3:0.1") == [0.0, 0.1, 0.2, 0.3]  # not 0.30000000000000004
    assert parse_scales("0:1:0.3") == [0.0, 0.3, 0.6, 0.9]
    assert parse_scales(" 1, 0.5,1") == [1.0, 0.5]
    assert parse_scales("-1:1:1") == [-1.0, 0.0, 1.0]
    names = [(side.name, side.adapters[0].scale, side.scale) for side in sweep(FIRST, [0.5, 2.0])]
    assert names == [("home:0.5 x 0.5", 0.25, 0.5), ("home:0.5 x 2", 1.0, 2.0)]


@pytest.mark.parametrize(
    "text",
    ["", "a", "0:1", "0:1:0", "1:0:0.1", "0:1:-1", "0:1:nan", "inf", "0:1:0.0001", "0:1:1,2", ","],
)
def test_scales_that_are_none(text):
    with pytest.raises(ParameterError):
        parse_scales(text)


def test_a_sweep_needs_an_adapter():
    with pytest.raises(ParameterError, match="no adapter"):
        sweep(first_contestant(BASE), [0.5])


def test_constraints_are_a_word():
    first = first_contestant(BASE, [HOME], constrained=True)
    assert (first.name, first.constrained) == ("home+constrained", True)
    free, merged, base = contestants(first, ["free,merged+required,base"])
    assert (free.name, free.constrained) == ("free", False)
    assert (merged.merged, merged.constrained) == (True, "required")
    assert base.constrained is True  # what a word does not say stays
    assert first.model == free.model
    assert first.free == free.free
    assert first.setting != free.setting
