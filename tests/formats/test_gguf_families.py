"""GGUF adapters of mixtures of experts, fused projections and Conv1D, against llama.cpp's own."""

import ctypes
import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llama_library import need_llama
from lorakit.adapter import Adapter, Delta, Site
from lorakit.architectures import ARCHITECTURES, describe
from lorakit.engines.llama.native import llama
from lorakit.errors import FormatError, UnsupportedError
from lorakit.files.gguf import Value, open_gguf
from lorakit.files.gguf_write import write_gguf_file
from lorakit.files.safetensors import open_safetensors
from lorakit.formats.gguf import cannot_express, read_gguf, write_gguf
from lorakit.formats.gguf.names import module_of, tensor_of
from lorakit.formats.peft import read_peft

TRUTH = Path(__file__).parents[1] / "data" / "truth" / "llama_cpp"
CASES = ["qwen3_moe", "qwen3_moe_experts", "phi3", "gpt2"]
CONVERTED = ["qwen3_moe", "phi3"]  # which llama.cpp's converter writes right
EXPERTS, RANK, WIDTH = 3, 3, 16


def decoder_of(name):
    return describe(json.loads((TRUTH / name / "config.json").read_text()))


FUSED = {"mlp.experts.base_layer": ("gate_proj", "up_proj"), "mlp.experts": ("down_proj",)}


def adapter_of(name):
    """The case's adapter as PEFT saved it; fused experts are taken apart here, by the layout that
    PEFT's own classes give: A [E r, in] with the expert first, B [out, r E] with the rank first."""
    if not name.startswith("qwen3_moe"):
        return read_peft(TRUTH / name)
    tensors = open_safetensors(TRUTH / name / "adapter_model.safetensors").tensors
    deltas = []
    for key, a in tensors.items():
        if not key.endswith(".lora_A.weight"):
            continue
        b = tensors[key.replace("lora_A", "lora_B")]
        module = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        block, name = module[: len("model.layers.0")], module[len("model.layers.0.") :]
        if name not in FUSED:
            deltas.append(Delta(module=module, a=a, b=b, scale=2.0))
            continue
        a = a.reshape(EXPERTS, RANK, -1)
        b = b.reshape(-1, RANK, EXPERTS).transpose(2, 0, 1)
        for part, rows in zip(FUSED[name], np.split(b, len(FUSED[name]), axis=1), strict=True):
            module = f"{block}.mlp.experts.{part}"
            deltas.append(Delta(module=module, a=a, b=np.ascontiguousarray(rows), scale=2.0))
    return Adapter(deltas=tuple(deltas))


def logits(base, adapter, ids):
    """llama.cpp's logits [tokens, vocabulary] with a float32 KV cache."""
    api = llama()
    parameters = api.llama_model_default_params()
    parameters.use_extra_bufts = False
    model = api.llama_model_load_from_file(str(base).encode(), parameters)
    lora = api.llama_adapter_lora_init(model, str(adapter).encode())
    assert lora
    options = api.llama_context_default_params()
    options.n_ctx, options.type_k, options.type_v, options.flash_attn_type = 64, 0, 0, 0
    context = api.llama_init_from_model(model, options)
    api.llama_set_adapters_lora(context, (ctypes.c_void_p * 1)(lora), 1, (ctypes.c_float * 1)(1.0))
    batch = api.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for index, token in enumerate(ids.tolist()):
        batch.token[index], batch.pos[index], batch.logits[index] = token, index, 1
        batch.n_seq_id[index], batch.seq_id[index][0] = 1, 0
    assert api.llama_decode(context, batch) == 0
    pointer = api.llama_get_logits(context)
    found = np.ctypeslib.as_array(pointer, shape=(len(ids), 48)).copy()
    api.llama_batch_free(batch)
    api.llama_set_adapters_lora(context, None, 0, None)
    api.llama_adapter_lora_free(lora)
    api.llama_free(context)
    api.llama_model_free(model)
    return found


@pytest.mark.parametrize("name", CONVERTED)
def test_what_the_converter_wrote_is_the_peft_adapter(tmp_path, name):
    theirs = TRUTH / name / "adapter.f32.gguf"
    assert read_gguf(theirs) == adapter_of(name)
    path = tmp_path / "a.gguf"
    write_gguf(adapter_of(name), path, decoder_of(name))
    ours, expected = open_gguf(path).tensors, open_gguf(theirs).tensors
    assert ours.keys() == expected.keys()
    for key, tensor in expected.items():
        assert np.array_equal(ours[key].array(), tensor.array())


@pytest.mark.parametrize("name", CASES)
def test_round_trip(tmp_path, name):
    adapter, path = adapter_of(name), tmp_path / "a.gguf"
    write_gguf(adapter, path, decoder_of(name))
    assert read_gguf(path) == adapter
    again = tmp_path / "b.gguf"
    write_gguf(read_gguf(path), again, decoder_of(name))
    assert path.read_bytes() == again.read_bytes()


def test_shapes_of_the_tensors(tmp_path):
    path = tmp_path / "a.gguf"
    write_gguf(adapter_of("qwen3_moe_experts"), path, decoder_of("qwen3_moe_experts"))
    shapes = {name: tensor.shape for name, tensor in open_gguf(path).tensors.items()}
    assert shapes["blk.1.ffn_gate_exps.weight.lora_a"] == (EXPERTS, RANK, 32)
    assert shapes["blk.1.ffn_gate_exps.weight.lora_b"] == (EXPERTS, WIDTH, RANK)
    assert shapes["blk.1.ffn_down_exps.weight.lora_a"] == (EXPERTS, RANK, WIDTH)
    assert shapes["blk.1.ffn_down_exps.weight.lora_b"] == (EXPERTS, 32, RANK)


