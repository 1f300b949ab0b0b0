"""The structs that llama.cpp passes by value, and the layouts they have had.

Source: llama.h, mtmd.h and mtmd-helper.h at llama.cpp's build 11549. A struct has no mark of its
layout, so beside each is what the library's own function for its defaults must return. Pointers to
what the engine never looks into are void pointers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from ctypes import c_bool, c_char, c_char_p, c_float, c_int32, c_int64, c_size_t, c_uint32
from dataclasses import dataclass
from typing import Any

pointer = ctypes.c_void_p
Fields = list[tuple[str, Any]]

llama_token = llama_pos = llama_seq_id = c_int32
llama_log_callback = ctypes.CFUNCTYPE(None, c_int32, c_char_p, pointer)


def struct(name: str, fields: Sequence[tuple[str, Any]]) -> Any:
    """A ctypes structure."""
    return type(name, (ctypes.Structure,), {"_fields_": list(fields)})


@dataclass(frozen=True, slots=True)
class Layout:
    """One layout of a struct. Fields that `defaults` lacks are 0 or null in the library's own."""

    builds: str  # of llama.cpp that have it
    type: Any
    defaults: Mapping[str, Any]  # by field; None: the library's own affair


def _named(kind: Any, *names: str) -> Fields:
    return [(name, kind) for name in names]


_BEFORE_CALLBACKS: Fields = [
    *_named(c_uint32, "n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_rs_seq", "n_outputs_max"),
    *_named(c_uint32, "n_outputs_max_per_seq"),
    *_named(c_int32, "n_threads", "n_threads_batch"),
    *_named(c_int32, "ctx_type", "rope_scaling_type", "pooling_type", "attention_type"),
    *_named(c_int32, "flash_attn_type"),
    *_named(c_float, "rope_freq_base", "rope_freq_scale", "yarn_ext_factor", "yarn_attn_factor"),
    *_named(c_float, "yarn_beta_fast", "yarn_beta_slow"),
    *_named(c_uint32, "yarn_orig_ctx"),
    *_named(c_float, "defrag_thold"),
    *_named(pointer, "cb_eval", "cb_eval_user_data"),
    *_named(c_int32, "type_k", "type_v"),
]
_AFTER_TYPES: Fields = [
    *_named(pointer, "abort_callback", "abort_callback_data"),
    *_named(c_bool, "embeddings", "offload_kqv", "no_perf", "op_offload", "swa_full", "kv_unified"),
    *_named(pointer, "samplers"),
    *_named(c_size_t, "n_samplers"),
    *_named(pointer, "ctx_other"),
]
_CONTEXT_DEFAULTS = {
    "n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "n_seq_max": 1,
    "n_outputs_max_per_seq": 1,
    "n_threads": 4, "n_threads_batch": 4,
    "rope_scaling_type": -1, "pooling_type": -1, "attention_type": -1, "flash_attn_type": -1,
    "yarn_ext_factor": -1.0, "yarn_attn_factor": -1.0, "yarn_beta_fast": -1.0,
    "yarn_beta_slow": -1.0, "defrag_thold": -1.0, "type_k": 1, "type_v": 1,
    "offload_kqv": True, "no_perf": True, "op_offload": True, "swa_full": True,
}  # fmt: skip

CONTEXT_PARAMS = (
    Layout(
        "11549, 11548 and 11739 (0.6 and 0.7)",
        struct(
            "llama_context_params",
            [*_BEFORE_CALLBACKS, ("moe_cache_size", c_size_t), *_AFTER_TYPES],
        ),
        _CONTEXT_DEFAULTS,
    ),
    Layout(
        "llama-cpp-python 0.3.36's (0.5)",
        struct("llama_context_params", [*_BEFORE_CALLBACKS, *_AFTER_TYPES]),
        _CONTEXT_DEFAULTS,
    ),
)

MODEL_PARAMS = (
    Layout(
        "0.5 to 0.7",
        struct(
            "llama_model_params",
            [
                *_named(pointer, "devices", "tensor_buft_overrides"),
                *_named(c_int32, "n_gpu_layers", "split_mode", "load_mode", "lazy_mode"),
                *_named(c_int32, "main_gpu"),
                *_named(pointer, "tensor_split", "progress_callback"),
                *_named(pointer, "progress_callback_user_data", "kv_overrides"),
                *_named(c_bool, "vocab_only", "check_tensors", "use_extra_bufts", "no_host"),
                *_named(c_bool, "no_alloc", "load_mtp"),
            ],
        ),
        {
            "n_gpu_layers": -1, "split_mode": 1, "load_mode": -1, "lazy_mode": 1,
            "use_extra_bufts": True,
        },
    ),
)  # fmt: skip

BATCH = (
    Layout(
        "0.5 to 0.7",
        struct(
            "llama_batch",
            [
                ("n_tokens", c_int32),
                ("token", ctypes.POINTER(llama_token)),
                ("embd", ctypes.POINTER(c_float)),
                ("pos", ctypes.POINTER(llama_pos)),
                ("n_seq_id", ctypes.POINTER(c_int32)),
                ("seq_id", ctypes.POINTER(ctypes.POINTER(llama_seq_id))),
                ("logits", ctypes.POINTER(ctypes.c_int8)),
            ],
        ),
        {"n_tokens": 3, "token": 16},  # what llama_batch_get_one is given
    ),
)

MTMD_PARAMS = (
    Layout(
        "0.5 to 0.7",
        struct(
            "mtmd_context_params",
            [
                ("use_gpu", c_bool),
                ("device", pointer),
                ("print_timings", c_bool),
                ("n_threads", c_int32),
                *_named(c_char_p, "image_marker", "media_marker"),
                ("flash_attn_type", c_int32),
                ("warmup", c_bool),
                *_named(c_int32, "image_min_tokens", "image_max_tokens"),
                *_named(pointer, "cb_eval", "cb_eval_user_data"),
                ("batch_max_tokens", c_int32),
                *_named(pointer, "progress_callback", "progress_callback_user_data"),
            ],
        ),
        {
            "use_gpu": True, "print_timings": True, "n_threads": 4, "media_marker": None,
            "flash_attn_type": -1, "warmup": True, "image_min_tokens": -1, "image_max_tokens": -1,
            "batch_max_tokens": 1024,
        },
    ),
)  # fmt: skip

MTMD_OPTIONS = (
    Layout(
        "0.5 to 0.7",
        struct(
            "mtmd_helper_init_opt",
            [
                ("fps_target", c_float),
                ("ffmpeg_bin_dir", c_char_p),
                ("timestamp_interval_ms", c_int64),
            ],
        ),
        {"fps_target": 4.0, "timestamp_interval_ms": 5000},
    ),
)

# Of these the library returns no defaults: their pointers are passed, or 16 bytes in registers.
kv_value = type(
    "llama_model_kv_value",
    (ctypes.Union,),
    {
        "_fields_": [
            ("val_i64", c_int64),
            ("val_f64", ctypes.c_double),
            ("val_bool", c_bool),
            ("val_str", c_char * 128),
        ]
    },
)
llama_model_kv_override = struct(
    "llama_model_kv_override", [("tag", c_int32), ("key", c_char * 128), ("value", kv_value)]
)
mtmd_input_text = struct(
    "mtmd_input_text",
    [
        ("text", c_char_p),
        ("text_len", c_size_t),
        ("add_special", c_bool),
        ("parse_special", c_bool),
    ],
)
mtmd_helper_bitmap_wrapper = struct(
    "mtmd_helper_bitmap_wrapper", _named(pointer, "bitmap", "video_ctx")
)
