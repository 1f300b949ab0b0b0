"""lorakit convert: an adapter in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lorakit.cli.output import console, print_json
from lorakit.cli.references import (
    AdapterArgument,
    EngineOption,
    JsonOption,
    PickleOption,
    fetched,
    open_base,
    open_with,
)
from lorakit.cli.verify import ToleranceOption, show
from lorakit.convert import convert
from lorakit.errors import ParameterError
from lorakit.verify import TOLERANCE, ParityReport, verify_conversion


def command(
    adapter: AdapterArgument,
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
    init: Annotated[
        Path | None,
        typer.Option(help="The initial adapter of PiSSA, OLoRA, CorDA or LoRA-GA (PEFT)."),
    ] = None,
    allow_pickle: PickleOption = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read it back and compare logits; needs --base.")
    ] = False,
    tolerance: ToleranceOption = TOLERANCE,
    engine: EngineOption = None,
    json: JsonOption = False,
) -> None:
    """Write an adapter in another format, exactly, or say all that it cannot say."""
    if verify and base is None:
        raise ParameterError("--verify compares logits", hint="name the base with --base")
    if verify and (allow_pickle or init is not None):
        raise ParameterError(
            "--verify reads the adapter again, without --allow-pickle and --init",
            hint="convert it first, then run lorakit verify on what was written",
        )
    opened = open_base(base) if base is not None else None
    report = convert(
        fetched(adapter),
        output,
        to=to,
        base=opened,
        dtype=dtype,
        lossy=lossy,
        allow_pickle=allow_pickle,
        init=init,
    )
    modules = len(report.adapter.modules)
    parity = _compare(str(base), adapter, output, engine, tolerance, dtype) if verify else None
    failed = parity is not None and not parity.agrees
    if json:
        said = {
            "output": str(output),
            "format": to,
            "modules": modules,
            "dropped": report.dropped,
            "notes": report.notes,
        }
        print_json(said | ({"verify": parity.to_dict()} if parity else {}))
        raise typer.Exit(failed)
    console.print(f"wrote {output}: {to}, {modules} modules")
    for note in report.notes:
        console.print(note, markup=False, highlight=False)
    if report.dropped:
        console.print(f"left out, as {to} cannot say it ({len(report.dropped)}):")
        for line in report.dropped:
            console.print(f"  - {line}", markup=False, highlight=False)
    if parity is not None:
        show(parity)
    raise typer.Exit(failed)


def _compare(
    base: str, adapter: str, output: Path, engine: str | None, tolerance: float, dtype: str | None
) -> ParityReport:
    """What was written, read back, against what was read."""
    rounded = [f"values were stored as {dtype}, which may have rounded them"]
    with open_with(base, None, engine=engine, quantize="none") as model:
        return verify_conversion(
            model,
            adapter,
            output,
            tolerance=tolerance,
            names=(adapter, str(output)),
            notes=rounded if dtype in ("f16", "bf16") else (),
        )
