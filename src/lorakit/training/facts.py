"""lorakit.json: what is known of an adapter that was trained here, beside its weights.

It says nothing of the arithmetic, and nothing needs it to use the adapter.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

from lorakit.formats.folder import member, read_object

FACTS = "lorakit.json"
VERSION = 1


def read_facts(folder: Path) -> dict[str, Any] | None:
    """What the file of an adapter's folder holds; None where there is none.

    Raises FormatError for what is no JSON object, SourceError where it cannot be read.
    """
    path = member(folder, FACTS) if folder.is_dir() else None
    return None if path is None else read_object(path)


def lorakit_version() -> str:
    """Of the package that is installed; empty where it came without metadata."""
    try:
        return metadata.version("lorakit")
    except metadata.PackageNotFoundError:
        return ""
