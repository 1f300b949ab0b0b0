"""The bases and adapters of the interleavings: tiny, offline, the same in every run.

Gemma 3 and Llama are the truth folder's, the demo's base is what ships; the Qwen 3 is made here,
with random weights and the truth's tokenizer. For llama.cpp each comes as a GGUF file.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import lorakit
from lorakit import demo
from lorakit.adapter import Adapter, Delta
from lorakit.architectures import HEAD
from lorakit.base.folder import Base
from lorakit.base.gguf import FIELDS
from lorakit.files.gguf import Value
from lorakit.files.gguf_write import write_gguf_file
from lorakit.formats import read_adapter
from lorakit.formats.gguf.names import tensor_of

TESTS = Path(__file__).parents[1]
TRUTH = TESTS / "data" / "truth"
BASES = ("gemma3", "llama", "demo", "qwen3")
TRAINED = {  # adapters that come with a base; those that an engine refuses are left out there
    "gemma3": ("plain", "plain_b", "rslora", "embed_only", "dora"),
    "llama": ("plain", "plain_b", "alora", "embed_lmhead"),
    "demo": demo.ADAPTERS,
    "qwen3": (),
}
INVOCATION = (10, 11)  # of the adapters with invocation tokens; truth's alora has the same
QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
    "model_type": "qwen3",
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": 512,
}
NORMS = {  # by GGUF's name of the family
    "qwen3": {
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
        "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    },
    "gemma3": {
        "input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm",
        "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    },
}  # fmt: skip
NORMAL, CONTROL, UNUSED = 1, 3, 5  # token types of GGUF


def base_path(name: str, work: Path, *, gguf: bool = False, export: bool = False) -> Path:
    """Where a base lies; what must be made first is made in `work`, once. export: to ONNX, with
    inputs for adapters."""
    if export:
        folder = base_path(name, work)
        return _made(
            work / f"{name}-export",
            lambda path: lorakit.export(
                folder, path, mode="dynamic", quantize="none", prove_it=False
            ),
        )
    if gguf and name in ("gemma3", "llama"):
        return TRUTH / "gguf" / f"{name}.base.f32.gguf"
    if gguf:
        folder = base_path(name, work)
        return _made(work / f"{name}.gguf", lambda path: write_gguf(path, folder))
    if name == "demo":
        return demo.base_path()
    return _made(work / name, write_qwen3) if name == "qwen3" else TRUTH / "bases" / name


def adapters_for(name: str, folder: Path) -> dict[str, Adapter]:
    """The pool that an interleaving loads from. folder: the base in Hugging Face's form."""
    found = {}
    for adapter in TRAINED[name]:
        place = demo.adapter_path(adapter) if name == "demo" else TRUTH / "peft" / name / adapter
        found[adapter] = read_adapter(place)
    base = Base.open(folder)
    found |= {f"random{seed}": random_adapter(base, seed) for seed in range(3)}
    late = random_adapter(base, 7, rank=2)
    return {**found, "late": replace(late, invocation_tokens=INVOCATION)}


def random_adapter(base: Base, seed: int, rank: int = 4) -> Adapter:
    """A change of every linear layer, large enough to be seen in the logits.

    A tied head stays as it is: llama.cpp loads none.
    """
    rng = np.random.default_rng(seed)
    shapes = {
        name: shape
        for name, shape in base.decoder.modules().items()
        if not shape.embedding and not (base.decoder.tied and name == HEAD)
    }
    return Adapter(
        deltas=tuple(
            Delta(
                module=name,
                a=rng.standard_normal((rank, shape.in_features), np.float32) * np.float32(0.3),
                b=rng.standard_normal((shape.out_features, rank), np.float32) * np.float32(0.1),
                scale=0.5,
            )
            for name, shape in shapes.items()
        )
    )


