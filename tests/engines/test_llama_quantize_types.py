"""Which types tensors take, against what llama.cpp's llama_model_quantize chose, as recorded."""

from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest

from lorakit.engines.llama import quantize_types
from lorakit.engines.llama.quantize import quantize
from lorakit.engines.llama.quantize_types import MIXES, choose_types, numbers_of
from lorakit.errors import FormatError, ParameterError
from lorakit.files.gguf import Value, open_gguf
from quantize_cases import MODELS, recorded, write_model

RULES = [
    (file_type, field, condition)
    for file_type, mix in MIXES.items()
    for field in ("value", "down", "out")
    for condition in getattr(mix, field)
]
FALCON = [
    (table, file_type)
    for table in ("_FALCON_DOWN", "_FALCON_OUT")
    for file_type in getattr(quantize_types, table)
]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The numbers and the tensors of every model, and what is recorded of them."""
    folder, expected = tmp_path_factory.mktemp("models"), recorded()["models"]
    found = {}
    for number, name in enumerate(MODELS):
        file = open_gguf(write_model(name, folder / f"{number}.gguf"), model=True)
        tensors = {name: (tensor.kind, tensor.shape) for name, tensor in file.tensors.items()}
        found[name] = (numbers_of(file.values, file.path), tensors, expected[name])
    return found


def wrong(models, file_types=MIXES):
    """The models and file types whose tensors do not take the recorded types."""
    found = []
    for name, (numbers, tensors, expected) in models.items():
        for file_type in file_types:
            kinds = [choice.kind for choice in choose_types(file_type, numbers, tensors)]
            runs = " ".join(f"{len(list(run))}x{kind}" for kind, run in groupby(kinds))
            if runs != expected[file_type]["types"]:
                found.append((name, file_type))
    return found


def test_types_are_llama_cpps(models):
    assert wrong(models) == []


@pytest.mark.parametrize(("file_type", "field", "condition"), RULES)
def test_without_any_rule_they_are_others(models, monkeypatch, file_type, field, condition):
    mix = MIXES[file_type]
    rules = {key: kind for key, kind in getattr(mix, field).items() if key != condition}
    monkeypatch.setitem(quantize_types.MIXES, file_type, replace(mix, **{field: rules}))
    assert wrong(models, [file_type])


@pytest.mark.parametrize("file_type", [name for name, mix in MIXES.items() if mix.table])
def test_without_the_rule_of_the_embeddings_they_are_others(models, monkeypatch, file_type):
    mix = replace(MIXES[file_type], table="")
    monkeypatch.setitem(quantize_types.MIXES, file_type, mix)
    assert wrong(models, [file_type])


@pytest.mark.parametrize(("table", "file_type"), FALCON)
def test_without_any_exception_of_falcon_they_are_others(models, monkeypatch, table, file_type):
    monkeypatch.delitem(getattr(quantize_types, table), file_type)
    assert wrong(models, [file_type])


@pytest.mark.parametrize("kind", list(quantize_types._SMALLER_BLOCKS))
def test_without_any_fallback_they_are_others(models, monkeypatch, kind):
    monkeypatch.delitem(quantize_types._SMALLER_BLOCKS, kind)
    assert wrong(models)


@pytest.mark.parametrize("table", ["_KEPT", "_KEPT_WHOLE", "_ROLES"])
def test_without_any_of_the_names_they_are_others(models, monkeypatch, table):
    names = getattr(quantize_types, table)
    models = models if table == "_ROLES" else {"names": models["names"]}
    for name in names:
        monkeypatch.setattr(quantize_types, table, tuple(other for other in names if other != name))
        assert wrong(models, ["Q2_K", "Q8_0"]), name


@pytest.mark.parametrize("name", ["8 experts", "shared heads", "70B"])
def test_other_numbers_of_the_model_give_others(models, name):
    numbers, tensors, expected = models[name]
    others = {
        "8 experts": replace(numbers, experts=7),
        "shared heads": replace(numbers, key_heads=8),
        "70B": replace(numbers, layers=79),
    }
    assert wrong({name: (others[name], tensors, expected)})


def gguf(**values):
    found = {key.replace("__", "."): value for key, value in values.items()}
    return found, Path("model.gguf")


def test_numbers_of_a_model():
    name = Value("str", "nanbeige")
    whole = {"nanbeige__block_count": Value("u32", 4), "nanbeige__num_loops": Value("u32", 3)}
    assert numbers_of(*gguf(general__architecture=name, **whole)).layers == 12
    heads = Value("u32", [8, 4], array=True)
    model = gguf(
        general__architecture=Value("str", "llama"),
        llama__block_count=Value("u32", 80),
        llama__attention__head_count=heads,
        llama__attention__head_count_kv=Value("u32", 2),
    )
    assert (numbers_of(*model).shared, numbers_of(*model).is_70b) == (4, True)
    assert not replace(numbers_of(*model), key_heads=8).is_70b
    assert numbers_of(*gguf(general__architecture=Value("str", "clip"))).layers == 0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "general.architecture"),
        ({"general__architecture": Value("u32", 1)}, "general.architecture"),
        ({"general__architecture": Value("str", "llama")}, "llama.block_count"),
        (
            {"general__architecture": Value("str", "llama"), "llama__block_count": Value("f32", 2)},
            "no whole number",
        ),
    ],
)
def test_a_file_that_does_not_say_its_numbers_is_refused(values, words):
    with pytest.raises(FormatError, match=words):
        numbers_of(*gguf(**values))


@pytest.mark.parametrize("name", ["ffn_down.weight", "blk.16.ffn_down.weight"])
def test_a_tensor_of_no_layer_among_experts_is_refused(models, name):
    numbers, tensors, _ = models["8 experts"]
    with pytest.raises(FormatError, match="in none of the 16 layers"):
        choose_types("Q4_K_M", numbers, {**tensors, name: ("F32", (2, 256))})


@pytest.mark.parametrize("name", [None, 7, "Q8", ["Q8_0"]])
def test_a_type_that_is_none_is_a_parameter_error(name):
    with pytest.raises(ParameterError, match="unknown type"):
        quantize("nowhere.gguf", "out.gguf", type=name)
