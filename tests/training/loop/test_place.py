"""One place is one run's: a second one is refused at once, and a killed one keeps nobody out."""

import subprocess
import sys

import pytest

from lorakit.errors import ParameterError, WriteError
from lorakit.training import place as module
from lorakit.training.place import reserved

HOLD = """
import sys
from pathlib import Path
from lorakit.training.place import reserved
with reserved(Path(sys.argv[1]), overwrite=False):
    print("held", flush=True)
    sys.stdin.readline()
"""


def left(folder):
    return sorted(file.name for file in folder.iterdir())


def holder(place):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    return process


def enter(place, **options):
    with reserved(place, **{"overwrite": False, **options}):
        pass


def test_a_second_run_is_refused_and_the_first_goes_on(tmp_path):
    with reserved(tmp_path / "a", overwrite=False):
        with pytest.raises(ParameterError, match="another run is training") as caught:
            enter(tmp_path / "a")
        assert caught.value.code == "output_busy"
        with pytest.raises(ParameterError):  # and a third, for the second took nothing away
            enter(tmp_path / "a", overwrite=True)
        enter(tmp_path / "b")
    enter(tmp_path / "a")
    assert left(tmp_path) == []


def test_a_lock_that_locks_nothing_is_seen(tmp_path, monkeypatch):
    """The broken variant: both get in."""
    monkeypatch.setattr(module.FileLock, "acquire", lambda self, timeout: None)
    with reserved(tmp_path / "a", overwrite=False):
        enter(tmp_path / "a")


def test_another_process_has_it_until_it_ends_however_it_does(tmp_path):
    process = holder(tmp_path / "a")
    with pytest.raises(ParameterError) as caught:
        enter(tmp_path / "a")
    assert caught.value.code == "output_busy"
    process.kill()
    process.communicate()
    assert left(tmp_path) == ["a.lock"]  # which a killed process cannot take away
    enter(tmp_path / "a")
    assert left(tmp_path) == []


def test_what_ended_in_between_is_seen(tmp_path, monkeypatch):
    """A run that writes the adapter between the first look and the lock."""
    acquire = module.FileLock.acquire

    def late(self, timeout):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "adapter_config.json").write_text("{}")
        return acquire(self, timeout=timeout)

    monkeypatch.setattr(module.FileLock, "acquire", late)
    with pytest.raises(ParameterError, match="not empty"):
        enter(tmp_path / "a")


def test_folders_are_made_for_it_and_taken_away_again(tmp_path):
    enter(tmp_path / "deep" / "deeper" / "a")
    assert left(tmp_path) == []
    with reserved(tmp_path / "deep" / "a", overwrite=False):
        (tmp_path / "deep" / "a").mkdir()
    assert left(tmp_path / "deep") == ["a"]
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="cannot write"):
        enter(tmp_path / "file" / "a")
