"""What a GGUF file says of a model's architecture, and what llama.cpp cannot compute.

Keys as in ggml-org/ggml, docs/gguf.md, as llama.cpp's converter writes them (conversion/), and what
its graphs do of them (src/models; read in the sources that llama-cpp-python 0.3.36 builds).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lorakit.adapter import Array
from lorakit.architectures import Decoder, Rope
from lorakit.architectures.decoder import mscale
from lorakit.base.gguf import FIELDS
from lorakit.errors import UnsupportedError
from lorakit.files.gguf import Value
from lorakit.formats.gguf.places import LLAMA3_FACTORS, LONG_FACTORS, SHORT_FACTORS
from lorakit.merge.gguf.config import LARGEST_GEMMA, SWA_PERIOD, llama3_factors

Config = Mapping[str, Any]
_Numbers = dict[str, int | float | str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Graph:
    """What llama.cpp computes of an architecture.

    wide: the heads may be wider together than the model is. windows: layers have their own.
    """

    ropes: tuple[str, ...] = ("default", "linear", "yarn")
    activation: str = "silu"
    biases: bool = False  # behind the attention and in the MLP
    wide: bool = True
    windows: bool = False


_GRAPHS = {
    "gemma3": _Graph(activation="gelu_tanh", windows=True),
    "llama": _Graph(ropes=("default", "linear", "llama3", "yarn"), biases=True),
    "qwen2": _Graph(wide=False),
    "qwen3": _Graph(),
    "qwen3moe": _Graph(),
    "phi3": _Graph(ropes=("default", "longrope"), wide=False),
    "gpt2": _Graph(activation="gelu_tanh", wide=False),
}


def require_expressible(decoder: Decoder, config: Config) -> None:
    """Raise UnsupportedError that lists what llama.cpp would compute otherwise, or not at all."""
    faults = [*_faults(decoder), *_rope_faults(decoder, config)]
    if faults:
        raise UnsupportedError(
            f"llama.cpp cannot compute what this {decoder.architecture.model_type} model asks for",
            items=faults,
            hint="the targets onnx, safetensors and mlx may take it",
        )


def notes(decoder: Decoder) -> tuple[str, ...]:
    """In what llama.cpp's output may differ from the model's."""
    return (*_window_notes(decoder), *_longrope_notes(decoder))


def _window_notes(decoder: Decoder) -> Iterator[str]:
    windows = {layer.window for layer in decoder.layers if layer.window is not None}
    if windows and not _graph(decoder).windows and min(windows) < decoder.context:
        yield (
            f"llama.cpp gives this architecture no sliding window: beyond {min(windows)} tokens it "
            "computes something else than the model"
        )


def _longrope_notes(decoder: Decoder) -> Iterator[str]:
    ropes = (layer.rope for layer in decoder.layers if layer.rope is not None)
    short = min((each.original_context for each in ropes if each.kind == "longrope"), default=None)
    if short is not None and short < decoder.context:
        yield (
            "llama.cpp chooses longrope's factors by the context it is opened with, the model by "
            f"its text: for texts of up to {short} tokens open it with -c {short}"
        )


def keys(decoder: Decoder, config: Config) -> dict[str, Value]:
    """The values below the architecture's name."""
    name = decoder.architecture.gguf
    found: _Numbers = {FIELDS[field]: value for field, value in _fields(decoder).items()}
    found["vocab_size"] = decoder.vocabulary
    if decoder.logit_softcap is not None:
        found["final_logit_softcapping"] = decoder.logit_softcap
    if decoder.layers[0].rope is not None:
        found |= _rope_keys(decoder, config)
    values = {f"{name}.{key}": _value(value) for key, value in found.items()}
    return values | {f"{name}.{key}": value for key, value in _windows(decoder).items()}


