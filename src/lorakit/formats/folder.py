"""Files of an adapter folder, opened without trusting the folder.

A name is a fixed file name, never a path from a file's content. A link may not lead out of the
folder, except into the blob store of a Hugging Face cache, which keeps every file that way.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lorakit.errors import FormatError, SourceError
from lorakit.files.bounded import AGAIN, parse_json, read_bounded
from lorakit.files.pointers import refuse_pointer

MAX_NAME = 512  # characters of a tensor's name
MAX_WEIGHTS = 64 << 30  # bytes; rank 256 on all linears of a model of 405B parameters are 20 GB
MAX_JSON = 16 << 20  # bytes; the largest adapter configs, with a pattern per expert, are about 2 MB


def member(folder: Path, name: str) -> Path | None:
    """The regular file `name` of a folder, or None where there is none.

    Raises FormatError where it is a link that leads out of the folder, or no regular file.
    """
    path = folder / name
    if not path.is_symlink() and not path.exists():
        return None
    try:
        target = path.resolve()
        exists = target.exists()
    except (OSError, RuntimeError) as error:  # a link to itself, by Python version
        raise FormatError(f"{path} is a link that leads nowhere: {error}") from error
    if not (target.is_relative_to(folder.resolve()) or _in_hub_cache(folder, target)):
        raise FormatError(
            f"{path} is a link that leads out of its folder",
            items=[f"{name} points to {target}"],
            hint="copy the file itself into the folder",
        )
    if not exists:
        return None
    if not target.is_file():
        raise FormatError(f"{path} is not a regular file")
    return path


def _in_hub_cache(folder: Path, target: Path) -> bool:
    """Whether both are of one repository of a Hugging Face cache: snapshots/<rev>/.. and blobs/."""
    parents = [folder.absolute(), *folder.absolute().parents]
    roots = [path.parent for path in parents if path.name == "snapshots"]
    return any(target.is_relative_to((root / "blobs").resolve()) for root in roots)


def is_name(name: str) -> bool:
    """Whether it can name a tensor: printable ASCII of bounded length.

    Modules are Python identifiers; letters of other scripts only look like those of a base.
    """
    return len(name) <= MAX_NAME and name.isascii() and name.isprintable()


def read_object(path: Path, *, limit: int = MAX_JSON) -> dict[str, Any]:
    """The JSON object in a file of at most `limit` bytes.

    Raises SourceError where it cannot be read and FormatError where it is not such an object.
    """
    try:
        content = read_bounded(path, limit)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    if content is None:
        raise FormatError(f"{path} is larger than {limit} bytes", hint="this is no adapter config")
    refuse_pointer(content[:64], path)
    try:
        value = parse_json(content)
    except ValueError as error:
        raise FormatError(f"{path} is not valid JSON: {error}", hint=AGAIN) from error
    if not isinstance(value, dict):
        raise FormatError(f"{path} must hold a JSON object, found {_kind(value)}")
    return value


def _kind(value: object) -> str:
    names = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
