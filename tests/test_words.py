"""Closed sets of words: what checkers accept (a Literal) and what is accepted at run time agree."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

import lorakit
from lorakit import demo
from lorakit.algebra.combine import Method, combine
from lorakit.algebra.peft_words import WORDS as PEFT_METHODS
from lorakit.algebra.peft_words import AnyMethod
from lorakit.algebra.sparse import METHODS
from lorakit.chat.tools import FORMATS as TOOL_FORMATS
from lorakit.chat.tools import get_format
from lorakit.cli import COMMANDS
from lorakit.cli.completion import SCRIPTS, Shell
from lorakit.cli.signature import parser_of
from lorakit.engines.table import ENGINES
from lorakit.errors import LorakitError
from lorakit.exporting.export import TARGETS, TargetName
from lorakit.exporting.onnx import SUFFIXES
from lorakit.exporting.plan import Kind as Way
from lorakit.formats import FORMATS
from lorakit.formats.convert import convert
from lorakit.formats.gguf import write_gguf
from lorakit.formats.gguf.write import DTYPES as GGUF_DTYPES
from lorakit.formats.readback import DTYPES
from lorakit.graph.web import WebForm
from lorakit.merge import merge
from lorakit.model.adapters import UserScale
from lorakit.model.fitting import WhenFull
from lorakit.sources import Kind, Source, fetch, parse
from lorakit.sources.bundle import BUNDLES
from lorakit.text.tokenizer import TextTokenizer
from lorakit.training.data.split import BY, SplitBy
from lorakit.training.settings import TrainKeywords

WRONG = "no such word"
TABLES = {
    "engines": (lorakit.EngineName, ENGINES),
    "runtimes": (lorakit.RuntimeName, [*ENGINES, "api"]),
    "formats": (lorakit.FormatName, FORMATS),
    "dtypes": (lorakit.Dtype, DTYPES),
    "methods": (Method, METHODS),
    "methods and PEFT's words": (AnyMethod, [*METHODS, *PEFT_METHODS]),
    "kinds": (Kind, BUNDLES),
    "tool formats": (get_type_hints(get_format)["name"], TOOL_FORMATS),
    "shells": (Shell, SCRIPTS),
    "splits": (SplitBy, BY),
    "targets of exports": (TargetName, TARGETS),
    "forms of exports": (WebForm, SUFFIXES),
    "GGUF dtypes": (get_type_hints(write_gguf)["dtype"], GGUF_DTYPES),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_the_words_of_its_literal(name):
    literal, table = TABLES[name]
    assert set(get_args(literal)) == set(table)


def words(hint: Any) -> tuple[str, ...]:
    """The words of a Literal, or of one among alternatives; none where there is no Literal."""
    if get_origin(hint) is Literal:
        return tuple(word for word in get_args(hint) if isinstance(word, str))
    return tuple(word for part in get_args(hint) for word in words(part))


def choices(kind: type) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The fields of a dataclass of a user's that take words, with the words."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        if field.init and (found := words(hints[field.name])):
            yield field.name, found


CONFIGS = {"AdapterConfig": ("x",), "LlamaOptions": (), "OnnxOptions": (), "TorchOptions": (),
           "RenderOptions": ()}  # fmt: skip
GIVEN = [
    pytest.param(getattr(lorakit, kind), CONFIGS[kind], name, found, id=f"{kind}.{name}")
    for kind in CONFIGS
    for name, found in choices(getattr(lorakit, kind))
]


def drift(kind, arguments, name, found):
    """Words that only one of the two takes: checkers, or the constructor."""
    for word in found:
        needs = {"flash_attention": "on"} if word == "q8_0" else {}
        try:
            kind(*arguments, **needs | {name: word})
        except LorakitError as error:
            yield f"{word}: {error}"
    with pytest.raises(lorakit.ParameterError) as refused:
        kind(*arguments, **{name: WRONG})
    said = str(refused.value)
    yield from (f"{word} is not named" for word in found if word not in said)
    listed = said.partition("one of ")[2].partition(", found")[0].split(", ")
    yield from (f"{word} is named" for word in listed if word and word not in found)


@pytest.mark.parametrize(("kind", "arguments", "name", "found"), GIVEN)
def test_a_constructor_takes_the_words_of_its_literal_alone(kind, arguments, name, found):
    assert list(drift(kind, arguments, name, found)) == []


def test_a_drift_would_be_seen():
    @dataclass
    class Config:
        mode: Literal["a", "c"] = "a"

        def __post_init__(self):
            if self.mode not in ("a", "b"):
                raise lorakit.ParameterError(f"mode must be one of a, b, found {self.mode}")

    ((name, found),) = choices(Config)
    assert [each[:1] for each in drift(Config, (), name, found)] == ["c", "b"]


def test_every_options_class_is_tried():
    options = {kind.options.__name__ for kind in ENGINES.values()}
    configs = {
        name for name in lorakit.__all__ if is_dataclass(kind := getattr(lorakit, name))
        and isinstance(kind, type) and name.endswith(("Options", "Config")) and [*choices(kind)]
    }  # fmt: skip
    assert options | configs == set(CONFIGS)


@pytest.fixture(scope="module")
def model():
    with lorakit.open(demo.base_path(), threads=1, context=64) as opened:
        opened.load_adapter(demo.adapter_path("home"))
        yield opened


ADDRESSES = {"url": "https://host/x", "huggingface": "hf:org/repo"}
HOME, BASE, OUT = demo.adapter_path("home"), demo.base_path(), Path("never-written")
CALLS = {
    "embed.pooling": lambda model, word: model.embed("hello", pooling=word),
    "apply.kv": lambda model, word: model.apply({}, kv=word),
    "aapply.kv": lambda model, word: model._table.activate({}, word).result(),
    "LoadedAdapter.apply.scale": lambda model, word: model.find("home").apply(word),
    "session.when_full": lambda model, word: model.session(when_full=word),
    "load_adapter.source": lambda model, word: parse(ADDRESSES.get(word, "x"), word),
}
LITERALS = {
    "embed.pooling": get_type_hints(lorakit.Model.embed)["pooling"],
    "apply.kv": lorakit.KvPolicy,
    "aapply.kv": lorakit.KvPolicy,
    "LoadedAdapter.apply.scale": UserScale,
    "load_adapter.source": Source,
    "session.when_full": WhenFull,
}


@pytest.mark.parametrize("call", CALLS)
def test_a_method_takes_the_words_of_its_literal_alone(call, model):
    for word in words(LITERALS[call]):
        CALLS[call](model, word)
    with pytest.raises(lorakit.ParameterError) as refused:
        CALLS[call](model, WRONG)
    assert all(word in str(refused.value) for word in words(LITERALS[call]))


@pytest.mark.parametrize(
    ("call", "literal"),
    [
        (lambda word: lorakit.open(BASE, engine=word), lorakit.RuntimeName),
        (lambda word: convert(HOME, OUT, to=word), lorakit.FormatName),
        (lambda word: convert(HOME, OUT, to="mlx", dtype=word), lorakit.Dtype),
        (lambda word: merge(lorakit.Base.open(BASE), [], OUT, dtype=word), lorakit.Dtype),
        (lambda word: combine([(lorakit.read_adapter(HOME), 1.0)], word), Method),
        (lambda word: fetch("x", kind=word), Kind),
        (lambda word: lorakit.export(BASE, OUT, to=word), TargetName),
        (lambda word: lorakit.export(BASE, OUT, mode=word), Way),
        (lambda word: lorakit.export(BASE, OUT, quantize=[word]), WebForm),
        (get_format, get_type_hints(get_format)["name"]),
        (
            lambda word: write_gguf(
                lorakit.read_adapter(HOME), OUT, lorakit.Base.open(BASE).decoder, dtype=word
            ),
            get_type_hints(write_gguf)["dtype"],
        ),
    ],
)
def test_another_word_is_refused_with_those_that_there_are(call, literal):
    for wrong in (WRONG, "", ["onnx"]):
        with pytest.raises(LorakitError) as refused:
            call(wrong)
        assert all(word in str(refused.value) for word in get_args(literal))


def test_the_command_line_takes_the_same_words():
    """Its options are made of the Literals; none has a list of its own."""
    wanted = {get_args(literal) for literal, _ in TABLES.values()}
    wanted |= {get_args(literal) for literal in (lorakit.Quantization, lorakit.Device, Way)}
    wanted |= {get_args(literal) for literal in (lorakit.ControlTokens, WhenFull)}
    wanted |= set(map(words, get_type_hints(TrainKeywords).values()))
    for command in COMMANDS:
        module = import_module(f"lorakit.cli.{command}")
        several = getattr(module, "ABOUT", None) is not None
        for function in module.COMMANDS.values() if several else [module.command]:
            for action in parser_of(function, command)._actions:
                assert action.choices is None or tuple(action.choices) in wanted, action


PUBLIC = ("algebra", "check", "demo", "formats", "merge", "sources", "verify", "formats.convert",
          "formats.gguf", "formats.mlx", "formats.ort", "formats.peft", "inspect.report",
          "sources.prune", "chat.tools", "engines.llama.quantize")  # fmt: skip


def own(module: ModuleType) -> dict[str, Any]:
    """What a module defines, itself or in files of its folder."""
    found = {name: getattr(module, name) for name in dir(module) if not name.startswith("_")}
    homes = {name: f"{getattr(each, '__module__', '')}." for name, each in found.items()}
    return {name: found[name] for name in found if homes[name].startswith(f"{module.__name__}.")}


def asked(functions: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every set of words that a public function or method takes."""
    known = {name: getattr(lorakit, name) for name in lorakit._HOMES}
    known["TextTokenizer"] = TextTokenizer  # as verify's files, which import it for checkers alone
    for name, function in functions.items():
        if inspect.isclass(function) and function.__module__.startswith("lorakit."):
            methods = inspect.getmembers(function, inspect.isfunction)
            yield from asked({f"{name}.{key}": each for key, each in methods if key[0] != "_"})
        elif inspect.isfunction(function) and function.__module__.startswith("lorakit."):
            for parameter, hint in get_type_hints(function, localns=known).items():
                if parameter != "return" and (found := words(hint)):
                    yield f"{name}({parameter})", found


def test_every_set_of_words_is_tried_above():
    tried = {get_args(literal) for literal, _ in TABLES.values()}
    tried |= {words(hint) for hint in LITERALS.values()} | {get_args(Way)}
    tried |= {words(get_type_hints(lorakit.export)["quantize"])}
    tried |= {found for kind in CONFIGS for _, found in choices(getattr(lorakit, kind))}
    modules = [lorakit, *(import_module(f"lorakit.{name}") for name in PUBLIC)]
    found = {name: each for module in modules for name, each in asked(own(module))}
    assert {"Model.embed(pooling)", "convert(to)", "open(engine)"} <= set(found)
    assert {name for name, each in found.items() if each not in tried} == set()
