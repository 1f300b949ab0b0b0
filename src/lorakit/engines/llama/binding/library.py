"""One library of llama.cpp: its files, loaded, and its functions by name.

llama.cpp is built as several files (llama, mtmd, ggml) that lie side by side, or all in one, as in
the extension module of xllamacpp. It does not know which library to use; libraries.py does.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lorakit.engines.llama.binding import structs
from lorakit.engines.llama.binding.functions import FOUND, LLAMA, MTMD, OPTIONAL, Prototypes
from lorakit.engines.llama.binding.layout import find_layout
from lorakit.errors import EngineError

MOST_SEQUENCES = 256  # LLAMA_MAX_SEQ in llama-cparams.h, from build 11549 back to 0.3.36's
BESIDE: tuple[str, ...] = ("mtmd", "ggml-base")  # parts, named as the file of llama is
if os.name == "nt":  # where a library does not show the functions of those that it needs
    BESIDE = (*BESIDE, "ggml")
_CPU = 0  # ggml_backend_dev_type
HINT = (
    "pip install --force-reinstall 'lorakit[llama]' installs the build that is tested; it is used "
    "where LORAKIT_LLAMA_LIB names no other"
)
_nothing = structs.llama_log_callback(lambda level, text, data: None)


class Library:
    """The files of one library, loaded."""

    def __init__(self, path: Path) -> None:
        """path: the file with llama.cpp's functions. Raises OSError if it cannot be loaded."""
        target = path.resolve() if path.is_symlink() else path
        self.path, first = _first_loaded(target, path)
        self._parts = [first]
        self.lacking: list[str] = []  # why parts beside it cannot be used
        for name in BESIDE:
            if part := _beside(name, (path, target)):
                self._load(part)

    def _load(self, part: Path) -> None:
        try:
            self._parts.append(ctypes.CDLL(str(part)))
        except OSError as error:
            self.lacking.append(f"{part.name}: {error}")

    def function(self, name: str) -> Any:
        """A new ctypes function without types; None if no part exports it."""
        for part in self._parts:
            try:
                return part[name]
            except AttributeError:
                continue
        return None

    @cached_property
    def version(self) -> str:
        """llama.cpp's own version, such as "0.6.0-dev"; empty if it does not tell."""
        function = self.function("llama_version")
        if function is None:
            return ""
        function.restype = ctypes.c_char_p
        return (function() or b"").decode("ascii", "replace")

    def silence(self) -> None:
        """Until the engine sets its own log: backends write to standard error as they begin."""
        if (function := self.function("llama_log_set")) is not None:
            function.argtypes = [structs.llama_log_callback, ctypes.c_void_p]
            function(_nothing, None)

    def system_info(self) -> str:
        """The backends and the CPU features it was built with, such as "CPU : AVX2 = 1 | "."""
        function = self.function("llama_print_system_info")
        if function is None:
            return ""
        function.restype = ctypes.c_char_p
        return (function() or b"").decode("ascii", "replace")

    def load_backends(self) -> None:
        """Of a build whose backends are files of their own: those that lie beside it, or where it
        was built to look. Raises OSError if there is none for the CPU."""
        find = self.function("ggml_backend_dev_by_type")
        load = self.function("ggml_backend_load_all_from_path")
        if find is None or load is None:
            return
        find.restype, find.argtypes = ctypes.c_void_p, [ctypes.c_int]
        load.restype, load.argtypes = None, [ctypes.c_char_p]
        for folder in (os.fsencode(self.path.parent), None):
            if not find(_CPU):
                load(folder)
        if not find(_CPU):
            raise OSError(f"it has no backend for the CPU, and {self.path.parent} holds none")

    @property
    def numbers(self) -> tuple[int, ...]:
        """The version as numbers to compare."""
        return tuple(map(int, re.findall(r"\d+", self.version)[:3]))


def _first_loaded(*paths: Path) -> tuple[Path, ctypes.CDLL]:
    """A link's target comes before the link: what it needs lies beside it, in most builds."""
    *others, last = dict.fromkeys(paths)
    for path in others:
        with suppress(OSError):
            return path, _open(path)
    return last, _open(last)


def _open(path: Path) -> ctypes.CDLL:
    if hasattr(os, "add_dll_directory"):
        os.add_dll_directory(str(path.parent))
    return ctypes.CDLL(str(path))


def _beside(name: str, paths: Iterable[Path]) -> Path | None:
    """Another part, named as the file of llama is, beside it or beside what it links to."""
    places = [
        path.with_name(path.name.replace("llama", name)) for path in paths if "llama" in path.stem
    ]
    return next((part for part in places if part not in paths and part.is_file()), None)


def bind_llama(library: Any) -> SimpleNamespace:
    """The functions of llama.h and ggml.h that are called, typed, and the types they need.

    Raises EngineError if one is missing or a struct's layout is unknown.
    """
    api = _bind(library, LLAMA)
    optional = {name: row for name, row in OPTIONAL.items() if library.function(name) is not None}
    vars(api).update(vars(_bind(library, optional)))
    if not hasattr(api, "llama_max_parallel_sequences"):
        api.llama_max_parallel_sequences = lambda: MOST_SEQUENCES
    for name in (
        "llama_token",
        "llama_pos",
        "llama_seq_id",
        "llama_log_callback",
        "llama_model_kv_override",
    ):
        setattr(api, name, getattr(structs, name))
    return api


def bind_mtmd(library: Any) -> SimpleNamespace:
    """The functions of mtmd.h and mtmd-helper.h that are called. Raises as `bind_llama` does."""
    api = _bind(library, MTMD)
    api.mtmd_input_text = structs.mtmd_input_text
    return api


def _bind(library: Any, prototypes: Prototypes) -> SimpleNamespace:
    functions = {name: library.function(name) for name in prototypes}
    missing = [name for name, function in functions.items() if function is None]
    if missing:
        raise EngineError(
            f"{library.path} lacks functions of llama.cpp that the engine needs",
            items=[*library.lacking, *missing],
            hint=HINT,
        )
    api = SimpleNamespace(**functions)
    types = _structs(library, prototypes.values())
    for name, (result, *arguments) in prototypes.items():
        functions[name].restype = types.get(result, result)
        functions[name].argtypes = [types.get(argument, argument) for argument in arguments]
    for name, kind in types.items():
        setattr(api, name, kind)
    return api


def _structs(library: Any, rows: Iterable[tuple[Any, ...]]) -> dict[Any, Any]:
    """The structs that are named in prototypes, as this library has them."""
    found = {}
    for name in sorted({kind for row in rows for kind in row if isinstance(kind, str)}):
        maker, layouts, arguments = FOUND[name]
        try:
            found[name] = find_layout(name, library.function(maker), layouts, arguments)
        except EngineError as error:
            message = f"{library.path}: {error.message}"
            raise EngineError(message, items=error.items, hint=HINT) from None
    return found
