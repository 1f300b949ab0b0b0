"""A program frozen by PyInstaller, without a word from its author: models, adapters, preflight.

Built where PyInstaller is installed, in most of a minute; what its hook says is checked everywhere.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from folders import DATA
from lorakit._pyinstaller import get_hook_dirs

GGUF = DATA / "truth/gguf"
PROGRAM = """
import sys
print("it begins", flush=True)
import lorakit
from lorakit import demo
from lorakit.cli.doctor import examine
with lorakit.open(demo.base_path(), threads=1) as model:
    before = model.complete("turn the lights off", max_tokens=8).text
    model.load_adapter(demo.adapter_path("home")).apply()
    assert model.complete("turn the lights off", max_tokens=8).text != before
for base, adapter in zip(sys.argv[1::2], sys.argv[2::2]):
    with lorakit.open(base, threads=1) as model:
        model.load_adapter(adapter).apply()
        model.complete("hello", max_tokens=4)
print(examine()["system"]["preflight"], sorted(name for name in sys.modules if name == "torch"))
"""
HOOKS = Path(get_hook_dirs()[0])


def test_the_hook_runs_before_the_program_and_is_where_pyinstaller_looks():
    assert (HOOKS / "hook-lorakit.py").is_file()
    found = ast.literal_eval((HOOKS / "rthooks.dat").read_text("utf-8"))
    (name,) = found["lorakit"]
    text = (HOOKS / "rthooks" / name).read_text("utf-8")
    assert "from lorakit.children import freeze_support\n\nfreeze_support()\n" in text


def test_a_frozen_program_runs_models_and_tries_files_in_its_own_children(tmp_path):
    pytest.importorskip("PyInstaller", reason="it freezes the program")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, "utf-8")
    build = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level", "WARN", program]
    subprocess.run(build, check=True, cwd=tmp_path, timeout=600)
    (built,) = (tmp_path / "dist/program").glob("program*")
    files = [GGUF / "gemma3.base.f32.gguf", GGUF / "gemma3.plain.f16.gguf"]
    done = subprocess.run([built, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "it begins\nin a child process []\n"
