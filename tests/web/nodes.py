"""Node with the modules of lorakit.js: where things are, and a runner of scripts."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

SUFFIX = {"fp32": "", "fp16": "_fp16", "q8": "_quantized", "q4": "_q4", "q4f16": "_q4f16"}
ROOT = Path(__file__).parents[2]
WEB = ROOT / "src/lorakit/web"
DEMO = ROOT / "src/lorakit/demo"
MODULES = ROOT / ".node/node_modules"  # `make node`
TRANSFORMERS = MODULES / "@huggingface/transformers/dist/transformers.node.mjs"


class Node:
    """Runs scripts of this folder: a JSON value in, a JSON value out."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._folder = folder
        self._count = 0

    def run(
        self, script: str, given: Any, *, web: Path = WEB, timeout: float = 110, fails: bool = False
    ) -> Any:
        """What `node SCRIPT WEB IN OUT` writes to OUT; None if it fails and may. Else fails with
        what it printed."""
        self._count += 1
        source, target = (self._folder / f"{self._count}-{name}.json" for name in ("in", "out"))
        source.write_text(json.dumps(given), "utf-8")
        done = subprocess.run(
            [self._program, Path(__file__).with_name(script), web, source, target],
            env={**os.environ, "LORAKIT_TRANSFORMERS": str(TRANSFORMERS)},
            capture_output=True, text=True, encoding="utf-8", timeout=timeout,
        )  # fmt: skip
        if done.returncode and fails:
            return None
        assert done.returncode == 0, f"{script} failed:\n{done.stdout}\n{done.stderr}"
        return json.loads(target.read_text("utf-8"))
