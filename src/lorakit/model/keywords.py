"""Keywords that a call does not have: refused, with what is probably meant.

That is the nearest of all keywords of the call, or what other programs' word is called here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from inspect import signature
from typing import Any

from lorakit.engines.table import ENGINES
from lorakit.errors import ParameterError
from lorakit.runtime.params import SamplingParams
from lorakit.values import close_to

SAMPLING = frozenset(item.name for item in fields(SamplingParams))
CALL = SAMPLING | {
    "adapters", "chat_template_kwargs", "control_tokens", "declare", "enable_thinking", "lookahead",
    "n", "parallel_tool_calls", "repair", "sampling", "timeout", "tool_choice", "tools",
}  # fmt: skip
JSON = 'response_format={"type": "json_schema", "json_schema": {"schema": ...}}'
CALL_ELSEWHERE = {
    "adapter": "adapters",
    "do_sample": "temperature",
    "format": JSON,
    "guided_choice": "choices",
    "guided_grammar": "grammar",
    "guided_json": JSON,
    "guided_regex": "regex",
    "json_mode": 'response_format={"type": "json_object"}',
    "json_schema": JSON,
    "lora_request": "adapters",
    "max_completion_tokens": "max_tokens",
    "max_length": "max_tokens",
    "max_new_tokens": "max_tokens",
    "num_ctx": "lorakit.open(base, context=...)",
    "num_predict": "max_tokens",
    "num_return_sequences": "n",
    "options": "its entries as keywords: temperature=0, seed=1",
    "repeat_penalty": "repetition_penalty",
    "schema": JSON,
    "stop_sequences": "stop",
    "stop_token_ids": "stop_tokens",
    "stream": "model.stream(...), which answers piece by piece",
    "system": 'a first message {"role": "system", "content": "..."}, or model.session(system=...)',
    "think": "enable_thinking",
    "top_logprobs": "logprobs",
}
_OF_CHAT = (
    *("chat_template_kwargs", "control_tokens", "declare", "enable_thinking"),
    *("parallel_tool_calls", "tool_choice", "tools"),
)
OF_OTHER_CALLS = {  # words that are right, but not of the call that has them
    "n": "model.complete(..., n=...) or model.chat(..., n=...), which give several answers",
    **{word: f"model.chat(messages, {word}=...)" for word in _OF_CHAT},
}
OPEN_ELSEWHERE = {
    "adapters": "adapter",
    "backend": "engine",
    "device_map": "device",
    "load_in_4bit": 'quantize="int4"',
    "load_in_8bit": 'quantize="int8"',
    "lora_path": "adapter",
    "max_model_len": "context",
    "max_num_seqs": "max_batch",
    "max_seq_length": "context",
    "model_path": "base",
    "n_ctx": "context",
    "n_gpu_layers": "llama=LlamaOptions(gpu_layers=...)",
    "n_seq_max": "max_batch",
    "n_threads": "threads",
    "num_ctx": "context",
    "num_threads": "threads",
    "runtime": "engine",
}


def require_sampling(options: Mapping[str, Any]) -> None:
    """Raise ParameterError for what is no sampling parameter."""
    if unknown := sorted(options.keys() - SAMPLING):
        meant = likely(unknown, CALL - {*unknown}, CALL_ELSEWHERE | OF_OTHER_CALLS)
        hint = meant or f"known: {', '.join(sorted(SAMPLING))}"
        raise ParameterError(f"unknown sampling parameters: {', '.join(unknown)}", hint=hint)


def require_options(call: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raise ParameterError for what no engine takes. call: whose own keywords may be meant."""
    native = {item.name for item in fields(ENGINES["llama"].options)}
    plain = {item.name for name in ("onnx", "torch") for item in fields(ENGINES[name].options)}
    if unknown := sorted(options.keys() - native - plain - {"llama"}):
        known = (plain | {"llama", *signature(call).parameters}) - {"options"}
        hint = likely(unknown, known, OPEN_ELSEWHERE) or f"options: {', '.join(sorted(known))}"
        raise ParameterError(f"unknown options: {', '.join(unknown)}", hint=hint)


def likely(words: Iterable[str], known: Iterable[str], elsewhere: Mapping[str, str]) -> str:
    """What each may be meant to be; "" where no keyword is like one of them."""
    meant = {
        word: [elsewhere[word]] if word in elsewhere else close_to(word, sorted(known))
        for word in words
    }
    said = [f"for {word}, did you mean {' or '.join(close)}?" for word, close in meant.items()]
    return " ".join(said) if all(meant.values()) else ""
