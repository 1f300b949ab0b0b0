"""llama.cpp's C API through llama_cpp's low-level module, and its log.

Loaded on first use. All symbols that the engine calls are looked up at once, so that an unsuitable
version of the package fails at open, with their names, and not during a request. The package's
`Llama` class is never used: it holds one adapter and reuses the KV cache across adapters.
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

from lorakit.errors import EngineError, MissingExtraError

log = logging.getLogger("lorakit.llama")
SYMBOLS = (
    "llama_adapter_lora_free",
    "llama_adapter_lora_init",
    "llama_backend_init",
    "llama_context_default_params",
    "llama_decode",
    "llama_free",
    "llama_get_embeddings_ith",
    "llama_get_logits_ith",
    "llama_get_memory",
    "llama_init_from_model",
    "llama_log_set",
    "llama_max_parallel_sequences",
    "llama_memory_seq_cp",
    "llama_memory_seq_pos_max",
    "llama_memory_seq_pos_min",
    "llama_memory_seq_rm",
    "llama_model_default_params",
    "llama_model_desc",
    "llama_model_free",
    "llama_model_ftype",
    "llama_model_get_vocab",
    "llama_model_load_from_file",
    "llama_model_n_ctx_train",
    "llama_model_n_embd",
    "llama_model_n_swa",
    "llama_model_quantize",
    "llama_model_quantize_default_params",
    "llama_print_system_info",
    "llama_set_abort_callback",
    "llama_set_adapters_lora",
    "llama_set_causal_attn",
    "llama_set_n_threads",
    "llama_state_seq_get_data",
    "llama_state_seq_get_size",
    "llama_state_seq_set_data",
    "llama_token_to_piece",
    "llama_tokenize",
    "llama_vocab_bos",
    "llama_vocab_is_control",
    "llama_vocab_is_eog",
    "llama_vocab_n_tokens",
)
MTMD_SYMBOLS = (
    "mtmd_bitmap_free",
    "mtmd_context_params_default",
    "mtmd_decode_use_mrope",
    "mtmd_decode_use_non_causal",
    "mtmd_encode_chunk",
    "mtmd_free",
    "mtmd_get_cap_from_file",
    "mtmd_get_output_embd",
    "mtmd_helper_bitmap_init_from_buf_wrapper",
    "mtmd_helper_init_opt_default",
    "mtmd_helper_log_set",
    "mtmd_init_from_file",
    "mtmd_input_chunk_get_n_pos",
    "mtmd_input_chunk_get_n_tokens",
    "mtmd_input_chunk_get_tokens_text",
    "mtmd_input_chunk_get_type",
    "mtmd_input_chunks_free",
    "mtmd_input_chunks_get",
    "mtmd_input_chunks_init",
    "mtmd_input_chunks_size",
    "mtmd_support_vision",
    "mtmd_tokenize",
)
_WARN, _ERROR, _CONTINUED = 3, 4, 5  # ggml_log_level; a continued line has no level of its own
_local = threading.local()


@cache
def llama() -> Any:
    """The low-level module, ready for use.

    Raises MissingExtraError if it is not installed, EngineError if it lacks a symbol.
    """
    try:
        with _short_waits():
            from llama_cpp import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingExtraError(
            f"the llama.cpp engine needs llama-cpp-python: {error}",
            hint="pip install 'lorakit[llama]' (compiles for about ten minutes; see docs/llama.md)",
        ) from error
    _require(llama_cpp, SYMBOLS)
    _install_log(llama_cpp)
    llama_cpp.llama_backend_init()
    return llama_cpp


@contextmanager
def _short_waits() -> Iterator[None]:
    """Make OpenMP's threads spin for about 20 us at a barrier, and then sleep.

    GCC's OpenMP reads the setting when it is loaded, clang's (in ms) at the first step. ggml has a
    barrier after each operation. On a busy machine a spinning thread takes the core that the thread
    it waits for needs: with GCC's default of 4 ms a token took a hundred times as long beside two
    busy loops on two cores. Without any spinning a token takes twice as long on an idle machine.
    The user's own settings are kept.
    """
    os.environ.setdefault("KMP_BLOCKTIME", "0")  # else ggml sets 200
    if "GOMP_SPINCOUNT" in os.environ or "OMP_WAIT_POLICY" in os.environ:
        yield
        return
    os.environ["GOMP_SPINCOUNT"] = "2000"
    try:
        yield
    finally:
        del os.environ["GOMP_SPINCOUNT"]


@cache
def mtmd() -> Any:
    """The low-level module for images, ready for use. Raises as `llama` does."""
    llama()
    try:
        from llama_cpp import mtmd_cpp
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingExtraError(
            f"this llama-cpp-python was built without its library for images: {error}",
            hint="pip install --force-reinstall --no-binary :all: 'lorakit[llama]'",
        ) from error
    _require(mtmd_cpp, MTMD_SYMBOLS)
    mtmd_cpp.mtmd_helper_log_set(_KEPT[0], ctypes.c_void_p(0))
    return mtmd_cpp


def _require(module: ModuleType, names: tuple[str, ...]) -> None:
    missing = [name for name in names if not hasattr(module, name)]
    if missing:
        raise EngineError(
            "this llama-cpp-python lacks functions that the engine needs",
            items=missing,
            hint="pip install --force-reinstall 'lorakit[llama]' installs the right version",
        )


def _install_log(module: ModuleType) -> None:
    """Install one callback for the whole process: the native logger is global."""

    def receive(level: int, text: bytes, _: Any) -> None:
        line = text.decode("utf-8", "replace")
        lines = getattr(_local, "lines", None)
        if level == _CONTINUED:
            level = getattr(_local, "level", 0)
        _local.level = level
        if lines is not None and level in (_WARN, _ERROR):
            lines.append((level, line))
        elif level == _ERROR:
            log.error(line.rstrip())

    callback = module.llama_log_callback(receive)
    module.llama_log_set(callback, ctypes.c_void_p(0))
    _KEPT.append(callback)  # the native side holds no reference


_KEPT: list[Any] = []


class captured_log:  # noqa: N801  # used as a function; a class costs a third of a generator
    """Collects what native calls of this thread log, to be attached to an error."""

    __slots__ = ("_before", "entries")

    def __init__(self) -> None:
        self.entries: list[tuple[int, str]] = []
        self._before: list[tuple[int, str]] | None = None

    def __enter__(self) -> captured_log:
        self._before = getattr(_local, "lines", None)
        _local.lines = self.entries
        return self

    def __exit__(self, *_: object) -> None:
        _local.lines = self._before
        if self._before is not None:
            self._before.extend(self.entries)

    @property
    def reasons(self) -> list[str]:
        """The logged errors, or if there are none the warnings: single lines, no duplicates."""
        for level in (_ERROR, _WARN):
            text = "".join(line for found, line in self.entries if found == level)
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            if lines:
                return list(dict.fromkeys(lines))[:20]
        return []


class Abort:
    """A flag that stops a running decode. Thread-safe.

    llama.cpp calls its abort callback once per node of the graph; a Python function would take the
    GIL hundreds of times per token. So the callback is the C library's strlen, on a string of one
    byte (abort) or none (go on), and no Python runs.
    """

    def __init__(self) -> None:
        self._flag = ctypes.create_string_buffer(2)
        strlen = ctypes.cast(_libc().strlen, ctypes.c_void_p)
        self.callback = ctypes.cast(strlen, llama().ggml_abort_callback)
        self.data = ctypes.cast(self._flag, ctypes.c_void_p)

    def set(self) -> None:
        self._flag[0] = b"\1"

    def clear(self) -> None:
        self._flag[0] = b"\0"

    @property
    def is_set(self) -> bool:
        return self._flag[0] != b"\0"


def _libc() -> Any:
    return ctypes.CDLL("ucrtbase") if hasattr(ctypes, "WinDLL") else ctypes.CDLL(None)