@pytest.mark.parametrize("name", CASES)
def test_llama_cpp_computes_what_peft_does(tmp_path, name):
    need_llama()
    path, truth = tmp_path / "a.gguf", np.load(TRUTH / name / "logits.npz")
    write_gguf(adapter_of(name), path, decoder_of(name))
    base = TRUTH / name.removesuffix("_experts") / "base.f32.gguf"
    found = logits(base, path, truth["ids"])
    assert np.abs(truth["adapted"] - truth["base"]).max() > 1
    tolerance = 5e-3 if name == "gpt2" else 2e-5  # ggml looks GELU up in a table of float16
    np.testing.assert_allclose(found, truth["adapted"], rtol=0, atol=tolerance)


@pytest.mark.parametrize("row", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_names_are_those_of_llama_cpp(row):
    gguf = pytest.importorskip("gguf", reason="the oracle is llama.cpp's own package")
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == row.gguf)
    names = gguf.get_tensor_name_map(arch, 3)
    layout = row.layout
    linears = {linear.name: linear for linear in (*layout.linears, *layout.sparse)}
    modules = [f"{layout.blocks}.2.{name}" for name in linears] + list(layout.gguf_tables)
    for module in modules:
        tensor = tensor_of(module, layout)
        known = {f"blk.2.{linear.gguf}": linear.name for linear in linears.values()}
        if tensor is None:
            assert gguf.MODEL_TENSOR.FFN_GATE not in gguf.MODEL_TENSORS[arch]
            continue
        assert tensor in known or tensor in ("token_embd", "output")
        assert names.get_name(module) == tensor
        assert module_of(tensor, layout) == module


def with_module(adapter, module):
    return replace(adapter, deltas=(replace(adapter.deltas[0], module=module),))


def faults(adapter, name):
    return [str(fault) for fault in cannot_express(adapter, decoder_of(name))]


def test_all_that_cannot_be_said_is_listed(tmp_path):
    adapter = adapter_of("qwen3_moe_experts")
    found = {delta.module.rpartition(".")[2]: delta for delta in adapter.deltas[:4]}
    one, other, flat = found["gate_proj"], found["up_proj"], found["v_proj"]
    broken = Adapter(
        deltas=(
            replace(one, a=one.a[:2], b=one.b[:2]),
            replace(other, a=other.a[0], b=other.b[0]),
            replace(flat, a=flat.a[None], b=flat.b[None]),
            replace(flat, module="model.layers.9.self_attn.v_proj"),
        )
    )
    with pytest.raises(UnsupportedError) as caught:
        write_gguf(broken, tmp_path / "a.gguf", decoder_of("qwen3_moe_experts"))
    assert sorted(caught.value.items) == [
        "model.layers.0.mlp.experts.gate_proj: 2 experts, where the base has 3 experts",
        "model.layers.0.mlp.experts.up_proj: one matrix, where the base has 3 experts",
        "model.layers.0.self_attn.v_proj: 1 experts, where the base has one matrix",
        "model.layers.9.self_attn.v_proj: no module of qwen3_moe",
    ]


def test_what_llama_cpp_does_not_adapt_is_refused():
    decoder = decoder_of("gpt2")
    delta = Delta(
        module="transformer.wpe",
        a=np.ones((2, decoder.context), np.float32),
        b=np.ones((decoder.hidden, 2), np.float32),
        scale=1.0,
        site=Site.INPUT,
    )
    assert faults(Adapter(deltas=(delta,)), "gpt2") == [
        "transformer.wpe: a module that llama.cpp does not adapt"
    ]
    config = json.loads((TRUTH / "qwen3_moe" / "config.json").read_text())
    dense = describe(config | {"mlp_only_layers": [1]})
    delta = Delta(
        module="model.layers.1.mlp.up_proj",
        a=np.ones((2, dense.hidden), np.float32),
        b=np.ones((dense.intermediate, 2), np.float32),
        scale=1.0,
    )
    found = cannot_express(Adapter(deltas=(delta,)), dense)
    assert [str(fault) for fault in found] == [
        "model.layers.1.mlp.up_proj: a module that llama.cpp does not adapt"
    ]


@pytest.mark.parametrize(
    ("shapes", "named"),
    [
        (((3, 2, 32), (2, 16, 2)), "experts"),
        (((3, 2, 32), (3, 16, 4)), "rank"),
        (((2, 32), (16, 2)), "3-D"),
    ],
)
def test_experts_that_contradict_themselves_are_refused(tmp_path, shapes, named):
    path = tmp_path / "a.gguf"
    at = "blk.0.ffn_gate_exps.weight.lora_"
    tensors = {at + half: np.ones(shape, np.float32) for half, shape in zip("ab", shapes)}  # noqa: B905
    values = {
        "general.architecture": Value("str", "qwen3moe"),
        "general.type": Value("str", "adapter"),
        "adapter.type": Value("str", "lora"),
    }
    with path.open("wb") as file:
        write_gguf_file(file, values, tensors)
    with pytest.raises(FormatError, match=named):
        read_gguf(path)


def many_strings(path, count):
    """A GGUF header whose one value is `count` empty strings."""
    key = b"tokenizer.ggml.tokens"
    head = b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, len(key)) + key
    path.write_bytes(head + struct.pack("<IIQ", 9, 8, count) + bytes(8 * count))


def test_an_adapter_has_no_vocabulary(tmp_path):
    many_strings(tmp_path / "a.gguf", 1_000_000)
    with pytest.raises(UnsupportedError, match="of the type 'model', not an adapter"):
        read_gguf(tmp_path / "a.gguf")
    many_strings(tmp_path / "b.gguf", 1000)
    assert open_gguf(tmp_path / "b.gguf").values["tokenizer.ggml.tokens"].data == ("",) * 1000
