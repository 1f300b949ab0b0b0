"""Checkpoints: all that a run needs to go on bit-equal, in one file that is whole or not there.

A safetensors file: the adapter's parameters, the optimizer's state, the best parameters so far, and
as a tensor of JSON text which run it is of, the step, and what was measured. It is renamed into
place once it is on the disk, so that a process may be killed at any moment, also inside a save: the
file of the save before is then still there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lorakit.adapter import Array
from lorakit.errors import FormatError, ParameterError, WriteError
from lorakit.files.atomic import write_atomic
from lorakit.files.safetensors import open_safetensors, write_safetensors

KEY, VERSION = "lorakit-checkpoint", 1
AFRESH = "begin anew with resume=False"
AS_BEFORE = f"the same settings and data go on from it; with others, {AFRESH}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """A run after some steps. state: plain JSON values; tensors: float arrays by name."""

    step: int
    tensors: Mapping[str, Array]
    state: Mapping[str, Any]

    def part(self, name: str) -> dict[str, Array]:
        """The tensors under one heading, without it."""
        heading = f"{name}/"
        found = self.tensors.items()
        return {k.removeprefix(heading): v for k, v in found if k.startswith(heading)}


def checkpoint_path(output: Path) -> Path:
    """Where the checkpoint of a run lies: beside its output."""
    return output.with_name(f"{output.name}.checkpoint")


def save_checkpoint(path: Path, identity: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Write it in place of the one before. Raises WriteError; that one is then still there."""
    about = {"version": VERSION, "identity": identity} | {
        "step": checkpoint.step,
        "state": checkpoint.state,
    }
    text = np.frombuffer(json.dumps(about, sort_keys=True).encode(), np.uint8)
    tensors = {**checkpoint.tensors, KEY: text}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, lambda file: write_safetensors(file, tensors, {}))
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from error


def load_checkpoint(path: Path, identity: Mapping[str, Any]) -> Checkpoint | None:
    """The checkpoint of this run; None where there is none.

    Raises FormatError for a damaged file, ParameterError for one of a run with another base, other
    data or other settings, all of which it names.
    """
    if not path.exists():
        return None
    file = open_safetensors(path)
    try:
        about = json.loads(file.tensors[KEY].tobytes())
        version, theirs = about["version"], about["identity"]
        found = Checkpoint(
            step=about["step"],
            tensors={n: np.array(array) for n, array in file.tensors.items() if n != KEY},
            state=about["state"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{path} is no checkpoint of a training run", hint=AFRESH) from error
    other = [
        f"{name}: {theirs.get(name)!r:.200} there, {identity.get(name)!r:.200} here"
        for name in sorted({*theirs, *identity})
        if theirs.get(name) != identity.get(name)
    ]
    if version != VERSION or other:
        raise ParameterError(
            f"{path} is the checkpoint of another run", items=other, hint=AS_BEFORE
        )
    return found
