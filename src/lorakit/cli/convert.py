"""lorakit convert: an adapter in another format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from lorakit.cli.output import print_json, say
from lorakit.cli.outputs import OverwriteOption, written
from lorakit.cli.reading import Reading
from lorakit.cli.references import (
    AdapterArgument,
    EngineOption,
    JsonOption,
    NameOption,
    PrivateOption,
    ToleranceOption,
    fetched,
    open_base,
)
from lorakit.cli.residuals import UniformOption
from lorakit.cli.running import open_shown
from lorakit.cli.signature import argument, option
from lorakit.errors import ParameterError
from lorakit.formats import FormatName
from lorakit.formats.convert import convert
from lorakit.formats.readback import Dtype
from lorakit.verify import ParityReport, verify_conversion

if TYPE_CHECKING:
    from lorakit.model.model import Model


SUFFIXES: Mapping[str, FormatName] = {
    ".gguf": "gguf",
    ".onnx_adapter": "ort",
    ".safetensors": "web",
}
INSTEAD = {
    "onnx": "ort writes the adapter for ONNX Runtime; a base with adapters as ONNX is written by "
    "lorakit export BASE --to onnx",
    "safetensors": "peft is a folder with safetensors, web one file for a page",
    "onnx_adapter": "it is called ort here",
}


def command(
    adapter: AdapterArgument,
    output: Annotated[Path, argument(metavar="OUT", help="A new file or folder.")],
    to: Annotated[
        FormatName | None,
        option(
            help="The format to write [default: by OUT's name: .gguf, .onnx_adapter, or "
            ".safetensors for web].",
            instead=INSTEAD,
        ),
    ] = None,
    base: Annotated[
        str | None, option("--base", "-b", help="The base model folder; GGUF needs it.")
    ] = None,
    dtype: Annotated[Dtype | None, option(help="How to store the values.")] = None,
    lossy: Annotated[
        bool, option("--lossy", help="Leave out what the format cannot say, and list it.")
    ] = False,
    init: Annotated[
        Path | None,
        option(help="The initial adapter of PiSSA, OLoRA, CorDA or LoRA-GA (PEFT)."),
    ] = None,
    uniform: UniformOption = False,
    name: NameOption = None,
    verify: Annotated[
        bool, option("--verify", help="Read it back and compare logits; needs --base.")
    ] = False,
    tolerance: ToleranceOption = None,
    engine: EngineOption = None,
    *,
    reading: Reading,
    overwrite: OverwriteOption = False,
    allow_private: PrivateOption = False,
    json: JsonOption = False,
) -> None:
    """Write an adapter in another format, exactly, or say all that it cannot say."""
    to = _format(output, to)
    if verify and base is None:
        raise ParameterError("--verify compares logits", hint="name the base with --base")
    if verify and (reading.given or init is not None or name is not None):
        raise ParameterError(
            "--verify reads the adapter again, without --allow-pickle, --init and their like",
            hint="convert it first, then run lorakit verify on what was written",
        )
    inputs = [adapter, base, init]
    with written(output, "adapter", overwrite=overwrite, inputs=inputs) as place:
        report = convert(
            fetched(adapter, allow_private=allow_private),
            place,
            to=to,
            base=open_base(base, allow_private=allow_private) if base is not None else None,
            dtype=dtype,
            lossy=lossy,
            init=init,
            name=name,
            uniform=uniform,
            **reading.given,
        )
    modules = len(report.adapter.modules)
    parity = None
    if verify:
        with open_shown(
            str(base), None, reading={}, engine=engine, allow_private=allow_private
        ) as model:
            parity = _compare(model, adapter, output, tolerance)
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
        raise SystemExit(failed)
    say(f"wrote {output}: {to}, {modules} modules")
    for note in report.notes:
        say(note)
    if report.dropped:
        say(f"left out, as {to} cannot say it ({len(report.dropped)}):")
        for line in report.dropped:
            say(f"  - {line}")
    if parity is not None:
        from lorakit.cli.verify import show  # slow, as rich is

        show(parity)
    raise SystemExit(failed)


def _format(output: Path, to: FormatName | None) -> FormatName:
    """The format, by the name of what is written where none is said. Raises ParameterError."""
    named = SUFFIXES.get(output.suffix.lower())
    chosen = to or named
    if chosen is None:
        raise ParameterError(
            f"{output} does not say in which format",
            hint="--to peft or --to mlx for a folder, or a name in .gguf, .onnx_adapter or "
            ".safetensors (web)",
        )
    if named not in (None, chosen):
        raise ParameterError(
            f"{output.name} is the name of a file in the format {named}, and --to says {to}",
            hint="leave one of them out",
        )
    return chosen


def _compare(model: Model, adapter: str, output: Path, tolerance: float | None) -> ParityReport:
    """What was written, read back, against what was read."""
    return verify_conversion(
        model, adapter, output, tolerance=tolerance, names=(adapter, str(output))
    )
