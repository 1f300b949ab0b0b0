"""Whatever ends a run, the same call goes on from its checkpoint and gives the same bytes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="training needs the extra train")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills and limits are POSIX's")

RESUMED = {  # how the first run ended, and which step was saved last
    "killed at a step": (-9, 4),
    "killed in the first save": (-9, None),
    "killed in a later save": (-9, 2),
    "killed before the rename": (-9, 2),
    "killed at the end": (-9, 8),
    "interrupted": (130, 3),
    "full disk": (2, 2),
    "no memory": (2, 3),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    program = Path(__file__).with_name("interrupted.py")
    done = subprocess.run(
        [sys.executable, program, folder],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        start_new_session=True,  # no Ctrl-C from a terminal but the case's own
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def said(run):
    return [line if isinstance(line, str) else line["said"] for line in run["said"]]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", RESUMED)
def test_the_same_call_goes_on_and_gives_the_same_bytes(runs, case):
    run, (ended, left) = runs[case], RESUMED[case]
    assert (run["first"], run["left"], run["second"]) == (ended, left, 0)
    assert run["digest"] == runs["nothing"]["digest"]
    assert run["rest"] == ["home"]  # no checkpoint, no log, nothing of a killed save
    again = [
        f"checkpoint {step}" for step in range(0, 9, 2) if step > (-1 if left is None else left)
    ]
    assert run["said again"] == (again or ["checkpoint 8"])


@pytest.mark.timeout(600)
def test_an_uninterrupted_run_saves_at_its_times(runs):
    run = runs["nothing"]
    assert (run["first"], run["rest"]) == (0, ["home"])
    assert said(run) == [f"checkpoint {step}" for step in (0, 2, 4, 6, 8)]


@pytest.mark.timeout(600)
def test_broken_variants_are_seen(runs):
    """A resume that forgets something, and a save that is no rename."""
    assert runs["forgets the optimizer"]["second"] == 0
    assert runs["forgets the optimizer"]["digest"] != runs["nothing"]["digest"]
    torn = runs["saves in place"]
    assert torn["torn"]
    assert torn["second"] == 2
    assert torn["said again"][0]["code"] == "format_invalid"


@pytest.mark.timeout(600)
def test_a_full_disk_is_told_once_and_training_goes_on(runs):
    lines = said(runs["full disk"])
    assert sum("an earlier checkpoint is kept" in line for line in lines) == 1
    assert runs["full disk"]["said"][-1]["code"] == "write_failed"


@pytest.mark.timeout(600)
def test_out_of_memory_says_what_to_lower_and_keeps_what_was_done(runs):
    error = runs["no memory"]["said"][-1]
    assert error["code"] == "out_of_memory"
    assert "3 of 8 steps are kept in" in error["said"]
    assert "accumulate" in error["said"]
    assert "batch" in error["said"]
