"""GGUF adapters: what llama.cpp's converter wrote, our own round trip, and files that lie."""

import struct
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from folders import make_sparse
from lorakit.adapter import Adapter, Delta, Magnitude, Replacement, Site
from lorakit.base.folder import Base
from lorakit.errors import FormatError, LorakitError, ParameterError, UnsupportedError
from lorakit.files.gguf import Value, open_gguf
from lorakit.files.gguf_write import write_gguf_file
from lorakit.formats import read_adapter, sniff
from lorakit.formats.gguf import read_gguf, write_gguf
from lorakit.formats.peft import read_peft

sys.path.insert(0, str(Path(__file__).parents[1] / "engines"))
from onnx_cases import logits_of, open_engine

TRUTH = Path(__file__).parents[1] / "data" / "truth"
BASES = {name: Base.open(TRUTH / "bases" / name).decoder for name in ("gemma3", "llama")}
PLAIN = [("gemma3", "plain"), ("gemma3", "plain_b"), ("llama", "plain"), ("llama", "plain_b")]
KEYS = {
    "general.architecture": Value("str", "gemma3"),
    "general.type": Value("str", "adapter"),
    "adapter.type": Value("str", "lora"),
    "adapter.lora.alpha": Value("f32", 8.0),
}
Q = "blk.0.attn_q.weight.lora_"


def truth(base, name, kind="f32"):
    return read_gguf(TRUTH / "gguf" / f"{base}.{name}.{kind}.gguf", BASES[base])


def products(adapter):
    return {
        d.key: d.scale * d.b.astype(np.float64) @ d.a.astype(np.float64) for d in adapter.deltas
    }


def require_same(found, expected, tolerance=1e-6):
    found, expected = products(found), products(expected)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(
            found[key], value, rtol=0, atol=tolerance * max(np.abs(value).max(), 1e-30)
        )


def write_file(path, values=None, tensors=None):
    pair = {Q + "a": np.ones((4, 64), np.float32), Q + "b": np.ones((128, 4), np.float32)}
    with path.open("wb") as file:
        write_gguf_file(file, KEYS | (values or {}), pair if tensors is None else tensors)
    return path


@pytest.mark.parametrize(("base", "name"), PLAIN)
def test_converted_files_are_the_peft_adapters(base, name):
    assert truth(base, name) == read_peft(TRUTH / "peft" / base / name)


def test_half_precision_and_rslora():
    original = read_peft(TRUTH / "peft/gemma3/rslora")
    require_same(truth("gemma3", "plain", "f16"), read_peft(TRUTH / "peft/gemma3/plain"), 2e-3)
    require_same(truth("gemma3", "rslora.folded"), original)
    trap = truth("gemma3", "rslora")  # the file says alpha / r, and so do we
    assert {d.scale for d in trap.deltas} == {16 / 8}
    assert {d.scale for d in original.deltas} == {16 / 8**0.5}


def test_invocation_tokens():
    alora = truth("llama", "alora")
    assert alora.invocation_tokens == (10, 11)
    assert alora == read_peft(TRUTH / "peft/llama/alora")


@pytest.mark.parametrize(
    ("base", "name"), [*PLAIN, ("gemma3", "rslora.folded"), ("gemma3", "embed_only")]
)
def test_logits_of_converted_files(base, name):
    recorded = np.load(TRUTH / "peft" / base / name.removesuffix(".folded") / "logits.npz")
    engine = open_engine(TRUTH / "bases" / base)
    handle = engine.attach(engine.prepare(truth(base, name)))
    for index in range(3):
        found = logits_of(engine, recorded[f"ids{index}"], ((handle, 1.0),))
        np.testing.assert_allclose(found, recorded[f"scale1_{index}"], rtol=0, atol=1e-4)
    engine.close()


