"""Whether the packages of the extra `torch` are new enough, asked before one of them is imported.

An old transformers fails later, in places and words of its own. Packages that are missing, or that
came without metadata, are left to the import.
"""

from __future__ import annotations

import re
from importlib import metadata

from lorakit.errors import MissingExtraError

LOWEST = {"torch": "2.6", "transformers": "5.1", "peft": "0.21"}  # as in pyproject.toml


def require_versions(*packages: str) -> None:
    """Raises MissingExtraError that lists every one of these packages that is too old."""
    faults = []
    for package in packages:
        try:
            found = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
        if _release(found) < _release(LOWEST[package]):
            faults.append(f"{package} {LOWEST[package]} or later, found {found}")
    if faults:
        raise MissingExtraError(
            "the torch engine does not work with packages as old as those that are installed",
            items=faults,
            hint="pip install --upgrade 'lorakit[torch]'",
        )


def _release(version: str) -> tuple[int, ...]:
    """Major and minor; what is no version is taken for a new one."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return tuple(map(int, found.groups())) if found else (10**6,)
