"""Whole or not at all, for files and folders; and what killed processes leave is swept."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from folders import link
from lorakit.files import atomic
from lorakit.files.atomic import (
    OTHERS_AGE,
    UNLOCKABLE_AGE,
    new_folder,
    spare_folder,
    sweep,
    write_atomic,
    write_synced,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_and_replaced(tmp_path):
    path = tmp_path / "a"
    write_atomic(path, b"one")
    write_atomic(path, lambda file: file.write(b"two"))
    assert path.read_bytes() == b"two"
    assert names(tmp_path) == ["a"]


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_a_file_has_the_permissions_of_any_new_file(tmp_path):
    write_atomic(tmp_path / "ours", b"")
    (tmp_path / "any").write_bytes(b"")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ours", "any")]
    assert modes[0] == modes[1]


def test_a_failed_file_leaves_the_old_one(tmp_path):
    path = tmp_path / "a"
    write_atomic(path, b"one")

    def fail(file):
        file.write(b"tw")
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write_atomic(path, fail)
    assert path.read_bytes() == b"one"
    assert names(tmp_path) == ["a"]


def test_a_folder_appears_when_it_is_complete(tmp_path):
    with new_folder(tmp_path / "deep/er") as temporary:
        write_synced(temporary / "a", b"1")
        assert not (tmp_path / "deep/er").exists()
    assert names(tmp_path / "deep/er") == ["a"]
    assert names(tmp_path / "deep") == ["er"]


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt()])
def test_a_failed_folder_vanishes(tmp_path, error):
    def write():
        with new_folder(tmp_path / "a") as temporary:
            write_synced(temporary / "a", b"1")
            raise error

    with pytest.raises(type(error)):
        write()
    assert names(tmp_path) == []


def test_a_folder_in_use_is_kept_unless_it_is_to_be_replaced(tmp_path):
    target = tmp_path / "a"
    target.mkdir()
    with new_folder(target) as temporary:  # empty: nothing is lost
        write_synced(temporary / "old", b"1")
    with pytest.raises(FileExistsError), new_folder(target):
        pass
    with pytest.raises(OSError, match="full"), new_folder(target, replace=True):
        raise OSError("full")
    assert names(target) == ["old"]
    with new_folder(target, replace=True) as temporary:
        write_synced(temporary / "new", b"2")
    assert names(target) == ["new"]
    assert names(tmp_path) == ["a"]


def test_a_file_in_the_way_is_kept(tmp_path):
    (tmp_path / "a").write_bytes(b"mine")
    with pytest.raises(FileExistsError), new_folder(tmp_path / "a", replace=True):
        pass
    assert (tmp_path / "a").read_bytes() == b"mine"


WRITERS = {
    "a file": """
def write(file):
    file.write(b"half")
    file.flush()
    wait()
write_atomic(place, write)
""",
    "a folder": """
with new_folder(place) as folder:
    write_synced(folder / "a", b"half")
    wait()
""",
    "a folder in another's place": """
with new_folder(place, replace=True) as folder:
    write_synced(folder / "a", b"half")
    wait()
""",
}
CHILD = """
import sys
from pathlib import Path
from lorakit.files.atomic import new_folder, spare_folder, write_atomic, write_synced
def wait():
    print("half", flush=True)
    sys.stdin.read()
place = Path(sys.argv[1])
"""
posix = pytest.mark.skipif(os.name != "posix", reason="what is open cannot be removed there")


def half_written(path, writer):
    """A process that is in the middle of writing `path`."""
    command = [sys.executable, "-c", CHILD + writer, str(path)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"half\n"
    return child


def end(child, kill):
    if kill:
        child.kill()
    child.communicate(timeout=60)
    assert (child.returncode == 0) != kill


@posix
@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_what_a_killed_process_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path, writer):
    path = tmp_path / "a"
    if writer is WRITERS["a folder in another's place"]:
        path.mkdir()
        (path / "old").write_bytes(b"kept")
    living, killed = half_written(path, writer), half_written(tmp_path / "b", WRITERS["a file"])
    end(killed, kill=True)
    temporary = [name for name in names(tmp_path) if name.endswith(".tmp")]
    assert len(temporary) == 2
    sweep(tmp_path)
    (left,) = [name for name in names(tmp_path) if name.endswith(".tmp")]
    assert left.startswith(".a.")
    end(living, kill=False)
    assert names(tmp_path) == ["a"]
    killed = half_written(path if path.is_file() else tmp_path / "c", writer)
    end(killed, kill=True)
    assert len(names(tmp_path)) == 2
    sweep(tmp_path)
    assert names(tmp_path) == ["a"]


@posix
def test_a_sweep_by_age_alone_would_leave_it_or_take_what_lives(tmp_path, monkeypatch):
    """The broken variants: without locks, what is young stays and what is old and living goes."""
    monkeypatch.setattr(atomic, "fcntl", None)
    end(half_written(tmp_path / "a", WRITERS["a file"]), kill=True)
    sweep(tmp_path)
    assert len(names(tmp_path)) == 1
    living = half_written(tmp_path / "b", WRITERS["a file"])
    (temporary,) = tmp_path.glob(".b.*")
    os.utime(temporary, (0, 0))
    monkeypatch.undo()
    sweep(tmp_path)
    assert temporary.exists()
    monkeypatch.setattr(atomic, "fcntl", None)
    sweep(tmp_path)
    assert not temporary.exists()
    living.kill()
    living.communicate()


SPARE = """
import tempfile
tempfile.tempdir = str(place)
with spare_folder() as folder:
    write_synced(folder / "a", b"half")
    wait()