def test_a_tied_embedding_is_read_and_not_written(tmp_path):
    adapter = truth("gemma3", "embed_only")
    assert adapter == read_peft(TRUTH / "peft/gemma3/embed_only")
    with pytest.raises(UnsupportedError, match=r"model\.embed_tokens: .*tied"):
        write_gguf(adapter, tmp_path / "a.gguf", BASES["gemma3"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("base", "name"),
    [
        *PLAIN,
        ("gemma3", "rslora"),
        ("gemma3", "patterns"),
        ("gemma3", "layers"),
        ("llama", "rslora"),
        ("llama", "bf16"),
        ("llama", "alora"),
        ("llama", "embed_lmhead"),
    ],
)
def test_peft_to_gguf_and_back(tmp_path, base, name):
    original, path = read_peft(TRUTH / "peft" / base / name), tmp_path / "a.gguf"
    write_gguf(original, path, BASES[base])
    assert sniff(path) == "gguf"
    back = read_adapter(path)
    require_same(back, original)
    assert back.invocation_tokens == original.invocation_tokens
    assert back.precondition == original.precondition
    first = path.read_bytes()
    write_gguf(back, path, BASES[base])
    assert path.read_bytes() == first


def test_llama_without_heads_is_refused():
    path = TRUTH / "gguf/llama.plain.f32.gguf"
    with pytest.raises(UnsupportedError, match="give the base"):
        read_adapter(path)


@st.composite
def adapters(draw):
    base = draw(st.sampled_from(["gemma3", "llama"]))
    shapes = BASES[base].modules()
    names = [n for n in shapes if base == "llama" or ".layers." in n]
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    deltas = []
    for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=4, unique=True)):
        rank, shape = draw(st.sampled_from([1, 2, 4, 8])), shapes[name]
        deltas.append(
            Delta(
                module=name,
                a=rng.standard_normal((rank, shape.in_features), np.float32),
                b=rng.standard_normal((shape.out_features, rank), np.float32),
                scale=draw(st.sampled_from([0.0, 0.25, 1.0, -2.0, 0.3, 5.656854])),
                site=Site.INPUT if shape.embedding else Site.LINEAR,
            )
        )
    tokens = tuple(draw(st.lists(st.integers(0, 511), max_size=3)))
    return base, Adapter(deltas=tuple(deltas), invocation_tokens=tokens)


@settings(max_examples=40, deadline=None)
@given(adapters())
def test_round_trip(tmp_path_factory, case):
    base, adapter = case
    path = tmp_path_factory.mktemp("gguf") / "a.gguf"
    write_gguf(adapter, path, BASES[base])
    back = read_gguf(path)
    require_same(back, adapter)
    assert back.invocation_tokens == adapter.invocation_tokens
    if len({float(np.float32(d.scale * d.rank)) for d in adapter.deltas} - {0.0}) == 1 and all(
        d.scale for d in adapter.deltas
    ):
        assert back == adapter


def test_everything_that_gguf_cannot_say_in_one_error(tmp_path):
    plain = read_peft(TRUTH / "peft/gemma3/plain")
    one, rest = plain.deltas[0], plain.deltas[1:]
    adapter = replace(
        plain,
        deltas=(replace(one, bias=np.ones(one.out_features, np.float32)), *rest),
        replacements=(Replacement(name="model.norm.weight", value=np.ones(64, np.float32)),),
        magnitudes=(Magnitude(module=rest[0].module, value=np.ones(4, np.float32)),),
    )
    with pytest.raises(UnsupportedError) as caught:
        write_gguf(adapter, tmp_path / "a.gguf", BASES["gemma3"])
    assert len(caught.value.items) == 3
    with pytest.raises(ParameterError):
        write_gguf(plain, tmp_path / "a.gguf", BASES["gemma3"], dtype="q4")
    large = replace(plain, deltas=(replace(one, b=np.full(one.b.shape, 1e6, np.float32)), *rest))
    with pytest.raises(FormatError, match="too large for f16"):
        write_gguf(large, tmp_path / "a.gguf", BASES["gemma3"], dtype="f16")
    assert not list(tmp_path.iterdir())


def raw(keys=(), count=None, tensors=0, tail=b""):
    count = len(keys) if count is None else count
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, count) + b"".join(keys) + tail


def key(name, kind, body):
    return struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", kind) + body


NESTED = key("a", 9, struct.pack("<IQ", 9, 1) * 100_000)
INFO = struct.pack("<Q", 1) + b"t" + struct.pack("<I2QIQ", 2, 1 << 40, 1 << 40, 0, 0)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"GGUF", "ends at byte 4, before the version"),
        (raw(count=1 << 60), "claims"),
        (raw(tensors=1 << 60), "claims"),
        (raw([NESTED]), "array of arrays"),
        (raw([key("a", 9, struct.pack("<IQ", 0, 1 << 62))]), "ends at byte 49, before"),
        (raw([key("a", 9, struct.pack("<IQ", 8, 1 << 62))]), "strings"),
        (raw([key("a", 8, struct.pack("<Q", 1 << 62))]), "limit"),
        (raw([key("a", 77, bytes(8))]), "unknown type"),
        (raw([key("a", 0, b"1"), key("a", 0, b"1")]), "twice"),
        (raw([key("general.alignment", 4, struct.pack("<I", 3))]), "alignment"),
        (raw(tensors=1, tail=INFO + bytes(64)), "claims bytes"),
    ],
)
def test_files_that_lie_are_refused(tmp_path, content, reason):
    path = tmp_path / "a.gguf"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=reason):
        read_adapter(path)


