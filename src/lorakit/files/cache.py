"""Where lorakit keeps what it can make again: graphs, fingerprints, downloads, merged bases.

The folder is `$LORAKIT_CACHE`, else the platform's cache folder. What is in it is used only if it
is what was written: a digest is recorded beside it and compared when it is used, and what is
damaged is made again. Every write is atomic; a cache that cannot be written or is full is no error.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lorakit.errors import LorakitError, ParameterError, WriteError
from lorakit.files.atomic import sweep, write_atomic
from lorakit.files.bounded import open_regular, read_bounded
from lorakit.values import byte_count

if TYPE_CHECKING:
    import tempfile

KINDS = (
    "downloads", "fingerprints", "graphs", "kernels", "libraries", "llama", "merged", "models",
    "numerics", "projectors",
)  # fmt: skip
SEAL = ".seal"  # what the file with a file's digest is called after the file's own name
LIMIT = "LORAKIT_CACHE_LIMIT"  # what the setting of a size is called
LIMIT_FILE = "limit"  # in the cache's folder: the same, kept for later
NO_LIMIT = ("none", "off")
HOUR = 3600
MAX_LIMIT = 64  # bytes
MAX_SMALL = 1 << 16  # bytes of a seal and of what a Memo remembers
SETTLED = 2.0  # seconds after which a change of a file cannot have the time of its last one

BLOCK = 1 << 24  # bytes
THREADS = max(1, min(4, (os.cpu_count() or 1) - 1))  # one core is left to whoever waits

_swept: set[Path] = set()
_checked: dict[tuple[object, ...], str] = {}  # digests of files that this process has read


def cache_root() -> Path:
    """The cache folder, absolute; it may not exist yet."""
    try:
        if chosen := os.environ.get("LORAKIT_CACHE"):
            return Path(chosen).expanduser().absolute()
        if sys.platform == "win32":
            return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local") / "lorakit"
        if sys.platform == "darwin":
            return Path.home() / "Library/Caches/lorakit"
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lorakit"
    except RuntimeError:  # a user without a home
        return Path(os.devnull) / "lorakit"  # which cannot be written


def cache_limit() -> int | None:
    """The bytes that the cache is kept to, as `$LORAKIT_CACHE_LIMIT` says, else `set_cache_limit`.

    None, where nothing says one: then nothing is removed by itself. Raises ParameterError for what
    is no size.
    """
    said, where = os.environ.get(LIMIT), LIMIT
    if not said:
        said, where = _kept_limit(), str(cache_root() / LIMIT_FILE)
    if not said or said.strip().lower() in NO_LIMIT:
        return None
    try:
        return byte_count(said)
    except ParameterError as error:
        raise ParameterError(f"{where}: {error.message}", hint="20GB, or none") from None


def _kept_limit() -> str:
    try:
        found = read_bounded(cache_root() / LIMIT_FILE, MAX_LIMIT)
    except OSError:  # there is none, or no cache
        return ""
    except LorakitError:
        found = None
    return (found or b"?").decode("utf-8", "replace")  # which is no size, and said


def set_cache_limit(limit: int | None) -> None:
    """Keep a limit in the cache's folder, or none. Raises WriteError."""
    path = cache_root() / LIMIT_FILE
    try:
        if limit is None:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, str(limit).encode())
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from error


def sweep_cache(*, again: bool = False) -> None:
    """Remove what processes that were killed left in the cache; once in a process, or `again`."""
    root = cache_root()
    if root in _swept and not again:
        return
    _swept.add(root)
    for kind in KINDS:  # and in no other folder that a user may have there
        for folder in (root / kind, *(root / kind).glob("*/")):
            sweep(folder)


class Memo:
    """Small strings remembered on disk by key, in one subfolder of the cache."""

    def __init__(self, kind: str) -> None:
        self._folder = cache_root() / kind

    def get(self, key: str, compute: Callable[[], str]) -> str:
        path = self._folder / hashlib.sha256(key.encode()).hexdigest()
        try:
            return _unpacked(key, read_bounded(path, MAX_SMALL))
        except FileNotFoundError:
            pass
        except (OSError, ValueError, LorakitError):
            _log(f"an entry of {self._folder} is damaged or old, and is computed again")
        value = compute()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomic(path, _packed(key, value))
        except OSError as error:
            _log(f"no place in the cache for {path}: {error}")
        return value


def _packed(key: str, value: str) -> bytes:
    """A value with a digest of it and its key, so that neither a flipped bit nor another's file
    can be taken for it."""
    digest = hashlib.sha256(f"{len(key)}\0{key}\0{value}".encode()).hexdigest()
    return f"{digest} {value}".encode("ascii")


def _unpacked(key: str, content: bytes | None) -> str:
    value = (content or b"").decode("ascii")[65:]
    if content != _packed(key, value):
        raise ValueError("not what was written")
    return value


def touch(path: Path) -> None:
    """Note that an entry was used in this hour; `lorakit cache prune` goes by that."""
    with suppress(OSError):
        if abs(time.time() - path.stat().st_mtime) > HOUR:  # else a file would be read again
            os.utime(path)


# A file with its digest beside it.


