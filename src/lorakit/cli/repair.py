"""lorakit repair: an adapter written clean, in the format that it has."""

from __future__ import annotations

from typing import Annotated

from lorakit.cli.output import print_json, say
from lorakit.cli.outputs import OverwriteOption, written
from lorakit.cli.reading import Reading
from lorakit.cli.references import (
    AdapterArgument,
    JsonOption,
    NameOption,
    PrivateOption,
    fetched,
    open_base,
)
from lorakit.cli.residuals import OutputOption
from lorakit.cli.signature import option
from lorakit.formats.convert import repair


def command(
    adapter: AdapterArgument,
    output: OutputOption,
    base: Annotated[
        str | None,
        option("--base", "-b", help="The base model: names become those of its modules."),
    ] = None,
    name: NameOption = None,
    *,
    reading: Reading,
    overwrite: OverwriteOption = False,
    allow_private: PrivateOption = False,
    json: JsonOption = False,
) -> None:
    """Write an adapter clean: names without wrappers, one adapter in the file, a config."""
    with written(output, "adapter", overwrite=overwrite, inputs=[adapter]) as place:
        report = repair(
            fetched(adapter, allow_private=allow_private),
            place,
            base=open_base(base, allow_private=allow_private) if base is not None else None,
            name=name,
            **reading.given,
        )
    renamed = report.adapter.reading.renamed
    if json:
        said = {"output": str(output), "format": report.format, "renamed": renamed}
        print_json(said | {"modules": len(report.adapter.modules), "notes": report.notes})
        return
    for before, after in renamed:
        say(f"renamed: {before or '(nothing)'} -> {after or '(nothing)'}")
    for note in report.notes:
        say(note)
    say(f"wrote {output}: {report.format}, {len(report.adapter.modules)} modules")
