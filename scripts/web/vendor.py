"""Places transformers.js and the runtime it needs beside lorakit.js: src/lorakit/web/vendor/.

They come from npm, each file checked by the SHA-256 of vendor.json, and are not committed. What is
there already and right is not fetched again. `npm` decides where packages come from.
Licences: transformers.js Apache-2.0, onnxruntime-web MIT.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

PINNED = Path(__file__).with_name("vendor.json")
TARGET = Path(__file__).parents[2] / "src/lorakit/web/vendor"


def place(pinned: Mapping[str, Mapping[str, str]], target: Path) -> list[str]:
    """Fetch what is missing or different; returns the names of the files that were placed.

    Raises SystemExit, with nothing placed of a package whose files are not the pinned ones.
    """
    placed = []
    for package, files in pinned.items():
        wanted = {path: sha for path, sha in files.items() if not _is(target / _name(path), sha)}
        if not wanted:
            continue
        found = _fetch(package, wanted)
        for path, data in found.items():
            _write(target / _name(path), data)
            placed.append(_name(path))
    return placed


def _fetch(package: str, wanted: Mapping[str, str]) -> dict[str, bytes]:
    """The files of a package, checked."""
    npm = shutil.which("npm")
    if npm is None:
        sys.exit("npm is not installed: it comes with Node.js")
    with tempfile.TemporaryDirectory() as folder:
        packed = subprocess.run(
            [npm, "pack", package, "--silent", "--pack-destination", folder],
            cwd=folder, capture_output=True, text=True,
        )  # fmt: skip
        archives = list(Path(folder).glob("*.tgz"))
        if packed.returncode or len(archives) != 1:
            sys.exit(f"npm cannot fetch {package}:\n{packed.stderr.strip()}")
        with tarfile.open(archives[0]) as archive:
            return {path: _member(archive, package, path, sha) for path, sha in wanted.items()}


def _member(archive: tarfile.TarFile, package: str, path: str, sha: str) -> bytes:
    try:
        file = archive.extractfile(f"package/{path}")
    except KeyError:
        file = None
    data = file.read() if file else b""
    found = hashlib.sha256(data).hexdigest()
    if found != sha:
        sys.exit(f"{package}: {path} is not what is pinned: expected {sha}, found {found}")
    return data


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(data)
    partial.replace(path)


def _is(path: Path, sha: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha


def _name(path: str) -> str:
    return path.rpartition("/")[2]


if __name__ == "__main__":
    for name in place(json.loads(PINNED.read_text("utf-8")), TARGET):
        print(f"placed {TARGET / name}")