@contextmanager
def cached_file(path: Path, make: Callable[[Path], object], of: str = "") -> Iterator[Path]:
    """A file of the cache whose bytes are those that were written, for use inside the block.

        with cached_file(cache_root() / "kind" / name, lambda place: write(value, place)) as file:
            native.load(file)

    make(place) writes the file, whole or not at all, and raises OSError or WriteError where it
    cannot; it is called where the cache has none, one without a seal, or a damaged one (which the
    log says). of: what `lorakit cache list` calls the file. Where the cache cannot be written, or
    is full, the file is made in a temporary folder and vanishes with the block. Raises what `make`
    raises, and WriteError where no place is left.
    """
    if is_sealed(path):
        yield path
        return
    if path.exists():
        _log(f"{path} is not what was written, and is made again")
    try:
        for place in (path, seal_of(path)):
            _clear_for_a_file(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path)
    except (OSError, WriteError) as error:
        _log(f"{path} cannot be kept ({error}): it is made for this once")
    else:
        with suppress(OSError):  # no room for a seal: used now, made again the next time
            seal(path, of)
        yield path
        return
    with _elsewhere(path.name, make) as file:
        yield file


def _clear_for_a_file(place: Path) -> None:
    """In the cache's own folders, whatever stands in a file's place goes. Raises OSError."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    elif os.path.lexists(place) and not place.is_file():
        place.unlink()


def seal(path: Path, of: str = "") -> None:
    """Record a file's digest beside it, for `is_sealed`, and what it is of. Raises OSError."""
    record = {"sha256": digest_of(path), "name": of}
    write_atomic(seal_of(path), json.dumps(record).encode())


def is_sealed(path: Path) -> bool:
    """Whether a file is there and its bytes are those that `seal` recorded.

    The whole file is read, once in a process for as long as the file system says that it is as it
    was (inode, size, times of change).
    """
    try:
        record = json.loads(read_bounded(seal_of(path), MAX_SMALL) or b"")
        return bool(record["sha256"] == digest_of(path))
    except (OSError, ValueError, TypeError, KeyError, LorakitError):
        return False


def seal_of(path: Path) -> Path:
    return path.with_name(path.name + SEAL)


def digest_of(path: Path) -> str:
    """SHA-256 of a regular file; a file that did not change since this process read it is not read
    again. Raises as `open_regular`."""
    return _digest(path, "whole", lambda file: hashlib.file_digest(file, "sha256").hexdigest())


def blocks_digest_of(path: Path) -> str:
    """The same for large files and half the time: SHA-256 over the CRC-32 of every block, which
    several threads compute. It tells damage, as that does, but not a forgery."""
    from concurrent.futures import ThreadPoolExecutor  # slow, and few ask for this

    def block(number: int) -> bytes:
        with open_regular(path) as file:
            file.seek(number * BLOCK)
            found, left, room = 0, BLOCK, memoryview(bytearray(1 << 18))
            while left and (count := file.readinto(room[:left])):
                found = zlib.crc32(room[:count], found)
                left -= count
        return found.to_bytes(4, "little")

    def compute(file: io.FileIO) -> str:
        size = os.fstat(file.fileno()).st_size
        with ThreadPoolExecutor(THREADS) as pool:
            parts = b"".join(pool.map(block, range(-(-size // BLOCK))))
        return hashlib.sha256(size.to_bytes(8, "little") + parts).hexdigest()

    return _digest(path, "blocks", compute)


def _digest(path: Path, kind: str, compute: Callable[[io.FileIO], str]) -> str:
    with open_regular(path) as file:
        before = (kind, *_identity(os.fstat(file.fileno())))
        if known := _checked.get(before):
            return known
        found = compute(file)
        after = os.fstat(file.fileno())
    changed = max(after.st_mtime, after.st_ctime)
    if (kind, *_identity(after)) == before and abs(time.time() - changed) > SETTLED:
        _checked[before] = found
    return found


def _identity(status: os.stat_result) -> tuple[int, ...]:
    """What changes with a file's bytes, as far as the file system tells."""
    return (
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    )  # fmt: skip


@contextmanager
def _elsewhere(name: str, make: Callable[[Path], object]) -> Iterator[Path]:
    """The file in a temporary folder. Raises what `make` raises, and WriteError."""
    folder = in_spare_place(name, make)
    with folder as made:
        yield Path(made) / name


def in_spare_place(name: str, make: Callable[[Path], object]) -> tempfile.TemporaryDirectory[str]:
    """A temporary folder in which `make` has written `name`: on the disk, else in memory.

    Raises what `make` raises that is no OSError or WriteError, and WriteError.
    """
    import tempfile  # slow, and this is rare

    faults = []
    for place in (None, "/dev/shm"):  # there is none everywhere
        try:
            folder = tempfile.TemporaryDirectory(  # at the end something may still map a file in it
                dir=place, prefix="lorakit-", ignore_cleanup_errors=True
            )
        except OSError as error:
            faults.append(str(error))
            continue
        try:
            make(Path(folder.name) / name)
        except BaseException as error:
            folder.cleanup()
            if not isinstance(error, (OSError, WriteError)):
                raise
            faults.append(str(error))
        else:
            return folder
    raise WriteError(
        f"there is no place for {name}, in the cache or elsewhere",
        items=faults,
        hint="LORAKIT_CACHE and TMPDIR name other places",
    )


def _log(message: str) -> None:
    import logging  # slow, and this is rare

    logging.getLogger("lorakit").warning(message)
