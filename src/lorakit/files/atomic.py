"""Files and folders written whole or not at all.

Everything is written under a temporary name beside its destination, flushed to the disk, and then
renamed. A failure leaves nothing behind and the destination as it was.

A process that is killed does leave its temporary file. Each is locked by whoever writes it, and the
system lets go of a lock when its process ends, whatever ended it: what can be locked is left over,
and `sweep` removes it. A process's number would not say so, for another machine or container that
shares the folder has numbers of its own.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

if sys.platform == "win32":
    fcntl = None  # an open file cannot be removed there
else:
    import fcntl

UNLOCKABLE_AGE = 24 * 3600  # seconds after which nobody can be at a file that nobody can lock
OTHERS_AGE = 3600  # seconds for which another's folder is left alone, beside what is locked
IN_USE = (5, 32, 33)  # Windows' codes for that, but also for a file that may not be written
RETRIES, PAUSE = 10, 0.1  # and seconds between: virus scanners open new files for a moment
LONGEST = 200  # bytes of a name that a temporary one repeats; 255 is the limit of most systems
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{12}\.(?P<kind>tmp|old)", re.DOTALL)


def write_atomic(
    path: Path,
    content: bytes | Callable[[BinaryIO], object],
    verify: Callable[[Path], object] | None = None,
) -> None:
    """Write a file from bytes, or by a function that is given the open file.

    verify: called with the file under its temporary name; what it raises keeps it unpublished.
    Raises OSError, and whatever the functions raise, and leaves nothing behind.
    """
    _require_replaceable(path)
    sweep(path.parent, name=path.name, age=OTHERS_AGE)
    with _claimed(path, _new_file) as temporary:
        with temporary.open("r+b") as file:
            _write(file, content)
        if verify is not None:
            verify(temporary)
        move(temporary, path)
        _sync_folder(path.parent)


def _require_replaceable(path: Path) -> None:
    """A rename would put a file in the place of a device or a pipe, for everybody. OSError."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # none there, or the writing will say why
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "it is a device or a pipe, not a file", str(path))


