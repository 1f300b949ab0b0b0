"""A built wheel as a user has it: in an empty environment, without a compiler.

    python scripts/smoke.py dist

Makes an environment, installs the wheel of the folder with its llama extra from wheels alone, runs
the README's first program and compares what it prints, then runs a GGUF file with an adapter.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1].resolve()
TRUTH = ROOT / "tests/data/truth"
GGUF = """
import sys, lorakit
base, adapter = sys.argv[1:]
with lorakit.open(base, context=256) as model:
    model.load_adapter(adapter, "adapter")
    greedy = lorakit.SamplingParams(max_tokens=8, ignore_eos=True)
    plain = model.complete("Once", sampling=greedy, adapters={})
    tuned = model.complete("Once", sampling=greedy, adapters={"adapter": 1.0})
    assert plain.text != tuned.text, plain.text
    assert "site-packages" in lorakit.__file__, lorakit.__file__
    print(model.capabilities.kv_identity)
"""


def main() -> None:
    (wheel,) = Path(sys.argv[1]).resolve().glob("lorakit-*.whl")
    program, shown = first_program((ROOT / "README.md").read_text("utf-8"))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        begin = time.monotonic()
        python = environment(Path(folder) / "environment")
        run(python, folder, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
            "--only-binary=:all:", f"{wheel}[llama]")  # fmt: skip
        print(f"installed in {time.monotonic() - begin:.0f} s", flush=True)
        printed = run(python, folder, "-c", program)
        if printed != shown:
            sys.exit(f"error: the README shows\n{shown}\nbut its program prints\n{printed}")
        print(printed, end="")
        base, adapter = TRUTH / "gguf/llama.base.f32.gguf", TRUTH / "peft/llama/plain"
        print(run(python, folder, "-c", GGUF, str(base), str(adapter)), end="")
        print(run(python, folder, "-m", "lorakit", "doctor"), end="")
        print(f"done in {time.monotonic() - begin:.0f} s")


def first_program(page: str) -> tuple[str, str]:
    """The first program of a page, and its output as it is shown."""
    block = re.search(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", page, re.M | re.S)
    assert block
    return block[1], block[2]


def environment(folder: Path) -> Path:
    """The Python of a new environment with nothing but pip."""
    venv.create(folder, with_pip=True)
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def run(python: Path, folder: str, *arguments: str) -> str:
    """What a command prints, with no compiler to be found and a cache of its own."""
    path = os.pathsep.join([str(python.parent), *empty_of_compilers()])
    kept = {k: v for k, v in os.environ.items() if k not in ("CC", "CXX", "PYTHONPATH")}
    done = subprocess.run(
        [python, *arguments],
        cwd=folder, stdout=subprocess.PIPE, encoding="utf-8", check=False,
        env={**kept, "PATH": path, "LORAKIT_CACHE": str(Path(folder) / "cache"), "PYTHONUTF8": "1"},
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"error: {' '.join(arguments)[:200]} ended with {done.returncode}\n{done.stdout}")
    return done.stdout


def empty_of_compilers() -> list[str]:
    """What PATH must hold for Python itself: on Windows the system's folders, elsewhere nothing."""
    if sys.platform != "win32":
        return []
    system = os.environ["SYSTEMROOT"]
    return [system, str(Path(system) / "System32")]


if __name__ == "__main__":
    main()
