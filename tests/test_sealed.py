"""Files of the cache with their digest beside them: damage heals, a full disk is no error."""

import errno
import logging
import os
import time

import pytest

import lorakit.files.cache
from lorakit.errors import WriteError
from lorakit.files.cache import cached_file, digest_of, is_sealed, seal_of

CONTENT = bytes(range(256)) * 40


class Making:
    """Writes CONTENT, and counts how often."""

    def __init__(self):
        self.count = 0

    def __call__(self, place):
        self.count += 1
        place.write_bytes(CONTENT)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache/kind/file.bin"


def use(path, make):
    with cached_file(path, make) as file:
        return file, file.read_bytes()


def test_a_file_is_made_once(path):
    make = Making()
    assert [use(path, make) for _ in range(2)] == [(path, CONTENT)] * 2
    assert make.count == 1


def flip(path, at=-1):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def same_size_and_time(path):
    before = path.stat()
    flip(path, 1000)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


DAMAGE = {
    "a flipped bit": flip,
    "a flipped bit, size and time of writing as before": same_size_and_time,
    "truncated": lambda path: os.truncate(path, 100),
    "empty": lambda path: os.truncate(path, 0),
    "longer": lambda path: path.write_bytes(CONTENT + b"\0"),
    "gone": lambda path: path.unlink(),
    "a flipped bit in the seal": lambda path: flip(seal_of(path), 20),
    "half a seal": lambda path: os.truncate(seal_of(path), 30),
    "a seal that is a list": lambda path: seal_of(path).write_text("[]"),
    "no seal": lambda path: seal_of(path).unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damage_heals(path, damage, caplog):
    make = Making()
    use(path, make)
    damage(path)
    with caplog.at_level(logging.WARNING, "lorakit"):
        assert use(path, make) == (path, CONTENT)
    assert make.count == 2
    assert len(caplog.records) == (0 if damage is DAMAGE["gone"] else 1)
    assert is_sealed(path)
    use(path, make)
    assert make.count == 2


def test_a_check_by_size_would_not_see_it(path, monkeypatch):
    """The broken variant: what was there before, and takes the damage for the file."""
    make = Making()
    use(path, make)
    flip(path)
    monkeypatch.setattr(
        lorakit.files.cache, "is_sealed", lambda p: p.stat().st_size == len(CONTENT)
    )
    assert use(path, make)[1] != CONTENT


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX's")
def test_a_named_pipe_in_its_place_is_no_file(path):
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    assert not is_sealed(path)
    os.mkfifo(seal_of(path))
    assert not is_sealed(path)


def test_a_file_is_read_once_while_it_is_as_it_was(path, monkeypatch):
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    reads = []
    real = lorakit.files.cache.hashlib.file_digest
    monkeypatch.setattr(
        lorakit.files.cache.hashlib, "file_digest", lambda *args: reads.append(1) or real(*args)
    )
    digest_of(path), digest_of(path)
    assert len(reads) == 2  # just written: another change might have the same time
    monkeypatch.setattr(time, "time", lambda: path.stat().st_ctime + 10)
    first = digest_of(path), digest_of(path)
    assert len(reads) == 3
    flip(path)
    assert digest_of(path) not in first
    assert len(reads) == 4


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "full"), WriteError("full")])
def test_a_full_cache_costs_the_file_once(path, fault, caplog):
    def make(place):
        if place == path:
            raise fault
        place.write_bytes(CONTENT)

    file, content = use(path, make)
    assert content == CONTENT
    assert file != path
    assert not file.exists()
    assert "for this once" in caplog.text


def test_a_cache_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert use(tmp_path / "file/kind/x", Making())[1] == CONTENT


def test_no_place_at_all_is_one_error(path):
    def make(place):
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(WriteError, match="no place") as caught:
        use(path, make)
    assert all("full" in item for item in caught.value.items)


def test_no_room_for_the_seal_is_no_error(path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(lorakit.files.cache, "write_atomic", full)
    make = Making()
    assert [use(path, make) for _ in range(2)] == [(path, CONTENT)] * 2
    assert make.count == 2


def test_what_the_block_raises_is_not_taken_for_a_full_disk(path):
    make = Making()
    with pytest.raises(OSError, match="mine"), cached_file(path, make):
        raise OSError("mine")
    assert make.count == 1


def test_a_folder_in_a_files_place_goes(tmp_path):
    path = tmp_path / "kind" / "name"
    (path / "inside").mkdir(parents=True)
    for _ in range(2):
        with cached_file(path, lambda place: place.write_bytes(b"content")) as found:
            assert found == path
            assert found.read_bytes() == b"content"
    assert is_sealed(path)