def write_synced(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Write a new file and flush it to the disk; for use inside `new_folder`."""
    with path.open("xb") as file:
        _write(file, content)


def _write(file: BinaryIO, content: bytes | Callable[[BinaryIO], object]) -> None:
    if callable(content):
        content(file)
    else:
        file.write(content)
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A temporary folder that becomes `path` if the block succeeds, and vanishes if it does not.

    `replace=True` lets it take the place of an existing folder, which is kept until the new one is
    in place. Raises FileExistsError where there is one otherwise, unless it is empty.
    """
    sweep(path.parent, name=path.name, age=OTHERS_AGE)
    if path.is_dir() and not replace and any(path.iterdir()):
        raise FileExistsError(f"{path} exists and is not empty")
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} exists and is not a folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(path.parent)) from error
    with _claimed(path, Path.mkdir) as temporary:
        yield temporary
        _sync_folder(temporary)
        if not replace and path.is_dir() and any(path.iterdir()):
            raise FileExistsError(f"{path} was made by another process meanwhile")
        _put_in_place(temporary, path)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place to write a file or a folder at, which then takes that of the one at `path`.

    It has the same name, in a temporary folder beside, and is kept from `path` unless the block
    succeeds. Raises OSError.
    """
    _require_replaceable(path)
    sweep(path.parent, name=path.name, age=OTHERS_AGE)
    with _claimed(path, Path.mkdir) as temporary:
        new = temporary / path.name
        yield new
        if new.is_dir():
            _put_in_place(new, path)
        else:
            move(new, path)
            _sync_folder(path.parent)
        _remove(temporary)


def _put_in_place(temporary: Path, path: Path) -> None:
    if not path.exists():
        move(temporary, path)
        _sync_folder(path.parent)
        return
    old = _beside(path, "old")
    lock = _lock(path, wait=True)  # else a sweep could take it for what a killed process left
    try:
        with suppress(OSError):
            os.utime(path)  # its age says when it was moved, where nothing can be locked
        move(path, old)
        try:
            move(temporary, path)
        except BaseException:
            move(old, path)
            raise
        _sync_folder(path.parent)
        _remove(old)
    finally:
        _release(lock)


def move(source: Path, target: Path) -> None:
    """Rename, over a file that is there. Raises OSError.

    Windows refuses while anybody has one of them, or a file in it, open or mapped.
    """
    for left in range(RETRIES, -1, -1):
        try:
            source.replace(target)
            return
        except PermissionError as error:
            if getattr(error, "winerror", None) not in IN_USE:
                raise
            if not left:
                reason = (
                    "a program has it open, this one perhaps: close that, or choose another name"
                )
                raise PermissionError(error.errno, reason, str(target)) from error
            time.sleep(PAUSE)


@contextmanager
def _claimed(path: Path, create: Callable[[Path], object]) -> Iterator[Path]:
    """A new file or folder beside a destination, locked; removed unless the block succeeds."""
    lock = None
    while True:
        temporary = _beside(path, "tmp")
        create(temporary)
        lock = _lock(temporary, wait=True)
        if temporary.exists():  # else a sweep took it before it was locked
            break
        _release(lock)
    try:
        yield temporary
    except BaseException:
        with suppress(OSError):  # the fault is what is told
            _remove(temporary)
        raise
    finally:
        _release(lock)


@contextmanager
def spare_folder() -> Iterator[Path]:
    """A temporary folder, removed at the end; one of a killed process by the next. OSError."""
    from tempfile import gettempdir  # slow to import, and this is rare

    place = Path(gettempdir(), "lorakit")
    sweep(place.parent, name=place.name, age=OTHERS_AGE)
    with _claimed(place, _new_private) as folder:
        try:
            yield folder
        finally:
            _remove(folder)


def _new_private(path: Path) -> None:
    path.mkdir(mode=0o700)


def _new_file(path: Path) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f".{_short(path.name)}.{secrets.token_hex(6)}.{kind}")


def _short(name: str) -> str:
    """A name that leaves room for what a temporary one adds to it; a digest stands for the rest."""
    raw = os.fsencode(name)
    if len(raw) <= LONGEST:
        return name
    digest = hashlib.sha256(raw).hexdigest()[:16]
    return f"{raw[: LONGEST - 17].decode('utf-8', 'ignore')}~{digest}"


def remove_folder(path: Path) -> None:
    """Remove a folder: it vanishes at once, by a rename, or stays as it was. Raises OSError."""
    doomed = _beside(path, "tmp")
    path.rename(doomed)
    shutil.rmtree(doomed)


# What killed processes left.


def sweep(folder: Path, *, name: str | None = None, age: float = 0.0) -> None:
    """Remove temporary files and folders of writers that are gone.

    name: only those beside this destination. age: only what was not changed for so many seconds.
    A folder that was to be replaced, and lost its place to nothing, gets it back.
    """
    for path, found in _temporaries(folder):
        if name is None or found["name"] == _short(name):
            with suppress(OSError):
                _sweep_one(path, path.with_name(name or found["name"]), found["kind"], age)


def is_temporary(name: str) -> bool:
    """Whether a file's name is that of a temporary one of ours."""
    return _TEMPORARY.fullmatch(name) is not None


def _temporaries(folder: Path) -> Iterator[tuple[Path, re.Match[str]]]:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.name.startswith(".")]
    except OSError:
        return
    for name in names:
        if found := _TEMPORARY.fullmatch(name):
            yield folder / name, found


def _sweep_one(path: Path, destination: Path, kind: str, age: float) -> None:
    old = time.time() - path.lstat().st_mtime
    lock = _lock(path)
    try:
        if lock is None and old < UNLOCKABLE_AGE:
            return  # nobody can say whether somebody is at it
        if kind == "old" and not destination.exists():
            path.rename(destination)
        elif kind == "old" or old >= age:
            _remove(path)
    finally:
        _release(lock)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _lock(path: Path, *, wait: bool = False) -> int | None:
    """A handle that holds the lock of a file or folder; None where nothing can be locked.

    Raises BlockingIOError where somebody else holds it, unless it is to `wait`.
    """
    if fcntl is None:
        return None
    flags = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
    try:
        handle = os.open(path, flags | (os.O_RDONLY if path.is_dir() else os.O_RDWR))
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        os.close(handle)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return handle


def _release(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)


def _sync_folder(path: Path) -> None:
    """Make a rename durable; some systems cannot open a folder, and then there is no way to."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
