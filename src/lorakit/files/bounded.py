"""Files opened without trusting the path or the content: regular ones, of bounded size, no wait.

A named pipe, a device or a folder in a file's place is refused at once. JSON is bounded in bytes
and in items before it is parsed, so that a small file cannot ask for much memory. Every file of a
user's is opened here, or by a module that a test of the source names with its reason.
"""

from __future__ import annotations

import io
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from lorakit.errors import FormatError, ParameterError, SourceError
from lorakit.values import shown

MAX_READ = 32 << 20  # bytes; larger files are mapped, and a mapped file must not be shortened
MAX_TEXT = 16 << 20  # bytes of prompts, tools, grammars
AGAIN = "download or copy the file again"  # what helps where a model's file is damaged
MAX_JSON_ITEMS = 300_000  # commas and brackets; a list of all tokens of a vocabulary has 262,144
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\Z)|[,\[{]', re.DOTALL)
_QUOTE = ord(b'"')
_QUOTES = 1 << 20  # up to so many quotes JSON without backslashes is cut at them: 20x as fast
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def as_path(path: str | os.PathLike[str]) -> Path:
    """A path that the system can be asked about. Raises ParameterError."""
    try:
        text = os.fspath(path)
        if isinstance(text, str) and text and "\0" not in text and os.fsencode(text):
            return Path(text)
    except (TypeError, UnicodeEncodeError):
        pass
    raise ParameterError(f"this is no path: {shown(path)}", hint="give a string or a pathlib.Path")


def open_regular(path: Path) -> io.FileIO:
    """Open a regular file for reading, unbuffered.

    Raises OSError as `open` does, and SourceError (source_unsupported) for anything else than a
    regular file; it never waits, as `open` does on a named pipe.
    """
    flags = os.O_RDONLY
    for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY", "O_NOCTTY"):
        flags |= getattr(os, name, 0)
    try:
        handle = os.open(path, flags)
    except OSError:
        _require_regular(path, path.stat().st_mode)  # a socket cannot even be opened
        raise
    try:
        _require_regular(path, os.fstat(handle).st_mode)
        return io.FileIO(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def _require_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise SourceError(f"{path} is {kind}, not a regular file", code="source_unsupported")


def read_bounded(path: Path, limit: int) -> bytes | None:
    """The bytes of a regular file, or None where there are more than `limit`.

    Raises as `open_regular`.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > limit:
            return None
        content = read_up_to(file, limit + 1)
    return content if len(content) <= limit else None


def load(path: Path, most: int | None = None) -> npt.NDArray[np.uint8]:
    """A regular file's bytes, read-only: up to `most` of them are read, more are mapped.

    most: None is MAX_READ.

    Raises as `open_regular`.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > (MAX_READ if most is None else most):
            return np.asarray(np.memmap(file, dtype=np.uint8, mode="r"))
        return np.frombuffer(read_up_to(file, size), np.uint8)


def read_text(path: Path, limit: int = MAX_TEXT) -> str:
    """A text file in UTF-8. Raises SourceError and FormatError."""
    try:
        content = read_bounded(path, limit)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    if content is None:
        raise FormatError(f"{path} is larger than {limit} bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not UTF-8 text: {error}") from error


def read_up_to(file: BinaryIO, length: int) -> bytes:
    """At most `length` bytes; fewer where the file ends."""
    parts = []
    while length > 0 and (part := file.read(min(length, 1 << 24))):
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def parse_json(content: bytes, *, items: int = MAX_JSON_ITEMS) -> Any:
    """JSON from UTF-8 bytes, with or without a byte order mark.

    Raises ValueError for what is not JSON, names a key twice in an object, is nested too deeply,
    or has more than `items` commas and opening brackets.
    """
    if count_items(content, items)[0] > items:
        raise ValueError(f"it has more than {items} items, which is the limit")
    try:
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def count_items(content: bytes, limit: int, *, per_object: int = 0) -> tuple[int, int]:
    """How many commas and opening brackets JSON has, and how many of them open an object.

    Exact up to `limit + per_object * objects`; there counting ends, with more items than that.
    """
    objects = content.count(b"{")
    items = content.count(b",") + content.count(b"[") + objects
    if items <= limit:
        return items, objects  # perhaps some stand in strings
    if b"\\" not in content and content.count(b'"') <= _QUOTES:
        outside = b"".join(content.split(b'"')[::2])
        objects = outside.count(b"{")
        return outside.count(b",") + outside.count(b"[") + objects, objects
    items = objects = strings = 0
    for token in _TOKEN.finditer(content):
        mark = token[0]
        if mark[0] == _QUOTE:
            strings += 1
        else:
            items += 1
            objects += mark == b"{"
        # at most two strings follow a comma or bracket: else it is no JSON, and not worth the time
        if items > limit + per_object * objects or strings > 2 * items + 2:
            return max(items, limit + per_object * objects + 1), objects
    return items, objects


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {twice[:80]!a} is there twice")
    return value
