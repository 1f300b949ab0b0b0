"""What mypy says of users' programs: a good one passes, each mistake of a bad one is seen."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# Extras, if they are there: mypy would read 4,000 files of theirs, of which no program sees a type.
CONFIG = """
[mypy]
strict = true
[mypy-torch.*,transformers.*,peft.*,llama_cpp.*,xllamacpp.*]
follow_imports = skip
"""
SAID = re.compile(r"^(?:.*[/\\])?(\w+\.py):(\d+): error: (.*)$")


def checked(*files, cwd, cache):
    """What mypy says of files as of programs that use the package: (file, line) -> errors."""
    (cwd / "mypy.ini").write_text(CONFIG)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=mypy.ini", f"--cache-dir={cache}",
         "--no-error-summary", "--no-pretty", *map(str, files)],
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=100,
        cwd=cwd,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found: dict[tuple[str, int], list[str]] = {}
    for line in done.stdout.splitlines():
        if match := SAID.match(line):
            found.setdefault((match[1], int(match[2])), []).append(match[3])
    return found


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """One run for both programs."""
    folder = tmp_path_factory.mktemp("mypy")
    return checked(HERE / "typical.py", HERE / "broken.py", cwd=folder, cache=folder / "cache")


def test_typical_programs_pass(said):
    assert {place: errors for place, errors in said.items() if place[0] == "typical.py"} == {}


def wanted():
    lines = (HERE / "broken.py").read_text("utf-8").splitlines()
    marked = enumerate((line.partition("  # error: ")[2] for line in lines), 1)
    return [(number, error) for number, error in marked if error]


@pytest.mark.parametrize(("line", "error"), wanted())
def test_a_mistake_is_seen(said, line, error):
    assert [each for each in said.get(("broken.py", line), []) if error in each], said


def test_nothing_else_is_refused(said):
    lines = {number for number, _ in wanted()}
    assert {line for file, line in said if file == "broken.py"} == lines
