"""lorakit merge: adapters into a base's weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from lorakit.adapter import Adapter, at_scale
from lorakit.base.folder import Base
from lorakit.check import for_text
from lorakit.cli.output import note, print_json, say, size
from lorakit.cli.outputs import OverwriteOption, require_free, written
from lorakit.cli.progress import Percent
from lorakit.cli.reading import Reading
from lorakit.cli.references import (
    BaseArgument,
    JsonOption,
    PrivateOption,
    fetched,
    open_base,
    scaled,
)
from lorakit.cli.signature import option
from lorakit.errors import BaseModelError, MissingExtraError, ParameterError
from lorakit.formats import read_adapter
from lorakit.formats.readback import Dtype
from lorakit.merge import MergeReport, merge
from lorakit.merge.brought import brought_by
from lorakit.model.load import default_scale, twice_scaled
from lorakit.text.tokenizer import TextTokenizer

_ADAPTER = option(
    "--adapter",
    "-a",
    metavar="[NAME=]REF[:SCALE]",
    help="An adapter; may be repeated. :=SCALE replaces alpha / r.",
)
MergedAdapters = Annotated[list[str], _ADAPTER]
FolderOption = Annotated[Path, option("--output", "-o", metavar="OUT", help="A new folder.")]
DtypeOption = Annotated[
    Dtype | None,
    option(help="What all weights become [default: what they are; f32 where quantised]."),
]


def command(
    base: BaseArgument,
    output: FolderOption,
    adapter: Annotated[list[str] | None, _ADAPTER] = None,
    dtype: DtypeOption = None,
    *,
    reading: Reading,
    overwrite: OverwriteOption = False,
    allow_private: PrivateOption = False,
    json: JsonOption = False,
) -> None:
    """Write a base with adapters in its weights, as a model folder of its own.

    A GGUF file becomes a Hugging Face folder, dequantised, with adapters or without.
    """
    inputs = [base, *(scaled(each).path for each in adapter or [])]
    require_free(output, "model", overwrite=overwrite, inputs=inputs)
    opened = open_base(base, allow_private=allow_private)
    adapters = read(adapter or [], opened, reading, allow_private=allow_private)
    if not adapters and dtype is None and not opened.is_gguf:
        raise ParameterError("there is nothing to merge", hint="name an adapter: -a REF[:SCALE]")
    own = _own_tokenizer(opened)
    folders = [fetched(scaled(each).path, allow_private=allow_private) for each in adapter or []]
    brought, differ = brought_by(folders)
    if differ:
        note(differ)
    with Percent(of=size) as progress, written(output, "model", overwrite=overwrite) as place:
        report = merge(
            opened,
            adapters,
            place,
            dtype=dtype,
            progress=progress,
            tokenizer=own,
            brought=brought,
        )
    show(replace(report, target=output), json=json)


def _own_tokenizer(base: Base) -> TextTokenizer | None:
    """A GGUF file's tokenizer by llama.cpp, where that is installed and the file has one."""
    from lorakit.engines.llama.options import LlamaOptions
    from lorakit.engines.llama.preflight import preflight_model
    from lorakit.engines.llama.tokenizer import LlamaTokenizer

    if not base.is_gguf:
        return None
    try:
        preflight_model(base.path, LlamaOptions())  # a broken vocabulary would end this process
        return LlamaTokenizer(base.path)
    except (MissingExtraError, BaseModelError):
        return None


def read(
    references: Sequence[str], base: Base, reading: Reading, *, allow_private: bool
) -> list[tuple[Adapter, float]]:
    """Adapters with their scales."""
    found = []
    for said in map(scaled, references):
        path = said.path
        place = fetched(path, allow_private=allow_private)
        adapter = read_adapter(place, base.decoder, **reading.given)
        adapter = adapter if base.left_out else for_text(adapter)
        scale = default_scale(place) if said.scale is None else said.scale
        if said.absolute is not None:
            adapter, scale = at_scale(adapter, said.absolute), 1.0
        elif said.scale is None and scale != 1:
            note(f"{path} at its default scale, {scale:g}; {path}:1 is full")
        for each in (*adapter.reading.notes, twice_scaled(adapter, said.scale, path)):
            if each:
                note(each)
        found.append((adapter, scale))
    return found


def show(report: MergeReport, *, json: bool) -> None:
    """What was written, in a few lines or as JSON."""
    if json:
        print_json(report.to_dict())
        return
    if report.replaced:
        say(f"replaced by an adapter: {', '.join(report.replaced)}")
    for each in report.notes:
        say(f"note: {each}")
    if report.left:
        say(f"left behind: {', '.join(report.left)}")
    say(f"{report.target}: {size(report.nbytes)}, {len(report.changed)} tensors changed")
