"""The notes of a release: its section of CHANGELOG.md. A tag that fits neither ends in an error.

python scripts/release_notes.py v0.1.0
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def notes(tag: str, changelog: str, version: str) -> str:
    """Raises ValueError where the tag is not the version's, or the version has no dated section."""
    if tag != f"v{version}":
        raise ValueError(f"the tag is {tag}, and the package is {version}")
    heading = rf"^## {re.escape(version)} - \d{{4}}-\d\d-\d\d$"
    found = re.search(rf"{heading}\n(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"CHANGELOG.md has no dated section {version}")
    return found[1].strip() + "\n"


def main() -> None:
    source = (ROOT / "src/lorakit/__init__.py").read_text("utf-8")
    version = re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)
    assert version
    try:
        text = notes(sys.argv[1], (ROOT / "CHANGELOG.md").read_text("utf-8"), version[1])
    except ValueError as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
