"""The functions that are called, with their types: name: (result, argument, ...).

Source: llama.h, ggml.h, mtmd.h and mtmd-helper.h at llama.cpp's build 11549. A string names a
struct whose layout the library tells (structs.py).
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from ctypes import c_bool, c_char_p, c_float, c_int32, c_int64, c_size_t, c_uint8
from typing import Any

from lorakit.engines.llama.binding import structs
from lorakit.engines.llama.binding.structs import (
    Layout,
    llama_pos,
    llama_seq_id,
    llama_token,
    pointer,
)

Prototypes = Mapping[str, tuple[Any, ...]]
floats = ctypes.POINTER(c_float)
tokens = ctypes.POINTER(llama_token)
data = ctypes.POINTER(c_uint8)

LLAMA: Prototypes = {
    "llama_adapter_lora_free": (None, pointer),
    "llama_adapter_lora_init": (pointer, pointer, c_char_p),
    "llama_backend_init": (None,),
    "llama_batch_free": (None, "llama_batch"),
    "llama_batch_get_one": ("llama_batch", tokens, c_int32),
    "llama_batch_init": ("llama_batch", c_int32, c_int32, c_int32),
    "llama_context_default_params": ("llama_context_params",),
    "llama_decode": (c_int32, pointer, "llama_batch"),
    "llama_free": (None, pointer),
    "llama_get_embeddings_ith": (floats, pointer, c_int32),
    "llama_get_logits": (floats, pointer),
    "llama_get_logits_ith": (floats, pointer, c_int32),
    "llama_get_memory": (pointer, pointer),
    "llama_init_from_model": (pointer, pointer, "llama_context_params"),
    "llama_log_set": (None, structs.llama_log_callback, pointer),
    "llama_memory_seq_cp": (None, pointer, llama_seq_id, llama_seq_id, llama_pos, llama_pos),
    "llama_memory_seq_pos_max": (llama_pos, pointer, llama_seq_id),
    "llama_memory_seq_pos_min": (llama_pos, pointer, llama_seq_id),
    "llama_memory_seq_rm": (c_bool, pointer, llama_seq_id, llama_pos, llama_pos),
    "llama_model_default_params": ("llama_model_params",),
    "llama_model_free": (None, pointer),
    "llama_model_ftype": (c_int32, pointer),
    "llama_model_get_vocab": (pointer, pointer),
    "llama_model_is_hybrid": (c_bool, pointer),
    "llama_model_is_recurrent": (c_bool, pointer),
    "llama_model_load_from_file": (pointer, c_char_p, "llama_model_params"),
    "llama_model_meta_val_str": (c_int32, pointer, c_char_p, pointer, c_size_t),
    "llama_model_n_ctx_train": (c_int32, pointer),
    "llama_model_n_embd": (c_int32, pointer),
    "llama_model_n_embd_inp": (c_int32, pointer),
    "llama_model_n_swa": (c_int32, pointer),
    "llama_set_adapters_lora": (c_int32, pointer, ctypes.POINTER(pointer), c_size_t, floats),
    "llama_set_causal_attn": (None, pointer, c_bool),
    "llama_set_n_threads": (None, pointer, c_int32, c_int32),
    "llama_state_seq_get_data": (c_size_t, pointer, data, c_size_t, llama_seq_id),
    "llama_state_seq_get_size": (c_size_t, pointer, llama_seq_id),
    "llama_state_seq_set_data": (c_size_t, pointer, data, c_size_t, llama_seq_id),
    "llama_token_to_piece": (c_int32, pointer, llama_token, pointer, c_int32, c_int32, c_bool),
    "llama_tokenize": (c_int32, pointer, c_char_p, c_int32, tokens, c_int32, c_bool, c_bool),
    "llama_vocab_bos": (llama_token, pointer),
    "llama_vocab_eos": (llama_token, pointer),
    "llama_vocab_get_attr": (c_int32, pointer, llama_token),
    "llama_vocab_get_text": (c_char_p, pointer, llama_token),
    "llama_vocab_is_control": (c_bool, pointer, llama_token),
    "llama_vocab_is_eog": (c_bool, pointer, llama_token),
    "llama_vocab_n_tokens": (c_int32, pointer),
    "llama_vocab_pad": (llama_token, pointer),
    "llama_vocab_type": (c_int32, pointer),
    "ggml_quantize_chunk": (
        c_size_t, c_int32, pointer, pointer, c_int64, c_int64, c_int64, pointer,
    ),
}  # fmt: skip

OPTIONAL: Prototypes = {"llama_max_parallel_sequences": (c_size_t,)}  # what some libraries lack

MTMD: Prototypes = {
    "mtmd_bitmap_free": (None, pointer),
    "mtmd_context_params_default": ("mtmd_context_params",),
    "mtmd_decode_use_mrope": (c_bool, pointer),
    "mtmd_decode_use_non_causal": (c_bool, pointer, pointer),
    "mtmd_encode_chunk": (c_int32, pointer, pointer),
    "mtmd_free": (None, pointer),
    "mtmd_get_output_embd": (floats, pointer),
    "mtmd_helper_bitmap_init_from_buf": (
        structs.mtmd_helper_bitmap_wrapper, pointer, data, c_size_t, c_bool, "mtmd_helper_init_opt",
    ),
    "mtmd_helper_eval_chunks": (
        c_int32, pointer, pointer, pointer, llama_pos, llama_seq_id, c_int32, c_bool,
        ctypes.POINTER(llama_pos),
    ),
    "mtmd_helper_init_opt_default": ("mtmd_helper_init_opt",),
    "mtmd_helper_log_set": (None, structs.llama_log_callback, pointer),
    "mtmd_init_from_file": (pointer, c_char_p, pointer, "mtmd_context_params"),
    "mtmd_input_chunk_get_n_pos": (llama_pos, pointer),
    "mtmd_input_chunk_get_n_tokens": (c_size_t, pointer),
    "mtmd_input_chunk_get_tokens_text": (tokens, pointer, ctypes.POINTER(c_size_t)),
    "mtmd_input_chunk_get_type": (c_int32, pointer),
    "mtmd_input_chunks_free": (None, pointer),
    "mtmd_input_chunks_get": (pointer, pointer, c_size_t),
    "mtmd_input_chunks_init": (pointer,),
    "mtmd_input_chunks_size": (c_size_t, pointer),
    "mtmd_support_vision": (c_bool, pointer),
    "mtmd_tokenize": (
        c_int32, pointer, pointer, ctypes.POINTER(structs.mtmd_input_text),
        ctypes.POINTER(pointer), c_size_t,
    ),
}  # fmt: skip

# Structs whose layout is found, by the function that returns one and what to call it with.
Found = tuple[str, tuple[Layout, ...], tuple[Any, ...]]
FOUND: Mapping[str, Found] = {
    "llama_batch": ("llama_batch_get_one", structs.BATCH, (pointer(16), c_int32(3))),
    "llama_context_params": ("llama_context_default_params", structs.CONTEXT_PARAMS, ()),
    "llama_model_params": ("llama_model_default_params", structs.MODEL_PARAMS, ()),
    "mtmd_context_params": ("mtmd_context_params_default", structs.MTMD_PARAMS, ()),
    "mtmd_helper_init_opt": ("mtmd_helper_init_opt_default", structs.MTMD_OPTIONS, ()),
}  # fmt: skip
