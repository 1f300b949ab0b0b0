"""lorakit logits: float32 logits of every position, for comparing with other tools."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt

from lorakit.cli.output import console, print_json
from lorakit.cli.references import (
    AdapterOption,
    BaseArgument,
    DeviceOption,
    EngineOption,
    JsonOption,
    PrivateOption,
    QuantizeOption,
    ThreadsOption,
    open_with,
)
from lorakit.cli.signature import option
from lorakit.errors import FormatError, ParameterError, WriteError
from lorakit.files.atomic import write_atomic
from lorakit.files.npz import read_npz

_NUMBERED = re.compile(r"ids[0-9]{1,9}")
Ids = dict[str, npt.NDArray[np.int64]]


def command(
    base: BaseArgument,
    ids: Annotated[str, option(help="Token ids: 1,2,3 or a .npz file with ids0, ids1, ...")],
    output: Annotated[Path, option("-o", "--output", help="The .npz file to write.")],
    adapter: AdapterOption = None,
    engine: EngineOption = None,
    quantize: QuantizeOption = "none",
    threads: ThreadsOption = None,
    device: DeviceOption = None,
    allow_private: PrivateOption = False,
    json: JsonOption = False,
) -> None:
    """Write the float32 logits of every position: logits0.. [tokens, vocabulary] for ids0..."""
    sequences = read_ids(ids)
    if not output.parent.is_dir():
        raise ParameterError(f"there is no folder {output.parent} to write {output.name} into")
    with open_with(
        base,
        adapter,
        engine=engine,
        quantize=quantize,
        threads=threads,
        device=device,
        allow_private=allow_private,
    ) as model:
        arrays = {
            name.replace("ids", "logits", 1): model.logits(sequence.tolist())
            for name, sequence in sequences.items()
        }
    write_npz(output, arrays)
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    if json:
        print_json({"output": str(output), "arrays": shapes})
    else:
        console.print(f"wrote {output}: " + ", ".join(f"{k} {v}" for k, v in shapes.items()))


def read_ids(source: str) -> Ids:
    """Token sequences from "1,2,3" or from the arrays ids0, ids1, ... of an .npz file."""
    if not source.endswith(".npz"):
        try:
            return {"ids0": np.array([int(part) for part in source.split(",")], np.int64)}
        except (ValueError, OverflowError) as error:
            raise ParameterError(
                f"--ids takes numbers (1,2,3) or an .npz file, not {source!r}"
            ) from error
    found = read_npz(Path(source))
    names = [name for name in found if _NUMBERED.fullmatch(name)]
    arrays = {name: found[name] for name in sorted(names, key=lambda name: int(name[3:]))}
    if not arrays:
        raise FormatError(f"{source} holds no arrays ids0, ids1, ...")
    for name, array in arrays.items():
        if array.ndim != 1 or array.dtype.kind not in "iu" or not array.size:
            raise FormatError(
                f"{source}: {name} must be a sequence of integers, "
                f"found {array.dtype} {list(array.shape)}"
            )
    return {name: array.astype(np.int64) for name, array in arrays.items()}


def write_npz(path: Path, arrays: dict[str, npt.NDArray[np.float32]]) -> None:
    """Write an .npz file whole or not at all."""
    try:
        target = path.resolve()  # through a link, not in its place
        if target.exists() and not target.is_file():
            raise OSError("it is not a regular file")
        write_atomic(target, lambda file: np.savez(file, allow_pickle=False, **arrays))
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from error
