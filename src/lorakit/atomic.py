"""Files and folders written whole or not at all.

Everything is written under a temporary name beside its destination, flushed to the disk, and then
renamed. A failure leaves nothing behind and the destination as it was.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_atomic(
    path: Path,
    content: bytes | Callable[[BinaryIO], object],
    verify: Callable[[Path], object] | None = None,
) -> None:
    """Write a file from bytes, or by a function that is given the open file.

    verify: called with the file under its temporary name; what it raises keeps it unpublished.
    Raises OSError, and whatever the functions raise, and leaves nothing behind.
    """
    temporary = _beside(path)
    try:
        write_synced(temporary, content)
        if verify is not None:
            verify(temporary)
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_synced(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Write a new file and flush it to the disk; for use inside `new_folder`."""
    with path.open("xb") as file:
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
    if path.is_dir() and not replace and any(path.iterdir()):
        raise FileExistsError(f"{path} exists and is not empty")
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} exists and is not a folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(path.parent)) from error
    temporary = _beside(path)
    temporary.mkdir()
    try:
        yield temporary
        _sync_folder(temporary)
        _put_in_place(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _put_in_place(temporary: Path, path: Path) -> None:
    if not path.exists():
        temporary.rename(path)
        _sync_folder(path.parent)
        return
    old = _beside(path)
    path.rename(old)
    try:
        temporary.rename(path)
    except BaseException:
        old.rename(path)
        raise
    _sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")


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
