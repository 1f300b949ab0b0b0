"""A Hugging Face folder of a base with adapters in its weights, which transformers loads.

It is what `merge` writes, into the folder of an export: the base's files one by one, with their
index, and every tensor that no adapter touches byte for byte unless another dtype is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from lorakit.base.folder import Base
from lorakit.formats.readback import DTYPES
from lorakit.merge.merge import fill
from lorakit.merge.origin import FolderOrigin
from lorakit.merge.plan import Plan, Scaled, plan
from lorakit.merge.shards import Shard

FORMS = ("none", *DTYPES)  # none: each weight keeps its own
OnBytes = Callable[[int], None]  # written so far


def expected_bytes(base: Base, adapters: Scaled, form: str) -> int:
    """Bytes of the weight files. Raises UnsupportedError: see `write_folder`."""
    return sum(shard.size for shard in _planned(base, adapters, form)[1])


def write_folder(
    base: Base,
    adapters: Scaled,
    folder: Path,
    form: str,
    *,
    on_bytes: OnBytes | None = None,
) -> tuple[Path, ...]:
    """Write the merged model, its config and tokenizer into a folder that holds none of them.

    base: of a folder. adapters: that fit it, at their scales; there may be none. form: of FORMS.
    on_bytes: what it raises ends the export. Returns the weight files.

    Raises UnsupportedError listing what weights cannot express of the adapters, AdapterError
    (values that the dtype cannot hold), BaseModelError, FormatError and OSError.
    """
    todo, outputs = _planned(base, adapters, form)
    progress = None if on_bytes is None else lambda done, _: on_bytes(done)
    fill(folder, FolderOrigin(base), todo, outputs, _dtype(form), progress)
    return tuple(folder / shard.name for shard in outputs)


def _planned(base: Base, adapters: Scaled, form: str) -> tuple[Plan, tuple[Shard, ...]]:
    todo = plan(base, adapters)
    return todo, FolderOrigin(base).shards(todo, _dtype(form))


def _dtype(form: str) -> np.dtype[np.generic] | None:
    return None if form == "none" else DTYPES[form]
