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
    json: JsonOption = False,
) -> None:
    """Write an adapter in another format, exactly, or say all that it cannot say."""
    opened = Base.open(base) if base is not None else None
    written = convert(Path(adapter), output, to=to, base=opened, dtype=dtype)
    if json:
        print_json({"output": str(output), "format": to, "modules": len(written.modules)})
    else:
        console.print(f"wrote {output}: {to}, {len(written.modules)} modules")