def factors(decoder: Decoder, config: Config) -> dict[str, Array]:
    """What divides each frequency of the RoPE, float32, where it is scaled by a list of them."""
    rope = _rope(decoder)
    if rope is not None and rope.kind == "llama3":
        frequencies = rope.theta ** (-np.arange(0, decoder.head_dim, 2) / decoder.head_dim)
        scaling = asdict(rope) | {"original_max_position_embeddings": rope.original_context}
        return {LLAMA3_FACTORS: llama3_factors(scaling, frequencies).astype(np.float32)}
    if rope is not None and rope.kind == "longrope":
        names = {LONG_FACTORS: "long_factor", SHORT_FACTORS: "short_factor"}
        said = _parameters(config)
        return {name: np.array(said[key], np.float32) for name, key in names.items()}
    return {}


def _graph(decoder: Decoder) -> _Graph:
    return _GRAPHS[decoder.architecture.gguf]


def _value(value: int | float | str) -> Value:
    kinds = {int: "u32", float: "f32", str: "str"}
    return Value(kinds[type(value)], value)


def _fields(decoder: Decoder) -> _Numbers:
    """By the words of a config.json."""
    row, rope = decoder.architecture, _rope(decoder)
    found: _Numbers = {
        "max_position_embeddings": decoder.context,
        "hidden_size": decoder.hidden,
        "num_hidden_layers": len(decoder.layers),
        "intermediate_size": decoder.intermediate,
        "num_attention_heads": decoder.heads,
        dict(row.spellings).get("rms_norm_eps", "rms_norm_eps"): decoder.eps,
    }
    if rope is not None:
        found |= {
            "num_key_value_heads": decoder.kv_heads,
            "head_dim": decoder.head_dim,
            "rope_theta": rope.theta,
        }
    if decoder.experts is not None:
        found |= {
            "num_experts": decoder.experts.count,
            "num_experts_per_tok": decoder.experts.per_token,
            "moe_intermediate_size": decoder.experts.intermediate,
        }
    return found


def _rope(decoder: Decoder) -> Rope | None:
    """That of the layers without a window, or of all where all have one."""
    layers = decoder.layers
    return next((layer.rope for layer in layers if layer.window is None), layers[0].rope)


def _rope_keys(decoder: Decoder, config: Config) -> _Numbers:
    rope = _rope(decoder)
    assert rope is not None
    found: _Numbers = {
        "attention.value_length": decoder.head_dim,
        "rope.dimension_count": int(decoder.head_dim * rope.partial),
    }
    if rope.kind == "linear":
        found |= {"rope.scaling.type": "linear", "rope.scaling.factor": rope.factor}
    if rope.kind == "yarn":
        found |= {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": rope.factor,
            "rope.scaling.original_context_length": rope.original_context,
        }
    if rope.kind == "longrope":
        found["rope.scaling.type"] = "longrope"
        found["rope.scaling.attn_factor"] = _attention_factor(decoder, rope, config)
    if decoder.architecture.gguf == "phi3":
        found["rope.scaling.original_context_length"] = rope.original_context
    return found


def _attention_factor(decoder: Decoder, rope: Rope, config: Config) -> float:
    """What longrope multiplies cos and sin by (transformers, modeling_rope_utils.py)."""
    said = _parameters(config)
    if said.get("attention_factor") is not None:
        return float(said["attention_factor"])
    longer = said.get("factor") or decoder.context / rope.original_context
    return math.sqrt(1 + math.log(longer) / math.log(rope.original_context)) if longer > 1 else 1.0


def _windows(decoder: Decoder) -> dict[str, Value]:
    """Which layers have a sliding window, and how long it is.

    Phi 3's graph has none; it takes a window of 0 for that of Phi 4, whose files say so.
    """
    slides = [layer.window is not None for layer in decoder.layers]
    window = next((layer.window for layer in decoder.layers if layer.window is not None), 0)
    if decoder.architecture.gguf == "phi3":
        return {FIELDS["sliding_window"]: Value("u32", window)}
    if not _graph(decoder).windows:
        return {}
    pattern = "attention.sliding_window_pattern"
    if not any(slides):
        return {pattern: Value("u32", 1)}
    local = next(layer.rope for layer in decoder.layers if layer.window is not None)
    assert local is not None
    found = {
        FIELDS["sliding_window"]: Value("u32", window),
        "rope.freq_base_swa": Value("f32", local.theta),
    }
    if slides != [(index + 1) % SWA_PERIOD != 0 for index in range(len(slides))]:
        found[pattern] = Value("bool", slides, array=True)
    return found


