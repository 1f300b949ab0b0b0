"""Families without a row, in llama.cpp: what lorakit knows of them is what their file says."""

import importlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from llama_cases import TRUTH, logits_of, open_file

import commands
import gguf_bases
import gguf_files
import lorakit
from lorakit import AdapterConfig
from lorakit.adapter import Adapter, Delta
from lorakit.base.gguf import open_gguf_base
from lorakit.engines.llama import engine as llama_engine
from lorakit.engines.llama.engine import LlamaEngine
from lorakit.engines.llama.options import LlamaOptions
from lorakit.errors import (
    BaseModelError,
    CapabilityError,
    EngineError,
    FormatError,
    LorakitError,
    MismatchError,
    UnsupportedError,
)
from lorakit.files.gguf import Value, open_gguf
from lorakit.files.gguf_write import write_gguf_file
from lorakit.formats import read_adapter
from lorakit.formats.convert import convert
from lorakit.merge import merge

foreign = importlib.import_module("lorakit.architectures.foreign")  # not the function
pytest.importorskip("torch", reason="compared with transformers")
pytest.importorskip("transformers", reason="compared with transformers")

IDS = [1, 270, 31, 5, 499, 70, 300, 11, 401, 33, 8, 120]
SIZES = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
ATTENTION = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
}
NAMES = {
    "olmo2": {
        **ATTENTION,
        **{f"mlp.{n}_proj": f"ffn_{n}" for n in ("gate", "up", "down")},
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
        "post_attention_layernorm": "post_attention_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    },
    "starcoder2": {
        **ATTENTION,
        "mlp.c_fc": "ffn_up",
        "mlp.c_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    },
}
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
EPS = {"olmo2": "layer_norm_rms_epsilon", "starcoder2": "layer_norm_epsilon"}
CLOSE = {"olmo2": 1e-4, "starcoder2": 5e-3}  # ggml has a float16 table for GELU


def named(family, name):
    """GGUF's name of a parameter, as llama.cpp's converter gives it."""
    module, _, kind = name.rpartition(".")
    if module in WHOLE:
        return f"{WHOLE[module]}.{kind}"
    _, _, layer, inner = module.split(".", 3)
    return f"blk.{layer}.{NAMES[family][inner]}.{kind}"


def numbers(family):
    at = {
        "block_count": 2,
        "context_length": 128,
        "embedding_length": 64,
        "feed_forward_length": 96,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
    }
    return {
        "general.architecture": Value("str", family),
        "general.type": Value("str", "model"),
        "general.file_type": Value("u32", 0),  # F32, and so is the KV cache
        **{f"{family}.{key}": Value("u32", value) for key, value in at.items()},
        f"{family}.attention.{EPS[family]}": Value("f32", 1e-5),
        f"{family}.rope.freq_base": Value("f32", 10000.0),
    }


@pytest.fixture(scope="module", params=["olmo2", "starcoder2"])
def case(request, tmp_path_factory):
    """A family, its GGUF file, and transformers' model of the same weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    family = request.param
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **SIZES)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.15 if parameter.ndim > 1 else 0.1
            parameter.add_(torch.randn_like(parameter) * scale)
    weights = {name: value.detach().numpy() for name, value in model.named_parameters()}
    path = tmp_path_factory.mktemp("foreign") / f"{family}.gguf"
    known = open_gguf(TRUTH / "gguf/gemma3.base.f32.gguf", model=True, vocabulary=True)
    vocabulary = {k: v for k, v in known.values.items() if k.startswith("tokenizer.")}
    with path.open("wb") as file:
        write_gguf_file(
            file,
            numbers(family) | vocabulary,
            {named(family, name): value for name, value in weights.items()},
        )
    return family, path, model


def theirs(model, change=None):
    """Logits of transformers, with {parameter: delta} added for a while."""
    import torch

    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, delta in (change or {}).items():
            own[name] += torch.from_numpy(delta)
        found = model(torch.tensor([IDS])).logits[0].numpy().copy()
        for name, delta in (change or {}).items():
            own[name] -= torch.from_numpy(delta)
    return found


def pair(out, inputs, seed=1, rank=3):
    random = np.random.default_rng(seed)
    a = random.normal(0, 0.3, (rank, inputs)).astype(np.float32)
    return a, random.normal(0, 0.3, (out, rank)).astype(np.float32)


def write_adapter(path: Path, family, tensors, alpha=6.0) -> Path:
    values = {
        "general.architecture": Value("str", family),
        "general.type": Value("str", "adapter"),
        "adapter.type": Value("str", "lora"),
        "adapter.lora.alpha": Value("f32", alpha),
    }
    with path.open("wb") as file:
        write_gguf_file(file, values, tensors)
    return path


def two_modules(path, family):
    """Queries of one layer and the way up of the other; the delta of each by its parameter."""
    up = {"olmo2": "mlp.up_proj", "starcoder2": "mlp.c_fc"}[family]
    q, u = pair(64, 64, 1), pair(96, 64, 2)
    tensors = {
        "blk.0.attn_q.weight.lora_a": q[0], "blk.0.attn_q.weight.lora_b": q[1],
        "blk.1.ffn_up.weight.lora_a": u[0], "blk.1.ffn_up.weight.lora_b": u[1],
    }  # fmt: skip
    deltas = {
        "model.layers.0.self_attn.q_proj.weight": 2.0 * q[1] @ q[0],
        f"model.layers.1.{up}.weight": 2.0 * u[1] @ u[0],
    }
    return write_adapter(path, family, tensors), deltas


def test_its_logits_are_transformers(case):
    family, path, model = case
    engine = open_file(path)
    want = theirs(model)
    assert want.std() > 0.3
    assert np.abs(logits_of(engine, IDS) - want).max() < CLOSE[family]
    engine.close()


def test_what_is_known_of_it_is_what_the_file_says(case):
    family, path, _ = case
    base = open_gguf_base(path)
    decoder = base.decoder
    assert decoder.is_foreign
    assert (decoder.hidden, len(decoder.layers), decoder.vocabulary) == (64, 2, 512)
    assert decoder.context == 128
    assert decoder.tied == (family == "starcoder2")
    shapes = {n: (s.out_features, s.in_features) for n, s in decoder.modules().items()}
    assert shapes["blk.1.ffn_down"] == (64, 96)
    assert shapes["blk.0.attn_k"] == (32, 64)
    assert shapes["token_embd"] == (64, 512)
    assert ("output" in shapes) == (family == "olmo2")
    assert not any("norm" in name for name in shapes)


def test_a_gguf_adapter_acts_as_in_transformers(case, tmp_path):
    family, path, model = case
    file, deltas = two_modules(tmp_path / "a.gguf", family)
    engine = open_file(path)
    adapter = read_adapter(file, open_gguf_base(path).decoder)
    handle = engine.attach(engine.prepare(adapter))
    plain = theirs(model)
    for scale in (1.0, -0.5):
        want = theirs(model, {name: np.float32(scale) * d for name, d in deltas.items()})
        found = logits_of(engine, IDS, ((handle, scale),))
        assert np.abs(found - want).max() < CLOSE[family]
        assert np.abs(found - plain).max() > 20 * CLOSE[family]
    engine.close()


def test_one_of_its_modules_alone_is_another_adapter(case, tmp_path):
    """The broken variant of the test above: a half that llama.cpp left out would be seen."""
    family, _, model = case
    _, deltas = two_modules(tmp_path / "a.gguf", family)
    both = theirs(model, deltas)
    for name, delta in deltas.items():
        assert np.abs(theirs(model, {name: delta}) - both).max() > 20 * CLOSE[family]


def test_every_module_that_is_listed_is_adapted(case, tmp_path):
    """What llama.cpp loaded and then ignored would leave the logits as they are."""
    family, path, _ = case
    base = open_gguf_base(path)
    engine = open_file(path)
    plain = logits_of(engine, IDS)
    for module, shape in base.decoder.modules().items():
        if base.decoder.tied and module == "token_embd":
            continue
        a, b = pair(shape.out_features, shape.in_features)
        halves = {"a": a.T if module == "token_embd" else a, "b": b}
        tensors = {f"{module}.weight.lora_{half}": array for half, array in halves.items()}
        file = write_adapter(tmp_path / f"{module}.gguf", family, tensors)
        handle = engine.attach(engine.prepare(read_adapter(file, base.decoder)))
        assert np.abs(logits_of(engine, IDS, ((handle, 1.0),)) - plain).max() > 1e-2, module
        engine.detach(handle)
    engine.close()


BROKEN = {
    "out": ({"blk.0.attn_q": (48, 64)}, MismatchError, "delta of .64, 64."),
    "in": ({"blk.0.attn_q": (64, 96)}, MismatchError, "delta of .64, 64."),
    "turned": ({"blk.1.ffn_up": (64, 96)}, MismatchError, "the wrong way round"),
    "a deeper base": ({"blk.2.attn_q": (64, 64)}, UnsupportedError, "blk.2.attn_q"),
    "a tensor of no base": ({"blk.0.attn_z": (64, 64)}, UnsupportedError, "attn_z"),
    "a norm": ({"output_norm": (64, 64)}, UnsupportedError, "output_norm"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_wrong_shapes_are_refused_before_llama_sees_them(case, tmp_path, name):
    family, path, _ = case
    shapes, error, words = BROKEN[name]
    tensors = {}
    for module, shape in shapes.items():
        a, b = pair(*shape)
        tensors |= {f"{module}.weight.lora_a": a, f"{module}.weight.lora_b": b}
    file = write_adapter(tmp_path / "a.gguf", family, tensors)
    with lorakit.open(path, threads=1) as model:
        with pytest.raises(error, match=words):
            model.load_adapter(file)
        assert model.complete([1, 5, 9], max_tokens=2, ignore_eos=True).tokens


def test_halves_and_other_bases_are_refused(case, tmp_path):
    family, path, _ = case
    decoder = open_gguf_base(path).decoder
    a, b = pair(64, 64)
    half = write_adapter(tmp_path / "half.gguf", family, {"blk.0.attn_q.weight.lora_a": a})
    with pytest.raises(FormatError, match="without its other half"):
        read_adapter(half, decoder)
    tensors = {"blk.0.attn_q.weight.lora_a": a, "blk.0.attn_q.weight.lora_b": b}
    other = write_adapter(tmp_path / "other.gguf", "stablelm", tensors)
    with pytest.raises(
        UnsupportedError, match=f"'stablelm', which the base is not: it is {family}"
    ):
        read_adapter(other, decoder)
    own = write_adapter(tmp_path / "own.gguf", family, tensors)
    with pytest.raises(UnsupportedError, match="GGUF file of its base alone"):
        read_adapter(own)
    gemma = open_gguf_base(TRUTH / "gguf/gemma3.base.f32.gguf").decoder
    with pytest.raises(UnsupportedError, match="which the base is not: it is gemma3"):
        read_adapter(own, gemma)


def test_a_delta_of_a_tied_embedding_is_refused(case, tmp_path):
    family, path, _ = case
    a, b = pair(64, 512)
    tensors = {"token_embd.weight.lora_a": a.T, "token_embd.weight.lora_b": b}
    file = write_adapter(tmp_path / "a.gguf", family, tensors)
    engine = open_file(path)
    adapter = read_adapter(file, open_gguf_base(path).decoder)
    if family == "starcoder2":
        with pytest.raises(CapabilityError, match="tied to the head"):
            engine.prepare(adapter)
    else:
        engine.attach(engine.prepare(adapter))
    engine.close()


def test_adapters_of_other_formats_are_refused_by_name(case):
    family, path, _ = case
    decoder = open_gguf_base(path).decoder
    for place in ("peft/gemma3/plain", "mlx/gemma3/lora"):
        with pytest.raises(UnsupportedError, match=f"architecture {family}") as raised:
            read_adapter(TRUTH / place, decoder)
        assert "convert_lora_to_gguf" in raised.value.hint
    delta = Delta(
        module="model.layers.0.self_attn.q_proj",
        a=np.ones((1, 64), np.float32),
        b=np.ones((64, 1), np.float32),
        scale=1.0,
    )
    engine = open_file(path)
    with pytest.raises(MismatchError, match="modules of"):
        engine.prepare(Adapter(deltas=(delta,)))
    engine.close()


def test_merge_export_and_convert_refuse_with_the_reason(case, tmp_path):
    family, path, _ = case
    base = open_gguf_base(path)
    file, _ = two_modules(tmp_path / "a.gguf", family)
    adapter = read_adapter(file, base.decoder)
    with pytest.raises(UnsupportedError, match=f"architecture {family}"):
        merge(base, [(adapter, 1.0)], tmp_path / "merged")
    for to in ("peft", "mlx", "ort", "web"):
        with pytest.raises(UnsupportedError, match=f"{to} cannot be written"):
            convert(file, tmp_path / to, to=to, base=base)
    with pytest.raises(LorakitError, match=f"architecture {family}"):
        lorakit.export(path, tmp_path / "export")
    with pytest.raises(CapabilityError) as raised:
        base.require_weights()
    assert "lorakit merge" not in raised.value.hint
    with pytest.raises(UnsupportedError, match="lorakit cannot merge"):
        lorakit.open(path, adapter=AdapterConfig(file, mode="merge"), threads=1)
    done = commands.invoke("combine", file, file, "-b", path, "-o", tmp_path / "sum")
    assert "written as PEFT" in str(done.error)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.gguf"]


def test_converted_to_gguf_it_is_the_same_adapter(case, tmp_path):
    family, path, _ = case
    base = open_gguf_base(path)
    file, _ = two_modules(tmp_path / "a.gguf", family)
    convert(file, tmp_path / "b.gguf", to="gguf", base=base)
    one, other = (read_adapter(at, base.decoder) for at in (file, tmp_path / "b.gguf"))
    assert one.digest == other.digest


def test_it_runs_chats_and_tokenises(case, tmp_path):
    family, path, _ = case
    file, _ = two_modules(tmp_path / "a.gguf", family)
    with lorakit.open(path, threads=1, adapter=file) as model:
        with_it = model.complete("Once upon a time", max_tokens=6, ignore_eos=True)
        without = model.complete("Once upon a time", max_tokens=6, ignore_eos=True, adapters={})
        assert with_it.text != without.text
        assert model.tokenizer.decode(model.tokenizer.encode("a b", special=False)) == "a b"
        assert model.capabilities.context == 128


def test_files_that_cannot_run_say_why(case, tmp_path):
    family, path, _ = case
    place = tmp_path / "x.gguf"
    for key in ("block_count", "context_length", "embedding_length"):
        with pytest.raises(BaseModelError, match=key):
            open_gguf_base(gguf_files.changed(path, place, {f"{family}.{key}": None}))
    for name in ("", "\x1b]0;owned\x07", "a" * 1000):
        with pytest.raises(BaseModelError, match="no name of an architecture") as raised:
            open_gguf_base(
                gguf_files.changed(path, place, {"general.architecture": Value("str", name)})
            )
        assert raised.value.code == "architecture_unknown"
        assert len(raised.value.message) < 400
    encoder = {f"{family}.attention.causal": Value("bool", False)}
    with pytest.raises(CapabilityError, match="an encoder"):
        open_gguf_base(gguf_files.changed(path, place, encoder))


def test_a_family_that_llama_does_not_know_is_its_error(case, tmp_path):
    family, path, _ = case
    known = open_gguf(path, model=True, vocabulary=True)
    values = {k.replace(f"{family}.", "nobody."): v for k, v in known.stored.items()}
    values["general.architecture"] = Value("str", "nobody")
    tensors = {n: (t.kind, t.shape, t.raw.tobytes()) for n, t in known.tensors.items()}
    file = gguf_files.write(tmp_path / "x.gguf", values, tensors)
    with pytest.raises(EngineError, match="unknown model architecture: 'nobody'"):
        lorakit.open(file, threads=1)


def test_a_tensor_whose_delta_llama_ignores_is_found(monkeypatch, tmp_path):
    """GPT-2's positions: llama.cpp loads a delta of them, and looks the rows up without it."""
    folder = gguf_bases.make_base(tmp_path / "gpt2", gguf_bases.FAMILIES["gpt2"])
    source = gguf_bases.written(folder, tmp_path / "gpt2.gguf")
    pattern = re.compile(rf"{foreign._ADAPTED.pattern}|position_embd", re.ASCII)
    monkeypatch.setattr(foreign, "_ADAPTED", pattern)
    known = open_gguf_base(source)
    shapes = {name: tensor.shape for name, tensor in open_gguf(source, model=True).tensors.items()}
    decoder = foreign.foreign(
        "gpt2",
        shapes,
        layers=len(known.decoder.layers),
        hidden=known.decoder.hidden,
        vocabulary=known.decoder.vocabulary,
        context=known.decoder.context,
    )
    base = replace(known, decoder=decoder)
    engine = LlamaEngine(base, LlamaOptions(threads=1))
    a, b = pair(*shapes["position_embd.weight"])
    c, d = pair(*shapes["blk.0.attn_qkv.weight"])
    both = {
        "position_embd.weight.lora_a": a, "position_embd.weight.lora_b": b,
        "blk.0.attn_qkv.weight.lora_a": c, "blk.0.attn_qkv.weight.lora_b": d,
    }  # fmt: skip
    file = write_adapter(tmp_path / "both.gguf", "gpt2", both)
    prepared = engine.prepare(read_adapter(file, decoder))
    with pytest.raises(CapabilityError) as raised:
        engine.attach(prepared)
    assert raised.value.items == ("position_embd: a delta of it changes no logit",)
    plain = logits_of(engine, IDS)
    monkeypatch.setattr(llama_engine, "require_acting", lambda *_: None)  # the broken variant
    rest = {name: value for name, value in both.items() if "blk" not in name}
    file = write_adapter(tmp_path / "rest.gguf", "gpt2", rest)
    handle = engine.attach(engine.prepare(read_adapter(file, decoder)))
    assert np.array_equal(logits_of(engine, IDS, ((handle, 1.0),)), plain)
    engine.close()
