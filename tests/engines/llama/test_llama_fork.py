"""After a fork during a decode, the child can open a model again and exits cleanly."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from llama_cases import TRUTH, base_file


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("base", ["gemma3", "llama"])
def test_a_child_opens_anew_and_ends(base):
    script = Path(__file__).with_name("forked.py")
    arguments = [str(base_file(base)), str(TRUTH / "peft" / base / "plain")]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout.split("\n")[:-1] == ["ended"] * 3, done.stderr[-3000:]
    assert done.returncode == 0