"""


def test_a_spare_folder_is_ones_own_and_goes_at_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with spare_folder() as one, spare_folder() as other:
        (one / "a").write_bytes(b"x")
        assert one != other
        assert os.name != "posix" or stat.S_IMODE(one.stat().st_mode) == 0o700
    assert names(tmp_path) == []
    with pytest.raises(FileNotFoundError), spare_folder() as one:
        (one / "none").read_bytes()
    assert names(tmp_path) == []


@posix
def test_the_spare_folder_of_a_killed_process_goes_with_the_next_that_of_a_living_one_stays(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    end(half_written(tmp_path, SPARE), kill=True)
    (left,) = tmp_path.iterdir()
    living = half_written(tmp_path, SPARE)
    assert len(names(tmp_path)) == 2  # it may be another's, which is about to lock it
    for folder in tmp_path.iterdir():
        os.utime(folder, (time.time() - OTHERS_AGE - 60,) * 2)
    with spare_folder():
        assert not left.exists()
        assert len(names(tmp_path)) == 2
    end(living, kill=False)
    assert names(tmp_path) == []


def left_over(folder, name, age):
    path = folder / f".{name}.0123456789ab.tmp"
    path.write_bytes(b"half")
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_in_a_users_folder_only_what_is_old_and_of_the_same_name_goes(tmp_path):
    old, other = (left_over(tmp_path, name, OTHERS_AGE + 60) for name in ("a", "b"))
    new = left_over(tmp_path, "c", 60)
    kept = [tmp_path / name for name in (".a.tmp", ".a.0123456789.tmp", ".a.0123456789ab.TMP",
                                         "a.tmp", "..0123456789ab.tmp")]  # fmt: skip
    for path in kept:
        path.write_bytes(b"mine")
        os.utime(path, (0, 0))
    write_atomic(tmp_path / "a", b"one")
    write_atomic(tmp_path / "c", b"one")
    assert not old.exists()
    assert other.exists()
    assert new.exists()
    assert all(path.exists() for path in kept)


def test_what_nobody_can_lock_goes_by_its_age(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "fcntl", None)
    left_over(tmp_path, "a", UNLOCKABLE_AGE + 60)
    young = left_over(tmp_path, "b", UNLOCKABLE_AGE - 60)
    sweep(tmp_path)
    assert names(tmp_path) == [young.name]


@posix
def test_a_folder_that_lost_its_place_gets_it_back(tmp_path):
    """A process was killed between the two renames."""
    old = tmp_path / ".a.0123456789ab.old"
    old.mkdir()
    (old / "mine").write_bytes(b"kept")
    sweep(tmp_path)
    assert (tmp_path / "a/mine").read_bytes() == b"kept"
    shutil.copytree(tmp_path / "a", old)
    sweep(tmp_path)
    assert names(tmp_path) == ["a"]


@posix
def test_what_a_sweep_takes_before_it_is_locked_is_begun_again(tmp_path, monkeypatch):
    made = []

    def create(path):
        real(path)
        made.append(path)
        if len(made) == 1:
            path.unlink()

    real = atomic._new_file
    monkeypatch.setattr(atomic, "_new_file", create)
    write_atomic(tmp_path / "a", b"one")
    assert names(tmp_path) == ["a"]
    assert len(made) == 2


def test_a_link_in_its_place_is_not_followed(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_bytes(b"kept")
    link(tmp_path / ".a.0123456789ab.tmp", tmp_path / "mine")
    sweep(tmp_path)
    assert (tmp_path / "mine/file").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="a whole path has 260 characters there")
@pytest.mark.parametrize("name", ["a" * 255, "ü" * 127, "a" * 201])
def test_a_name_may_be_as_long_as_the_system_allows(tmp_path, name):
    write_atomic(tmp_path / name, b"one")
    with new_folder(tmp_path / "deep" / name) as temporary:
        write_synced(temporary / "a", b"1")
    with new_folder(tmp_path / "deep" / name, replace=True) as temporary:
        write_synced(temporary / "a", b"2")
    assert (names(tmp_path / "deep"), (tmp_path / "deep" / name / "a").read_bytes()) == (
        [name],
        b"2",
    )
    short = atomic._short(name)
    assert len(os.fsencode(short)) <= atomic.LONGEST
    assert short != atomic._short(name[:-1] + "b"), "names that begin alike stay two"
    left = left_over(tmp_path, short, UNLOCKABLE_AGE + 60)
    sweep(tmp_path, name=name)
    assert not left.exists()


def refusing(monkeypatch, times, **codes):
    """The next renames are refused so many times, as Windows does of a file that is in use."""
    real, left = Path.replace, [times]

    def replace(self, target):
        if left[0]:
            left[0] -= 1
            error = PermissionError(13, "no")
            vars(error).update(codes)
            raise error
        return real(self, target)

    monkeypatch.setattr(atomic, "PAUSE", 0.0)
    monkeypatch.setattr(Path, "replace", replace)
    return left


def test_what_a_scanner_has_open_for_a_moment_is_waited_for(tmp_path, monkeypatch):
    refusing(monkeypatch, 3, winerror=32)
    write_atomic(tmp_path / "a", b"one")
    assert (tmp_path / "a").read_bytes() == b"one"


def test_what_stays_open_is_an_error_that_says_so_and_nothing_is_left(tmp_path, monkeypatch):
    write_atomic(tmp_path / "a", b"one")
    refusing(monkeypatch, 1000, winerror=5)
    with pytest.raises(PermissionError, match="a program has it open"):
        write_atomic(tmp_path / "a", b"two")
    assert ((tmp_path / "a").read_bytes(), names(tmp_path)) == (b"one", ["a"])


def test_a_refusal_of_another_kind_is_final(tmp_path, monkeypatch):
    left = refusing(monkeypatch, 1000)
    with pytest.raises(PermissionError, match="no"):
        write_atomic(tmp_path / "a", b"two")
    assert left == [999]


def test_the_fault_is_told_where_the_temporary_file_cannot_be_removed(tmp_path, monkeypatch):
    def refuse(self, **_):
        raise PermissionError(13, "in use")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(ValueError, match="the fault"), monkeypatch.context():
        write_atomic(
            tmp_path / "a",
            b"one",
            verify=lambda path: (_ for _ in ()).throw(ValueError("the fault")),
        )


def test_of_two_that_make_a_folder_the_first_one_stays(tmp_path):
    """Its files may be mapped by then."""

    def both():
        with new_folder(tmp_path / "a") as slow:
            write_synced(slow / "of", b"the slow one")
            with new_folder(tmp_path / "a") as quick:
                write_synced(quick / "of", b"the quick one")

    with pytest.raises(FileExistsError, match="meanwhile"):
        both()
    assert (tmp_path / "a" / "of").read_bytes() == b"the quick one"
    assert names(tmp_path) == ["a"]


def test_where_nothing_can_be_locked_a_folder_that_lost_its_place_gets_it_back_by_its_age(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(atomic, "fcntl", None)
    path = tmp_path / "a"
    with new_folder(path) as temporary:
        write_synced(temporary / "of", b"old")
    os.utime(path, (1, 1))  # an old folder, which was only now moved

    class Killed(BaseException):
        pass

    def killed(source, target, *, real=atomic.move):
        real(source, target)
        if ".old" in target.name:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "move", killed)
        with pytest.raises(Killed), new_folder(path, replace=True) as temporary:
            write_synced(temporary / "of", b"new")
    sweep(tmp_path)
    (moved,) = tmp_path.iterdir()
    assert moved.name.endswith(".old"), "somebody may just be at it"
    os.utime(moved, (time.time() - UNLOCKABLE_AGE - 60,) * 2)
    sweep(tmp_path)
    assert (path / "of").read_bytes() == b"old"
