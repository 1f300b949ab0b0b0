"""The demo: a tiny base that really calls tools, and three adapters trained on it.

What ships is an ordinary Hugging Face folder, ordinary PEFT folders, an evaluation set, and data of
another domain, a car's, to train an adapter on; how they were made is in scripts/demo of the
repository.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from lorakit.errors import ParameterError, SourceError, WriteError
from lorakit.files.atomic import new_folder, spare_folder
from lorakit.files.bounded import read_bounded

ADAPTERS = ("home", "shop", "style")
TRAINING = ("train", "forty", "eval")


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One line of the evaluation set: what is asked, and the exact text that must come back."""

    id: str
    domain: str
    split: str
    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] | None
    expected: str


def folder() -> Path:
    """Where the demo's files lie."""
    return Path(str(files(__name__)))


def base_path() -> Path:
    """The base, a Hugging Face folder."""
    return folder() / "base"


def adapter_path(name: str) -> Path:
    """One of ADAPTERS, a PEFT folder."""
    return folder() / "adapters" / name


def training_path(name: str) -> Path:
    """One of TRAINING, data that the base cannot do: 900 examples, 40 of them, and unseen ones."""
    return folder() / "training" / f"{name}.jsonl"


def examples(domain: str, split: str) -> list[Example]:
    """A part of the evaluation set, in its order."""
    lines = (folder() / "evaluation.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for line in lines if (row := json.loads(line))["domain"] == domain]
    return [
        Example(
            id=row["id"],
            domain=domain,
            split=split,
            messages=tuple(row["messages"]),
            tools=tuple(row["tools"]) if row["tools"] else None,
            expected=row["expected"],
        )
        for row in rows
        if row["split"] == split
    ]


def export(destination: Path) -> list[Path]:
    """Copy base, adapters and data into a new folder; returns what was written.

    Raises ParameterError where the folder exists and is not empty, WriteError where it cannot be
    written; then nothing is left behind.
    """
    from lorakit.demo import evaluation  # needs the formats of calls, and this itself

    try:
        with new_folder(destination) as temporary:
            for name in ("base", "adapters", "training"):
                shutil.copytree(folder() / name, temporary / name)
            evaluation.write(temporary / "evaluation")
    except FileExistsError as error:
        raise ParameterError(str(error), hint="name a new folder") from error
    except shutil.Error as error:  # all files that failed, with their paths
        raise WriteError(f"cannot write {destination}: {error.args[0][0][2]}") from error
    except OSError as error:
        raise WriteError(f"cannot write {destination}: {error.strerror or error}") from error
    return sorted(path for path in destination.rglob("*") if path.is_file())


def difference(folder: Path) -> str:
    """The first file in which a folder differs from what `export` writes, and how; or nothing."""
    with spare_folder() as place:
        made = place / "demo"
        own = [path.relative_to(made) for path in export(made)]
        for name in own:
            expected = (made / name).read_bytes()
            try:
                if read_bounded(folder / name, len(expected)) != expected:
                    return f"{name} differs"
            except FileNotFoundError:
                return f"{name} is not there"
            except (OSError, SourceError):
                return f"{name} is no file that can be read"
        here = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        other = next((name for name in here if name not in own), None)
    return "" if other is None else f"{other} is not of the demo"
