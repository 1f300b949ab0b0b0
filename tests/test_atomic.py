"""Whole or not at all, for files and folders."""

import os
import stat

import pytest

from lorakit.atomic import new_folder, write_atomic, write_synced


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
