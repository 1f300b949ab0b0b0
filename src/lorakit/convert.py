"""convert: an adapter in one format becomes the same adapter in another, exactly or not at all."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np

from lorakit.adapter import Adapter
from lorakit.base import Base
from lorakit.check import require_fit, without_unchanged
from lorakit.errors import ParameterError
from lorakit.formats import FORMATS, read_adapter

DTYPES = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}


def convert(
    source: Path, target: Path, *, to: str, base: Base | None = None, dtype: str | None = None
) -> Adapter:
    """Read an adapter and write it in the format `to` (a name in formats.FORMATS).

    base: what it is for; GGUF asks for it, the others check the adapter against it where given.
    dtype: "f32", "f16" or "bf16" for the stored values; None keeps them (GGUF: f32).
    Returns the adapter that was written. Raises ParameterError (unknown format or dtype, a target
    that exists, a base that is missing), MismatchError, SourceError, FormatError, WriteError, and
    UnsupportedError listing everything that the format cannot say; then nothing is written.
    """
    if to not in FORMATS:
        raise ParameterError(f"there is no format {to!r}", hint=f"formats: {', '.join(FORMATS)}")
    if dtype is not None and dtype not in DTYPES:
        raise ParameterError(f"there is no dtype {dtype!r}", hint=f"dtypes: {', '.join(DTYPES)}")
    row = FORMATS[to]
    if row.needs_base and base is None:
        raise ParameterError(
            f"writing {to} needs the base that the adapter is for", hint="name it with --base"
        )
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ParameterError(f"{target} exists", hint="name a new file or folder")
    adapter = read_adapter(source, base.decoder if base else None)
    if base is not None:
        require_fit(adapter, base)
        adapter = without_unchanged(adapter, base)
    if row.needs_base and base is not None:
        row.write(adapter, target, base.decoder, **({"dtype": dtype} if dtype else {}))
    else:
        row.write(adapter, target, dtype=DTYPES[dtype] if dtype else None)
    return adapter
