"""Install llama-cpp-python, compiled once per machine: it is used instead of the prebuilt library.

    .venv/bin/python scripts/build_llama.py

There is no wheel of it to download, and pip's own cache forgets which compiler made one. So the
wheel is kept by version, compiler and CPU. CC and CXX choose the compiler; without them it is clang
where there is one: GCC 12's AMX kernels crash (docs/llama.md).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

PACKAGE, VERSION = "llama-cpp-python", "0.3.36"  # that lorakit is tested with
ROOT = Path(__file__).parents[1]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
COMPILERS = (("clang", "clang++"), ("gcc", "g++"), ("cc", "c++"))
SILENCE = 60  # seconds between two signs of life


def main() -> None:
    if installed() == VERSION:
        return
    c, cpp = compiler()
    folder = cache() / key(c)
    wheel = next(folder.glob("*.whl"), None) or build(folder, c, cpp)
    print(f"installing {wheel.name} from {folder}", flush=True)
    options = ("--quiet", "--constraint", str(ROOT / "constraints.txt"))
    subprocess.run([*PIP, "install", *options, str(wheel)], check=True)
    check = "from lorakit.engines.llama.native import chosen; print('used:', chosen().candidate)"
    subprocess.run([sys.executable, "-c", check], check=True)


def installed() -> str | None:
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None


def compiler() -> tuple[str, str]:
    """The C and the C++ compiler to use."""
    if os.environ.get("CC") and os.environ.get("CXX"):
        return os.environ["CC"], os.environ["CXX"]
    found = next((pair for pair in COMPILERS if all(map(shutil.which, pair))), None)
    if found is None:
        fail("llama.cpp is compiled here, and there is no C++ compiler: install clang, or g++")
    return found


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lorakit-wheels"


def key(compiler: str) -> str:
    """Code is made for the CPU of this machine, which a home folder need not stay on."""
    said = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    try:
        lines = Path("/proc/cpuinfo").read_text("ascii", "replace").splitlines()
        cpu = next(line for line in lines if line.lower().startswith(("flags", "features")))
    except (OSError, StopIteration):
        cpu = platform.processor()
    about = "\n".join([platform.platform(), said.stdout, cpu, os.environ.get("CMAKE_ARGS", "")])
    name = Path(compiler).name
    return f"{PACKAGE}-{VERSION}-{name}-{hashlib.sha256(about.encode()).hexdigest()[:12]}"


def build(folder: Path, c: str, cpp: str) -> Path:
    """Compile the wheel into its folder of the cache, whole or not at all."""
    requirement = f"{PACKAGE}=={VERSION}"
    print(
        f"compiling llama.cpp ({requirement}) with {c}: about ten minutes on two cores, once;\n"
        f"it is kept in {folder}",
        flush=True,
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        log = Path(place) / "log"
        command = [*PIP, "wheel", "--no-deps", "--no-cache-dir", "--no-binary", PACKAGE,
                   "--verbose", "--wheel-dir", f"{place}/wheel", requirement]  # fmt: skip
        with log.open("wb") as output:
            code = wait(command, output, {**os.environ, "CC": c, "CXX": cpp})
        if code:
            print("\n".join(log.read_text("utf-8", "replace").splitlines()[-25:]), file=sys.stderr)
            fail(f"llama.cpp could not be compiled with {c}; the end of its log is above")
        shutil.rmtree(folder, ignore_errors=True)
        Path(place, "wheel").rename(folder)
    return next(folder.glob("*.whl"))


def wait(command: list[str], output, environment: dict[str, str]) -> int:
    """Run a long command, with a line every minute."""
    begun = time.monotonic()
    process = subprocess.Popen(
        command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment
    )
    try:
        while True:
            try:
                return process.wait(SILENCE)
            except subprocess.TimeoutExpired:
                print(f"  compiling, {(time.monotonic() - begun) / 60:.0f} min", flush=True)
    finally:
        if process.poll() is None:  # Ctrl-C
            process.terminate()
            process.wait()


def fail(message: str) -> NoReturn:
    print(f"error: {message}\n`make test` needs no compiler", file=sys.stderr)
    raise SystemExit(1)


if __name__ == "__main__":
    main()
