"""What Windows refuses of files, refused here: `pytest -p windows_rules` runs tests under it.

An open or mapped file cannot be renamed, replaced or removed, nor can a folder with such a file in
it; a folder cannot be opened; a rename takes no existing place (a replace may); names have no
reserved characters or words; nothing is locked by flock. It holds for what lorakit itself does and
is read from /proc, so it is Linux's alone.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import lorakit
from lorakit.files import atomic, bounded

SOURCE = str(Path(lorakit.__file__).parent)
WORKERS = (
    "os.py",
    "pathlib.py",
    "_local.py",
    "_abc.py",
    "shutil.py",
    "tempfile.py",
    "contextlib.py",
)
RESERVED = re.compile(
    r'[<>:"|?*\x00-\x1f]|[. ]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.IGNORECASE
)
LONGEST = 255  # characters of a name
_active = False


def _from_lorakit() -> bool:
    """Whether lorakit asks for it, perhaps by way of the standard library's own files."""
    frame = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(SOURCE):
            return True
        if not file.startswith("<frozen") and Path(file).name not in (
            *WORKERS,
            Path(__file__).name,
        ):
            return False
        frame = frame.f_back
    return False


def in_use() -> Iterator[tuple[int, int, str]]:
    """Device, inode and path of every file that this process has open or mapped."""
    for link in list(Path("/proc/self/fd").iterdir()):
        try:
            status = os.fstat(int(link.name))
            yield status.st_dev, status.st_ino, str(link.readlink())
        except OSError:
            continue
    for line in Path("/proc/self/maps").read_text("utf-8", "replace").splitlines():
        _, _, _, device, inode, *path = line.split(None, 5)
        if path and path[0].startswith("/"):
            major, minor = (int(part, 16) for part in device.split(":"))
            yield os.makedev(major, minor), int(inode), path[0]


def _require_unused(path: str) -> None:
    try:
        status = os.lstat(path)
    except OSError:
        return
    real = os.path.realpath(path)
    for device, inode, other in in_use():
        same = inode == status.st_ino and device == status.st_dev
        if same or other.startswith(real + "/"):
            refused = PermissionError(errno.EACCES, f"it is in use ({other})", path)
            refused.winerror = 32
            raise refused


def _require_name(path: str) -> None:
    name = Path(path).name
    if RESERVED.search(name) or len(name) > LONGEST:
        raise OSError(errno.EINVAL, "Windows has no such names", path)


def _hook(event: str, args: tuple) -> None:
    if not _active or event not in _RULES or not _from_lorakit():
        return
    _RULES[event](*args)


def _path(path: object, folder: int = -1) -> str:
    text = os.fsdecode(path)
    return text if folder == -1 else str(Path(f"/proc/self/fd/{folder}").readlink() / text)


def _opened(path: object, mode: object, flags: int) -> None:
    if isinstance(path, int) or path is None:
        return
    text = _path(path)
    if text.startswith(("/dev/", "/proc/")):
        return
    if Path(text).is_dir():
        raise PermissionError(errno.EACCES, "a folder cannot be opened", text)
    if flags & os.O_CREAT:
        _require_name(text)


def _renamed(source: object, target: object, source_folder: int, target_folder: int) -> None:
    for path in (_path(source, source_folder), _path(target, target_folder)):
        _require_unused(path)
        _require_name(path)


_RULES = {
    "open": _opened,
    "os.rename": _renamed,
    "os.remove": lambda path, folder: _require_unused(_path(path, folder)),
    "os.mkdir": lambda path, mode, folder: _require_name(_path(path, folder)),
    "os.link": lambda source, target, *folders: _require_name(_path(target)),
}
sys.addaudithook(_hook)  # for the rest of the process, and idle but inside `windows_files`


def _rename(source, target, *, real=os.rename, **folders) -> None:
    if _active and _from_lorakit() and os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, "there is one", os.fsdecode(target))
    real(source, target, **folders)


@contextmanager
def windows_files() -> Iterator[None]:
    """The block's files are as on Windows."""
    global _active
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "rename", _rename)
        patch.setattr(shutil, "_use_fd_functions", False)
        patch.setattr(atomic, "fcntl", None)
        patch.setattr(atomic, "PAUSE", 0.0)
        patch.setattr(bounded, "MAX_READ", 0)  # every file is mapped
        _active = True
        try:
            yield
        finally:
            _active = False


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    with windows_files():
        return (yield)
