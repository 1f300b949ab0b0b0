"""Opens hostile files in a process of its own and says what that took.

Reads lines of JSON {name, path, opens} and prints for each one {name, seconds, bytes, code, text}:
the CPU's time, growth of the peak resident memory while it was opened (Linux; elsewhere of the
process's whole life), and the error. A process that dies or hangs is seen by its parent.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import lorakit
from lorakit.base.folder import Base
from lorakit.base.gguf import open_base
from lorakit.check import require_fit
from lorakit.errors import LorakitError
from lorakit.formats import read_adapter
from lorakit.text.tokenizer import Tokenizer

NOBODY = 65534


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Permissions do not hold for root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def locked(path: Path) -> None:
    with unprivileged():
        read_adapter(path)


@cache
def native() -> Any:
    """A model that llama.cpp runs, for adapters to be loaded into."""
    return lorakit.open(DATA / "truth" / "gguf" / "llama.base.f32.gguf", threads=1)


def run_adapter(path: Path) -> None:
    adapter = native().load_adapter(path, "hostile")
    try:
        native().complete([1, 5, 6], adapters={"hostile": 1.0}, max_tokens=2)
    finally:
        adapter.unload()


def run_base(path: Path) -> None:
    with lorakit.open(path, threads=1, context=64) as model:
        model.complete("Hello", max_tokens=2)


OPENERS: dict[str, Callable[[Path], Any]] = {
    "adapter": read_adapter,
    "fit": lambda path: require_fit(read_adapter(path), DEMO),
    "base": open_base,
    "tokenizer": Tokenizer.open,
    "locked": locked,
    "llama": run_adapter,
    "llama base": run_base,
}
DATA = Path(__file__).parents[1] / "data"
DEMO = Base.open(Path(lorakit.__file__).parent / "demo" / "base")


def measure(path: Path, opens: str) -> dict[str, Any]:
    gc.collect()
    before = reset_peak()
    start = time.process_time()
    code, text = "", ""
    try:
        OPENERS[opens](path)
    except LorakitError as error:
        code, text = error.code, str(error)
    except BaseException as error:
        code, text = f"not ours: {type(error).__name__}", str(error)[:500]
    seconds = time.process_time() - start
    return {"seconds": seconds, "bytes": peak() - before, "code": code, "text": text}


def reset_peak() -> int:
    """Resident bytes now, from which the peak counts."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    for line in sys.stdin:
        task = json.loads(line)
        found = measure(Path(task["path"]), task["opens"])
        print(json.dumps({"name": task["name"], **found}), flush=True)


if __name__ == "__main__":
    main()
