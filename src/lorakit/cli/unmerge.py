"""lorakit unmerge: adapters out of the weights that they were merged into."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated

from lorakit.adapter import Adapter
from lorakit.cli.merge import DtypeOption, FolderOption, MergedAdapters, read, show
from lorakit.cli.output import size
from lorakit.cli.outputs import OverwriteOption, require_free, written
from lorakit.cli.progress import Percent
from lorakit.cli.reading import Reading
from lorakit.cli.references import (
    JsonOption,
    PrivateOption,
    open_base,
    scaled,
)
from lorakit.cli.signature import argument, option
from lorakit.errors import MismatchError
from lorakit.merge import unmerge

_DIGEST = re.compile(r"\b[0-9a-f]{12} at ")


def command(
    merged: Annotated[str, argument(metavar="MERGED", help="A merged model folder.")],
    adapter: MergedAdapters,
    output: FolderOption,
    dtype: DtypeOption = None,
    force: Annotated[
        bool, option("--force", help="Also what no lorakit.json in MERGED says is in it.")
    ] = False,
    *,
    reading: Reading,
    overwrite: OverwriteOption = False,
    allow_private: PrivateOption = False,
    json: JsonOption = False,
) -> None:
    """Write what a merged model was before, given the same adapters and scales."""
    inputs = [merged, *(scaled(each).path for each in adapter)]
    require_free(output, "model", overwrite=overwrite, inputs=inputs)
    opened = open_base(merged, allow_private=allow_private)
    adapters = read(adapter, opened, reading, allow_private=allow_private)
    with (
        _by_name(adapter, adapters),
        Percent(of=size) as progress,
        written(output, "model", overwrite=overwrite) as place,
    ):
        report = unmerge(opened, adapters, place, dtype=dtype, force=force, progress=progress)
    show(replace(report, target=output), json=json)


@contextmanager
def _by_name(
    references: Sequence[str], adapters: Sequence[tuple[Adapter, float]]
) -> Iterator[None]:
    """Adapters as they were named, where a record, which knows their digests alone, is at odds."""
    try:
        yield
    except MismatchError as error:
        for reference, (adapter, _) in zip(references, adapters, strict=True):
            name, digest = scaled(reference).path, adapter.digest[:12]
            error.items = tuple(each.replace(digest, name) for each in error.items)
            error.hint = error.hint and error.hint.replace(digest, name)
        if error.hint and _DIGEST.search(error.hint):
            error.hint += "; lorakit inspect ADAPTER shows the digest of one"
        raise
