"""What was typed before: the newest entries in a file that nobody else can read.

The file is `$LORAKIT_HISTORY` ("off": none), else `history` in the system's folder for such things.
Each line of it is one entry as JSON; entries may have several lines.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import BinaryIO

from lorakit.errors import SourceError
from lorakit.files.atomic import write_atomic
from lorakit.files.bounded import read_bounded

SETTING = "LORAKIT_HISTORY"
OFF = ("off", "0", "no", "none")
ENTRIES = 1000
MAX_ENTRY = 16 << 10  # characters; a longer one is not kept
MAX_FILE = 4 << 20  # bytes; the oldest entries go first


def history_path() -> Path | None:
    """Where the history is kept; None for nowhere."""
    if chosen := os.environ.get(SETTING):
        return None if chosen.lower() in OFF else Path(chosen).expanduser().absolute()
    try:
        return _state_folder() / "lorakit" / "history"
    except RuntimeError:  # a user without a home
        return None


def _state_folder() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local")
    if sys.platform == "darwin":
        return Path.home() / "Library/Application Support"
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state")


class HistoryFile:
    """The entries of a file. Two chats may write to it: each reads it again before it adds."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[str]:
        """The entries, oldest first; lines that are none are left out. Raises OSError."""
        try:
            raw = read_bounded(self.path, 2 * MAX_FILE) or b""
        except FileNotFoundError:
            return []
        except SourceError as error:  # a folder, a pipe
            raise OSError(error.message) from error
        return [entry for line in raw.splitlines() if (entry := _entry(line)) is not None]

    def add(self, entry: str) -> None:
        """Keep an entry. Raises OSError."""
        if len(entry) > MAX_ENTRY:
            return
        lines = [json.dumps(each) for each in [*self.read(), entry][-ENTRIES:]]
        while sum(map(len, lines)) + len(lines) > MAX_FILE:
            del lines[: len(lines) // 2]
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        content = "".join(f"{line}\n" for line in lines).encode()

        def write(file: BinaryIO) -> None:
            Path(file.name).chmod(0o600)  # before there is anything to read
            file.write(content)

        write_atomic(self.path, write)


def _entry(line: bytes) -> str | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, str) else None