def write_qwen3(folder: Path) -> None:
    """A Qwen 3 of random weights of ordinary size, its head dimension not hidden over heads."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(QWEN3), encoding="utf-8")
    donor = TRUTH / "bases" / "llama"
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / file).write_bytes((donor / file).read_bytes())
    rng = np.random.default_rng(3)
    weights = {}
    for name, shape in _qwen3_shapes().items():
        noise = rng.standard_normal(shape, np.float32)
        weights[name] = noise * np.float32(0.15) if len(shape) == 2 else 1 + noise * np.float32(0.1)
    save_file(weights, folder / "model.safetensors")


def _qwen3_shapes() -> dict[str, tuple[int, ...]]:
    hidden, inner, head = QWEN3["hidden_size"], QWEN3["intermediate_size"], QWEN3["head_dim"]
    queries = QWEN3["num_attention_heads"] * head
    keys = QWEN3["num_key_value_heads"] * head
    layer = {
        "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
        "self_attn.q_norm": (head,), "self_attn.k_norm": (head,),
        "self_attn.q_proj": (queries, hidden), "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden), "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }  # fmt: skip
    shapes = {"model.embed_tokens.weight": (QWEN3["vocab_size"], hidden)}
    for number in range(QWEN3["num_hidden_layers"]):
        shapes |= {f"model.layers.{number}.{name}.weight": s for name, s in layer.items()}
    return shapes | {"model.norm.weight": (hidden,)}


# GGUF.


def write_gguf(path: Path, folder: Path) -> None:
    """A folder's weights in float32, and its tokens, as llama.cpp's converter would write them."""
    base = Base.open(folder)
    architecture = base.decoder.architecture
    tensors = {}
    for name, stored in base.tensors.items():
        module, array = name.removesuffix(".weight"), np.asarray(stored).astype(np.float32)
        if (norm := _norm(module, architecture.gguf)) is not None:
            tensors[f"{norm}.weight"] = array + np.float32(architecture.norm_offset)
        else:
            tensors[f"{tensor_of(module, architecture.layout)}.weight"] = array
    with path.open("wb") as file:
        write_gguf_file(file, {**_numbers(base), **_vocabulary(base)}, tensors)


def _norm(module: str, architecture: str) -> str | None:
    if module == "model.norm":
        return "output_norm"
    if module.endswith("norm"):
        _, _, number, name = module.split(".", 3)
        return f"blk.{number}.{NORMS[architecture][name]}"
    return None


def _numbers(base: Base) -> dict[str, Value]:
    name = base.decoder.architecture.gguf
    config = {**base.config, "rope_theta": 1e6}
    values = {
        "general.architecture": Value("str", name),
        "general.type": Value("str", "model"),
        "general.file_type": Value("u32", 0),
        f"{name}.attention.value_length": Value("u32", base.decoder.head_dim),
    }
    for field, key in FIELDS.items():
        if (number := config.get(field)) is not None:
            values[f"{name}.{key}"] = Value("f32" if isinstance(number, float) else "u32", number)
    return values


def _vocabulary(base: Base) -> dict[str, Value]:
    """A byte-level BPE. Rows of the embedding that have no token are marked as unused."""
    content = json.loads((base.path / "tokenizer.json").read_text(encoding="utf-8"))
    ids = content["model"]["vocab"] | {t["content"]: t["id"] for t in content["added_tokens"]}
    special = {token["content"] for token in content["added_tokens"] if token["special"]}
    tokens = sorted(ids, key=ids.__getitem__)
    lacking = range(len(tokens), base.decoder.vocabulary)
    kinds = [CONTROL if token in special else NORMAL for token in tokens] + [UNUSED] * len(lacking)
    merges = (m if isinstance(m, str) else " ".join(m) for m in content["model"]["merges"])
    template = (base.path / "chat_template.jinja").read_text(encoding="utf-8")
    tokens += [f"[PAD{number}]" for number in lacking]
    return {
        "tokenizer.ggml.model": Value("str", "gpt2"),
        "tokenizer.ggml.pre": Value("str", "gpt-2"),
        "tokenizer.ggml.tokens": Value("str", tuple(tokens), array=True),
        "tokenizer.ggml.token_type": Value("i32", np.array(kinds, np.int32), array=True),
        "tokenizer.ggml.merges": Value("str", tuple(merges), array=True),
        "tokenizer.ggml.bos_token_id": Value("u32", 1),
        "tokenizer.ggml.eos_token_id": Value("u32", 2),
        "tokenizer.chat_template": Value("str", template),
    }


def _made(path: Path, make) -> Path:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path)
    return path
