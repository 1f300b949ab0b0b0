"""llama.cpp for bench/calls.py: the same call token by token, free and under its own grammar.

Its best case asks the grammar about the best token alone, as its own sampler does first; a mask
asks about every token. What the answer says is given, as in the rest of the benchmark, and its
prompt is in the KV cache. The grammar's functions are bound here: lorakit calls none of them.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from call_base import NAMES, ROOMS
from llama_peer import Peer

from lorakit.engines.llama.native import chosen, llama

GRAMMAR = """root ::= "<start_function_call>call:" call "<end_function_call>"
call ::= name "{level:" level ",on:" ("true" | "false") ",room:" room ",title:" text "}"
name ::= %s
level ::= "-"? ("0" | [1-9] [0-9]{0,15})
room ::= "<escape>" (%s) "<escape>"
text ::= "<escape>" [^<]{0,300} "<escape>"
"""
_TOKEN = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])


class _Tokens(ctypes.Structure):
    """llama_token_data_array of llama.h."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
        ("selected", ctypes.c_int64),
        ("sorted", ctypes.c_bool),
    )


class LlamaCalls:
    """One model and context, with a prompt in its cache."""

    def __init__(
        self, path: Path, prompt: Sequence[int], answer: Sequence[int], threads: int | None
    ) -> None:
        self.api = llama()
        options = self.api.llama_model_default_params()
        options.use_extra_bufts = False  # AMX buffers crash with some compilers
        self.model = self.api.llama_model_load_from_file(str(path).encode(), options)
        cells = len(prompt) + len(answer) + 64
        self.peer = Peer(self.model, rows=1, cells=cells, threads=threads or 2)
        self.prompt, self.answer = list(prompt), list(answer)
        self.peer.fill(0, self.prompt[:-1])
        self.vocabulary = self.api.llama_model_get_vocab(self.model)
        pointer = ctypes.c_void_p
        library = ctypes.CDLL(str(chosen().library.path))
        prototypes: dict[str, tuple[Any, ...]] = {
            "llama_sampler_init_grammar": (pointer, pointer, ctypes.c_char_p, ctypes.c_char_p),
            "llama_sampler_apply": (None, pointer, ctypes.POINTER(_Tokens)),
            "llama_sampler_accept": (None, pointer, ctypes.c_int32),
            "llama_sampler_free": (None, pointer),
        }
        for name, (result, *arguments) in prototypes.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        self.library = library
        self.every = np.zeros(self.peer.width, _TOKEN)

    def free(self) -> float:
        return self._run(lambda native, token: None)

    def grammar(self) -> float:
        return self._run(self._one)

    def mask(self) -> float:
        return self._run(self._all)

    def _run(self, ask: Callable[[Any, int], None]) -> float:
        names = " | ".join(f'"{name}"' for name in NAMES)
        rooms = " | ".join(f'"{room}"' for room in ROOMS)
        text = (GRAMMAR % (names, rooms)).encode()
        native = self.library.llama_sampler_init_grammar(self.vocabulary, text, b"root")
        if not native:
            raise SystemExit("llama.cpp cannot read the grammar")
        begin = time.perf_counter()
        place = len(self.prompt) - 1
        for before, token in zip([self.prompt[-1], *self.answer], self.answer, strict=False):
            self.peer.step([before], place)
            ask(native, token)
            place += 1
        seconds = time.perf_counter() - begin
        self.peer.forget(0, len(self.prompt) - 1)
        self.library.llama_sampler_free(native)
        return seconds

    def _one(self, native: Any, token: int) -> None:
        one = np.zeros(1, _TOKEN)
        one["id"] = token
        self._apply(native, one)
        if not np.isfinite(one["logit"][0]):
            raise SystemExit(f"llama.cpp's grammar refuses token {token} of the answer")
        self.library.llama_sampler_accept(native, token)

    def _all(self, native: Any, token: int) -> None:
        self.every["id"], self.every["logit"] = np.arange(len(self.every)), 0
        self._apply(native, self.every)
        self.library.llama_sampler_accept(native, token)

    def _apply(self, native: Any, tokens: Any) -> None:
        array = _Tokens(tokens.ctypes.data, len(tokens), -1, False)
        self.library.llama_sampler_apply(native, ctypes.byref(array))
