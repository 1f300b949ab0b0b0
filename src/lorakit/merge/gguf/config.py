"""config.json and generation_config.json of a model that came as a GGUF file.

What the file says, in the words of transformers; and what llama.cpp takes for granted of a family
and transformers does not (llama.cpp, src/models). RoPE is written as `rope_theta` and
`rope_scaling`, which transformers 4 and 5 and mlx-lm read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lorakit.architectures import ARCHITECTURES
from lorakit.base.gguf import FIELDS
from lorakit.errors import BaseModelError, UnsupportedError
from lorakit.files.gguf import GgufFile
from lorakit.merge.gguf.metadata import Metadata

LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
# What llama.cpp takes of yarn where a file does not say it.
YARN = {"attn_factor": 1.0, "yarn_attn_factor": 1.0, "yarn_ext_factor": 1.0,
        "yarn_beta_fast": 32.0, "yarn_beta_slow": 1.0, "yarn_log_multiplier": 0.0}  # fmt: skip
SWA_PERIOD = 6  # of Gemma 3, where the file does not say it
LARGEST_GEMMA = 62  # layers of the one Gemma 3 whose attention is scaled by hidden size over heads
_SHORT = {"num_experts"}  # words of ours that transformers 4 and 5 read where both have another
Found = dict[str, Any]


def config_of(file: GgufFile, config: Mapping[str, Any]) -> Found:
    """The whole config.json. config: what base.gguf already makes of the file.

    Raises UnsupportedError for RoPE that config.json cannot say, FormatError for values of another
    kind than they must be.
    """
    metadata, row = Metadata(file), ARCHITECTURES[config["model_type"]]
    found: Found = {"architectures": [row.model_class], **config}
    for field, key in FIELDS.items():
        if field in found:
            found[field] = metadata.number(f".{key}")
    for key in {"attention_bias", "mlp_bias"} - row.bias_keys:
        del found[key]
    found[row.activation_key] = row.default_activation
    if row.layout.positions is None:
        found |= _rope(metadata, file, found)
    found |= _FAMILIES.get(row.model_type, _nothing)(metadata, found)
    found["dtype"] = _dtype(file)
    theirs = {ours: other for ours, other in row.spellings if ours not in _SHORT}
    said = {theirs.get(key, key): value for key, value in found.items() if value is not None}
    return {**said, **_ids(metadata)}  # null where there is none: the classes have defaults


def generation_config_of(file: GgufFile, ends: list[int]) -> Found:
    """What ends a reply, and the token that begins a text."""
    found = {key: value for key, value in _ids(Metadata(file)).items() if value is not None}
    if ends:
        found["eos_token_id"] = ends if len(ends) > 1 else ends[0]
    return found


def _ids(metadata: Metadata) -> Found:
    keys = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    return {ours: metadata.whole(f"tokenizer.ggml.{key}_token_id") for ours, key in keys.items()}


def _dtype(file: GgufFile) -> str:
    """What the table of embeddings is in the folder."""
    kinds = {"F16": "float16", "BF16": "bfloat16"}
    return kinds.get(file.tensors["token_embd.weight"].kind, "float32")


def _rope(metadata: Metadata, file: GgufFile, found: Found) -> Found:
    head = found.get("head_dim") or found["hidden_size"] // found["num_attention_heads"]
    rotated = metadata.number(".rope.dimension_count", head)
    rope: Found = {
        "head_dim": head,
        "rope_theta": metadata.number(".rope.freq_base", 10000.0),
        "partial_rotary_factor": rotated / head if rotated != head else None,
    }
    kind = metadata.text(".rope.scaling.type", "none")
    factor = metadata.number(".rope.scaling.factor", metadata.number(".rope.scale_linear", 1.0))
    if "rope_freqs.weight" in file.tensors:
        factors = np.asarray(file.tensors["rope_freqs.weight"].array(), np.float64).ravel()
        rope["rope_scaling"] = _llama3(factors, rope["rope_theta"], head, file)
    elif "rope_factors_long.weight" in file.tensors:
        rope["rope_scaling"] = _longrope(file)
    elif kind == "linear" and factor != 1.0:
        rope["rope_scaling"] = {"rope_type": "linear", "type": "linear", "factor": factor}
    elif kind == "yarn":
        rope["rope_scaling"] = _yarn(metadata, factor, file)
    elif kind not in ("none", "linear"):
        raise UnsupportedError(
            f"{file.path} scales RoPE by {kind!r:.40}, which is not supported",
            hint="supported are linear, yarn, Llama 3's and Phi 3's",
        )
    return rope


def _yarn(metadata: Metadata, factor: float, file: GgufFile) -> Found:
    """As llama.cpp scales where the file says no more than a factor and the original context."""
    said = {key: metadata.number(f".rope.scaling.{key}") for key in YARN}
    own = [f"{key} = {said[key]:g}" for key in YARN if said[key] not in (None, YARN[key])]
    if own:
        raise UnsupportedError(
            f"{file.path} scales RoPE by yarn in a way of its own, which is not supported",
            items=own,
        )
    original = metadata.whole(".rope.scaling.original_context_length")
    context = metadata.whole(".context_length")
    scaling = {"original_max_position_embeddings": original or context}
    return {"rope_type": "yarn", "type": "yarn", "factor": factor, **scaling}


def _longrope(file: GgufFile) -> Found:
    lists = {
        f"{length}_factor": [float(str(value)) for value in _factors(file, length)]
        for length in ("long", "short")
    }
    return {"rope_type": "longrope", "type": "longrope", **lists}


def _factors(file: GgufFile, length: str) -> Any:
    found = file.tensors.get(f"rope_factors_{length}.weight")
    values = None if found is None else np.asarray(found.array(), np.float32).ravel()
    if values is None or not np.isfinite(values).all():
        raise BaseModelError(f"{file.path} has no usable rope_factors_{length}.weight")
    return values


def _llama3(factors: Any, theta: float, head: int, file: GgufFile) -> Found:
    """The numbers of Llama 3's scaling, of which the file has the outcome: a factor by frequency.

    Between the two wavelengths that a config names, 1 / factor is linear in the frequency.
    """
    if len(factors) * 2 == head and (factors >= 1).all():
        frequencies = theta ** (-np.arange(0, head, 2, dtype=np.float64) / head)
        most = float(factors.max())
        for guess in (LLAMA3, _fitted(factors, frequencies, most)):
            if guess is None:
                continue
            found = {"rope_type": "llama3", "type": "llama3", "factor": most, **guess}
            if np.allclose(llama3_factors(found, frequencies), factors, rtol=2e-6):
                return found
    raise UnsupportedError(
        f"{file.path} has RoPE factors of its own, which are not Llama 3's scaling",
        items=[f"rope_freqs.weight: {np.round(factors[:8], 4).tolist()} ..."],
    )


def _fitted(factors: Any, frequencies: Any, most: float) -> Found | None:
    """With a low factor of 1, which the other two numbers can always be brought to."""
    between = (factors > 1.0001) & (factors < most * 0.9999)
    if between.sum() < 2:
        return None
    smooth = (1 / factors[between] - 1 / most) / (1 - 1 / most)
    slope, start = np.polyfit(frequencies[between] / (2 * np.pi), smooth, 1)
    high = 1 - 1 / start
    original = max(1, round(float(slope * (high - 1))))
    return {
        "low_freq_factor": 1.0,
        "high_freq_factor": round(float(high), 4),
        "original_max_position_embeddings": original,
    }


def llama3_factors(scaling: Mapping[str, Any], frequencies: Any) -> Any:
    """What each frequency is divided by (transformers, modeling_rope_utils.py)."""
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] * frequencies / (2 * np.pi)
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return 1 / ((1 - smooth) / scaling["factor"] + smooth)


def _nothing(metadata: Metadata, found: Found) -> Found:
    return {}


def _gemma3(metadata: Metadata, found: Found) -> Found:
    layers, heads = found["num_hidden_layers"], found["num_attention_heads"]
    key, period = ".attention.sliding_window_pattern", None
    if metadata.is_list(key):
        slides = [bool(value) for value in metadata.numbers(key) or ()]
    else:
        period = max(1, metadata.whole(key, SWA_PERIOD) or 1)
        slides = [(index + 1) % period != 0 for index in range(layers)]
    largest = layers == LARGEST_GEMMA
    return {
        "layer_types": ["sliding_attention" if slide else "full_attention" for slide in slides],
        "sliding_window_pattern": period,
        "rope_local_base_freq": metadata.number(".rope.freq_base_swa", 10000.0),
        "query_pre_attn_scalar": found["hidden_size"] // heads if largest else found["head_dim"],
        "attn_logit_softcapping": metadata.number(".attn_logit_softcapping"),
        "final_logit_softcapping": metadata.number(".final_logit_softcapping"),
    }


def _qwen(metadata: Metadata, found: Found) -> Found:
    return {"use_sliding_window": False, "sliding_window": None}


def _qwen_moe(metadata: Metadata, found: Found) -> Found:
    return _qwen(metadata, found) | {
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "norm_topk_prob": True,
    }


def _llama(metadata: Metadata, found: Found) -> Found:
    return {"sliding_window": None}  # llama.cpp gives this architecture none


def _phi3(metadata: Metadata, found: Found) -> Found:
    key = ".rope.scaling.original_context_length"
    return {"original_max_position_embeddings": metadata.whole(key)}


_FAMILIES: dict[str, Callable[[Metadata, Found], Found]] = {
    "gemma3_text": _gemma3,
    "llama": _llama,
    "qwen2": _qwen,
    "qwen3": _qwen,
    "qwen3_moe": _qwen_moe,
    "phi3": _phi3,
}