# What llama.cpp cannot compute.


def _faults(decoder: Decoder) -> Iterator[str]:
    graph, layers = _graph(decoder), len(decoder.layers)
    if decoder.activation != graph.activation:
        yield f"the activation {decoder.activation}: its graph computes {graph.activation}"
    if (decoder.output_bias or decoder.mlp_bias) and not graph.biases:
        yield "biases behind the attention or in the MLP: its graph has none"
    if decoder.heads * decoder.head_dim != decoder.hidden and not graph.wide:
        yield (
            f"{decoder.heads} heads of {decoder.head_dim}: its graph takes them to be as wide "
            f"together as the model, {decoder.hidden}"
        )
    of = decoder.head_dim
    if graph.windows and layers == LARGEST_GEMMA:
        of = decoder.hidden // decoder.heads
    if not math.isclose(decoder.attention_scale, of**-0.5, rel_tol=1e-6):
        yield f"attention is scaled by {decoder.attention_scale:.6g}: its graph does by {of}^-0.5"
    if decoder.experts is None:
        return
    dense = [str(at) for at, layer in enumerate(decoder.layers) if not layer.sparse]
    if dense:
        yield f"layers without experts: {', '.join(dense[:20])}"
    if not decoder.experts.normalised:
        yield "the chosen experts' weights as they are (norm_topk_prob): its graph divides them"


def _rope_faults(decoder: Decoder, config: Config) -> Iterator[str]:
    known, rope = _graph(decoder).ropes, _rope(decoder)
    if rope is None:
        return
    if rope.kind not in known:
        yield f"RoPE scaled by {rope.kind}: files of this architecture say {' or '.join(known)}"
    others = {layer.rope.kind for layer in decoder.layers if layer.rope and layer.rope != rope}
    if others - {"default"}:
        yield "RoPE scaled in the layers with a sliding window: it scales the others alone"
    if rope.kind == "yarn":
        yield from _yarn_faults(rope)
    if rope.kind != "longrope":
        return
    said, count = _parameters(config), int(decoder.head_dim * rope.partial) // 2
    for key in ("long_factor", "short_factor"):
        listed = said.get(key)
        if not isinstance(listed, list) or len(listed) != count or not all(map(_positive, listed)):
            yield f"{key} of its RoPE: expected {count} positive numbers, found {listed!r:.60}"
    for key in ("attention_factor", "factor"):
        if said.get(key) is not None and not _positive(said[key]):
            yield f"{key} of its RoPE: expected a positive number, found {said[key]!r:.60}"
    scaled = [key for key in ("long_mscale", "short_mscale") if said.get(key) is not None]
    if scaled:
        yield f"{', '.join(scaled)} of its RoPE: a GGUF file has one factor for both"


def _yarn_faults(rope: Rope) -> Iterator[str]:
    """What llama.cpp takes otherwise of every file whose RoPE is scaled by yarn."""
    plain = Rope(theta=rope.theta, kind="yarn")
    if not math.isclose(rope.attention, mscale(rope.factor), rel_tol=1e-6):
        yield f"an attention factor of {rope.attention:.6g} of its RoPE: {mscale(rope.factor):.6g}"
    for key in ("beta_fast", "beta_slow", "truncate"):
        if getattr(rope, key) != getattr(plain, key):
            yield f"{key} of its RoPE, {getattr(rope, key)}: {getattr(plain, key)}"


def _parameters(config: Config) -> Config:
    """Of a config that `describe` took."""
    found: Config = config.get("rope_scaling") or config.get("rope_parameters") or {}
    return found


def _positive(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 < value < 1e30