ONE = np.ones((4, 64), np.float32)


@pytest.mark.parametrize(
    ("values", "tensors", "reason"),
    [
        ({"general.type": Value("u32", 1)}, None, "general.type must be"),
        ({"general.type": Value("str", "model")}, None, "not an adapter"),
        ({"general.architecture": Value("str", "rwkv")}, None, "its base alone"),
        ({"adapter.lora.alpha": Value("u32", 8)}, None, "alpha must be"),
        ({"adapter.lora.alpha": Value("f32", float("nan"))}, None, "alpha is nan"),
        ({}, {}, "no pair"),
        ({}, {Q + "a": ONE}, "other half"),
        ({}, {Q + "a": ONE, Q + "b": np.ones((128, 3), np.float32)}, "rank"),
        ({}, {"blk.0.attn_norm.weight": ONE[0]}, "no low-rank pair"),
    ],
)
def test_adapters_that_contradict_themselves_are_refused(tmp_path, values, tensors, reason):
    path = write_file(tmp_path / "a.gguf", values, tensors)
    with pytest.raises(FormatError, match=reason):
        read_adapter(path)


def test_every_truncation_is_refused(tmp_path):
    content = write_file(tmp_path / "whole.gguf").read_bytes()
    path = tmp_path / "a.gguf"
    for length in range(0, len(content) - 32, 61):
        path.write_bytes(content[:length])
        with pytest.raises(LorakitError):
            read_adapter(path)


def test_values_of_every_type_come_back(tmp_path):
    values = {
        kind: Value(kind, 1) for kind in ("u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64")
    } | {"f64": Value("f64", 0.5), "bool": Value("bool", True), "s": Value("str", ("é", ""), True)}
    found = open_gguf(write_file(tmp_path / "a.gguf", values)).values
    assert {name: found[name] for name in values} == values


def test_q8_0_is_dequantised(tmp_path):
    rng = np.random.default_rng(0)
    blocks = np.zeros(8, [("scale", "<f2"), ("values", "i1", (32,))])
    blocks["scale"], blocks["values"] = 0.5, rng.integers(-127, 128, (8, 32))
    info = struct.pack("<Q", 1) + b"t" + struct.pack("<I2QIQ", 2, 64, 4, 8, 0)
    head = raw(tensors=1, tail=info)
    path = tmp_path / "a.gguf"
    path.write_bytes(head + bytes(-len(head) % 32) + blocks.tobytes())
    found = open_gguf(path).tensors["t"].array()
    assert (found == (blocks["values"] * np.float32(0.5)).reshape(4, 64)).all()


def test_a_sparse_file_is_not_dequantised(tmp_path):
    info = struct.pack("<Q", len(Q) + 1) + f"{Q}a".encode()
    info += struct.pack("<I2QIQ", 2, 1 << 20, 1 << 10, 8, 0)
    keys = [
        key(name, 8, struct.pack("<Q", len(text)) + text)
        for name, text in (
            ("general.architecture", b"gemma3"),
            ("general.type", b"adapter"),
            ("adapter.type", b"lora"),
        )
    ]
    path = tmp_path / "a.gguf"
    make_sparse(path, 2 << 30, raw(keys, tensors=1, tail=info))
    with pytest.raises(FormatError, match="values in Q8_0"):
        read_adapter(path)


def test_gguf_py_reads_ours(tmp_path):
    gguf = pytest.importorskip("gguf", reason="the oracle is llama.cpp's own Python reader")
    path = tmp_path / "a.gguf"
    write_gguf(read_peft(TRUTH / "peft/llama/plain"), path, BASES["llama"])
    ours, theirs = gguf.GGUFReader(path), gguf.GGUFReader(TRUTH / "gguf/llama.plain.f32.gguf")
    expected = {tensor.name: tensor.data for tensor in theirs.tensors}
    assert {tensor.name for tensor in ours.tensors} == set(expected)
    for tensor in ours.tensors:
        assert (tensor.data == expected[tensor.name]).all()


def test_a_model_in_an_adapters_place_is_told_as_such_whatever_its_vocabulary(tmp_path):
    words = Value("str", tuple(map(str, range(40_000))), array=True)
    tables = {"tokenizer.ggml.tokens": words, "tokenizer.ggml.merges": words}
    path = write_file(
        tmp_path / "model.gguf", values=tables | {"general.type": Value("str", "model")}
    )
    with pytest.raises(UnsupportedError, match="of the type 'model', not an adapter"):
        read_gguf(path)
    path = write_file(tmp_path / "adapter.gguf", values=tables)
    with pytest.raises(
        FormatError, match="claims 40000 strings, of 65536 that all arrays may hold"
    ):
        read_gguf(path)
