"""lorakit logits: float32 logits of every position, for comparing with other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import numpy.typing as npt

from lorakit.cli.output import print_json, say
from lorakit.cli.outputs import OverwriteOption, require_folder, require_free
from lorakit.cli.reading import Reading
from lorakit.cli.references import (
    AdapterOption,
    BaseArgument,
    CalibrationOption,
    JsonOption,
)
from lorakit.cli.running import Running, open_with
from lorakit.cli.signature import option
from lorakit.errors import WriteError
from lorakit.files.atomic import write_atomic
from lorakit.verify.prompts import read_ids


def command(
    base: BaseArgument,
    ids: Annotated[str, option(help="Token ids: 1,2,3 or a .npz file with ids0, ids1, ...")],
    output: Annotated[Path, option("-o", "--output", help="The .npz file to write.")],
    adapter: AdapterOption = None,
    calibration: CalibrationOption = None,
    *,
    running: Running,
    reading: Reading,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Write the float32 logits of every position: logits0.. [tokens, vocabulary] for ids0..."""
    require_free(output, "file", overwrite=overwrite, inputs=[ids])
    sequences = read_ids(ids)
    require_folder(output)
    with open_with(base, adapter, running, reading, calibration=calibration) as model:
        arrays = {
            name.replace("ids", "logits", 1): model.logits(sequence.tolist())
            for name, sequence in sequences.items()
        }
    write_npz(output, arrays)
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    if json:
        print_json({"output": str(output), "arrays": shapes})
    else:
        say(f"wrote {output}: " + ", ".join(f"{k} {v}" for k, v in shapes.items()))


def write_npz(path: Path, arrays: dict[str, npt.NDArray[np.float32]]) -> None:
    """Write an .npz file whole or not at all."""
    try:
        target = path.resolve()  # through a link, not in its place
        if target.exists() and not target.is_file():
            raise OSError("it is not a regular file")
        named = cast("dict[str, Any]", arrays)  # numpy before 2.1 would store its new keywords too
        write_atomic(target, lambda file: np.savez(file, **named))
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from error
