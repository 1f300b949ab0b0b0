"""What several commands share: adapter references with scales, and opening a model with them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lorakit.engines.protocol import Device, Quantization
from lorakit.errors import FormatError, SourceError

if TYPE_CHECKING:
    from lorakit.model import Model

BaseArgument = Annotated[str, typer.Argument(metavar="BASE", help="A base model folder.")]
AdapterOption = Annotated[
    list[str] | None,
    typer.Option("--adapter", "-a", metavar="REF[:SCALE]", help="An adapter; may be repeated."),
]
EngineOption = Annotated[
    Literal["onnx", "llama", "torch"], typer.Option(help="What runs the model.")
]
QuantizeOption = Annotated[Quantization, typer.Option(help="How the base's weights are held.")]
ThreadsOption = Annotated[int | None, typer.Option(help="Compute threads [default: all cores].")]
DeviceOption = Annotated[
    Device | None, typer.Option(help="Where the torch engine computes [default: cpu].")
]
ToolsOption = Annotated[
    Path | None, typer.Option(help="A JSON file with the tools that the model may call.")
]
PickleOption = Annotated[
    bool,
    typer.Option("--allow-pickle", help="Read adapter_model.bin, by torch with weights_only."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def split_reference(reference: str) -> tuple[str, float]:
    """("home", 0.5) from "home:0.5": a scale is what follows the last colon if it is a number."""
    path, colon, tail = reference.rpartition(":")
    try:
        return (path, float(tail)) if colon and path else (reference, 1.0)
    except ValueError:
        return reference, 1.0


def open_with(
    base: str,
    adapters: Sequence[str] | None,
    *,
    engine: str,
    quantize: Quantization,
    threads: int | None = None,
    device: Device | None = None,
) -> Model:
    """Open a model, load the adapters and make them active at their scales."""
    from lorakit.model import open as open_model  # slow, and most commands open no model

    model = open_model(base, engine=engine, quantize=quantize, threads=threads, device=device)
    try:
        scales: dict[str, float] = {}
        for reference in adapters or ():
            path, scale = split_reference(reference)
            name = unused_name(Path(path).expanduser().resolve().name, scales)
            model.load_adapter(path, name)
            scales[name] = scale
        model.apply(scales)
    except BaseException:
        model.close()
        raise
    return model


def unused_name(name: str, taken: Mapping[str, object]) -> str:
    """`name`, or `name-2`, `name-3`, ... where it is taken."""
    candidates = [name, *(f"{name}-{n}" for n in range(2, len(taken) + 2))]
    return next(candidate for candidate in candidates if candidate not in taken)


def read_tools(path: Path | None) -> list[dict[str, Any]] | None:
    """Tool schemas from a JSON file: a list of OpenAI function tools."""
    if path is None:
        return None
    try:
        tools = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise FormatError(f"{path} must hold a list of tools, each a JSON object")
    return tools
