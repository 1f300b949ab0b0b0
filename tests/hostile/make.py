"""Every hostile file: write them all, or open each one in another process and print what it took.

python tests/hostile/make.py DIR
python tests/hostile/make.py --report [part of a name]
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import base_cases as base_cases
import gguf_cases as gguf_cases
import json_cases as json_cases
import mlx_cases as mlx_cases
import ort_cases as ort_cases
import part_cases as part_cases
import peft_cases as peft_cases
import place_cases as place_cases
import web_cases as web_cases
from cases import CASES, Case

HERE = Path(__file__).parent
PATIENCE = 90.0  # seconds until a process counts as hung


def write(case: Case, folder: Path) -> Path:
    """Write a case below a folder; what is to be opened. Raises OSError where it cannot be."""
    path = folder / case.name
    case.write(path)
    return path / case.at if case.at else path


class Child:
    """A process that opens what it is told to; it is started anew when it dies or hangs."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def open(self, name: str, path: Path, opens: str) -> dict[str, Any]:
        if self._process is None:
            self._process = self._start()
        process, task = self._process, {"name": name, "path": str(path), "opens": opens}
        assert process.stdin is not None
        process.stdin.write(json.dumps(task) + "\n")
        process.stdin.flush()
        try:
            line = self._lines.get(timeout=PATIENCE)
        except queue.Empty:
            line = ""
        if line:
            found: dict[str, Any] = json.loads(line)
            return found
        process.kill()
        state = process.wait()
        self._process = None
        return {"name": name, "seconds": PATIENCE, "bytes": 0, "code": f"ended {state}", "text": ""}

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(HERE / "child.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        lines = self._lines = queue.SimpleQueue()

        def pump() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                lines.put(line)
            lines.put("")  # it has ended

        threading.Thread(target=pump, daemon=True).start()
        return process

    def close(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait()
            self._process.stdout.close() if self._process.stdout else None


def report(cases: Iterable[Case]) -> Iterator[str]:
    child = Child()
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        for case in cases:
            found = child.open(case.name, write(case, Path(name)), case.opens)
            right = found["code"] in case.code.split("|") and case.words in found["text"]
            first = found["text"].replace(name, "").replace("\n", " ")[:100]
            yield (
                f"{'' if right else 'WRONG ':6}{case.name:44} {found['seconds'] * 1000:8.1f} ms "
                f"{found['bytes'] / (1 << 20):7.1f} MiB  {found['code']:20} {first}"
            )
    child.close()


def main() -> None:
    if sys.argv[1:2] == ["--report"]:
        part = "".join(sys.argv[2:])
        for line in report(case for case in CASES.values() if part in case.name):
            print(line, flush=True)
        return
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    for case in CASES.values():
        write(case, target)


if __name__ == "__main__":
    main()
