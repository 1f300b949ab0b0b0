"""An adapter's own tokenizer and templates, which a merged folder gets in place of the base's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from lorakit.files.atomic import write_synced
from lorakit.files.bounded import read_bounded
from lorakit.formats.folder import member
from lorakit.merge.folder import MAX_COMPANION, companions_in

OF_TEXT = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "chat_template.*"),
)
Files = tuple[tuple[str, bytes], ...]


def brought_by(folders: Sequence[Path]) -> tuple[Files, str]:
    """The files of the only adapter that brings some, or of all that bring the same; and a note
    where they differ, so that the base's stay."""
    found = {files for folder in folders if (files := _brought(folder))}
    if len(found) > 1:
        return (), "the adapters bring different tokenizers or templates: the base's are written"
    return (found.pop() if found else ()), ""


def _brought(folder: Path) -> Files:
    if not folder.is_dir() or member(folder, "adapter_config.json") is None:
        return ()
    return tuple(
        (name, content)
        for name, content in companions_in(folder)
        if any(fnmatchcase(name, pattern) for pattern in OF_TEXT)
    )


def write_brought(folder: Path, files: Files) -> tuple[str, ...]:
    """Write those that differ from what is there; returns their names. Raises OSError."""
    changed = differing(folder, files)
    for name, content in files:
        if name in changed:
            (folder / name).unlink(missing_ok=True)
            write_synced(folder / name, content)
    return changed


def differing(folder: Path, files: Files) -> tuple[str, ...]:
    """Names of those that say something else than the folder's own."""
    return tuple(name for name, content in files if not _is_there(folder / name, content))


def _is_there(path: Path, content: bytes) -> bool:
    there = read_bounded(path, MAX_COMPANION) if path.is_file() else None
    return there is not None and _same(there, content)


def _same(one: bytes, other: bytes) -> bool:
    if one.strip() == other.strip():
        return True
    try:
        return bool(json.loads(one) == json.loads(other))
    except (ValueError, RecursionError):
        return False
