"""lorakit convert: an adapter in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lorakit.base import Base
from lorakit.cli.output import console, print_json
from lorakit.cli.references import JsonOption
from lorakit.convert import convert


def command(
    adapter: Annotated[str, typer.Argument(metavar="ADAPTER", help="An adapter.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="A new file or folder.")],
    to: Annotated[Literal["peft", "mlx", "gguf", "ort"], typer.Option(help="The format to write.")],
    base: Annotated[
        str | None, typer.Option("--base", "-b", help="The base model folder; GGUF needs it.")
    ] = None,
    dtype: Annotated[
        Literal["f32", "f16", "bf16"] | None, typer.Option(help="How to store the values.")
    ] = None,
    lossy: Annotated[
        bool, typer.Option("--lossy", help="Leave out what the format cannot say, and list it.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Write an adapter in another format, exactly, or say all that it cannot say."""
    opened = Base.open(base) if base is not None else None
    report = convert(Path(adapter), output, to=to, base=opened, dtype=dtype, lossy=lossy)
    modules = len(report.adapter.modules)
    if json:
        print_json(
            {"output": str(output), "format": to, "modules": modules, "dropped": report.dropped}
        )
        return
    console.print(f"wrote {output}: {to}, {modules} modules")
    if report.dropped:
        console.print(f"left out, as {to} cannot say it ({len(report.dropped)}):")
        for line in report.dropped:
            console.print(f"  - {line}", markup=False, highlight=False)
