"""lorakit doctor: what this machine has and what lorakit makes of it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import lorakit
from lorakit.children import obstacle
from lorakit.cli.output import print_json, say, size
from lorakit.cli.references import JsonOption
from lorakit.engines.cpu import cpu_features
from lorakit.engines.torch.versions import require_versions
from lorakit.errors import EngineError, LorakitError, MissingExtraError
from lorakit.files.cache import cache_root
from lorakit.model.settings import find_settings, read_settings
from lorakit.sources import describe
from lorakit.verify.forms import FORMS, MEASURED_ON, Form

PACKAGES = ("numpy", "onnx", "onnxruntime", "tokenizers", "safetensors", "torch", "transformers",
            "peft", "xllamacpp", "llama_cpp_py_sync", "llama_cpp_python")  # fmt: skip
FEATURES = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp",
            "i8mm")  # fmt: skip


def command(json: JsonOption = False) -> None:
    """Show versions, engines, CPU features and the cache."""
    report = examine()
    if json:
        print_json(report)
        return
    for title, rows in report.items():
        say((title, "bold"))
        _print_rows(rows)


def _print_rows(rows: dict[str, Any], indent: str = "  ") -> None:
    for name, value in rows.items():
        if isinstance(value, dict):
            say(f"{indent}{name}")
            _print_rows(value, indent * 2)
        else:
            shown = ", ".join(value) if isinstance(value, list) else value
            say(f"{indent}{name:<18} {shown}")


def examine() -> dict[str, dict[str, Any]]:
    """The whole report as plain values."""
    return {
        "system": {
            "lorakit": lorakit.__version__,
            "python": f"{platform.python_version()} ({sys.executable})",
            "platform": platform.platform(),
            "preflight": _preflight(),
        },
        "packages": {name: _version(name) or "not installed" for name in PACKAGES},
        "engines": {"onnx": _onnx(), "torch": _torch(), "llama": _llama()},
        "weights": {
            **{name: _cost(form) for name, form in FORMS.items()},
            "measured": f"against float32 on {MEASURED_ON}; of yours: lorakit verify",
        },
        "cpu": {"cores": os.cpu_count(), "features": _features()},
        "cache": _cache(cache_root()),
        "settings": _settings(),
    }


def _settings() -> dict[str, Any]:
    """What run and chat take where no base is given."""
    place = find_settings(here=True)
    if place is None:
        return {"file": "none"}
    try:
        said = read_settings(place)
        base, engine = said.model()
    except LorakitError as error:
        return {"file": str(place.absolute()), "broken": " ".join(str(error).split())}
    told = {
        "file": str(said.place),
        "runtime": engine or said.runtime,
        "model": describe(base),
        "adapters": [describe(each.path, each.source) for each in said.adapters or ()],
        "fallback": describe(said.fallback or ""),
    }
    return {name: value for name, value in told.items() if value}


def _cost(form: Form) -> str:
    return f"{form.bits:.2f} bits, KL {form.kl:.2g}, same top token {form.top1:.1%}"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _onnx() -> str:
    from lorakit.engines.onnx.ort import onnxruntime  # slow to import

    try:
        providers = onnxruntime().get_available_providers()
    except MissingExtraError as error:
        return f"broken: {error.message}"
    return f"ready ({', '.join(providers)})"


def _torch() -> str:
    """From what is installed alone: importing torch takes seconds."""
    lacking = [name for name in ("torch", "transformers") if not _version(name)]
    if lacking:
        return f"needs {' and '.join(lacking)}: pip install 'lorakit[torch]'"
    try:
        require_versions("torch", "transformers")
    except MissingExtraError as error:
        return f"needs {', '.join(error.items)}: {error.hint}"
    return "installed"


def _llama() -> str | dict[str, Any]:
    """Which library, and how well it suits this CPU. A CPU with AMX is tried once."""
    from lorakit.engines.llama.build import describe_build  # loads llama.cpp

    try:
        return describe_build()
    except EngineError as error:
        said = "; ".join([error.message, *error.items[:3]])
        return f"{said} ({error.hint})" if error.hint else said


def _features() -> list[str]:
    """CPU features that decide which int8 kernels run."""
    known = cpu_features()
    found = [feature for feature in FEATURES if feature in known]
    return found or ["none of those that matter" if known else "unknown"]


def _preflight() -> str:
    """Whether files that could crash native code are tried in a child process first."""
    reason = obstacle()
    return f"skipped: {reason}" if reason else "in a child process"


def _takes_files(folder: Path) -> bool:
    """Tried, since permissions do not tell of root, /proc and read-only file systems."""
    try:
        with tempfile.TemporaryDirectory(dir=folder):
            return True
    except OSError:
        return False


def _cache(root: Path) -> dict[str, Any]:
    files = [path for path in root.rglob("*") if path.is_file()] if root.is_dir() else []
    existing = next((path for path in (root, *root.parents) if path.exists()), None)
    return {
        "folder": str(root),
        "holds": f"{len(files)} files, {size(sum(path.stat().st_size for path in files))}",
        "writable": "yes" if existing and _takes_files(existing) else "no",
    }
