"""What several commands share: options, and references, read with a bar for what is fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from lorakit.adapter import Adapter
from lorakit.architectures import Decoder
from lorakit.base.folder import Base
from lorakit.base.gguf import open_base as open_local_base
from lorakit.cli.downloads import downloads
from lorakit.cli.output import note
from lorakit.cli.signature import argument, option
from lorakit.engines.onnx.options import Quantization
from lorakit.engines.table import EngineName
from lorakit.errors import BaseModelError, FormatError, UnsupportedError
from lorakit.files.bounded import parse_json, read_text
from lorakit.formats import read_adapter
from lorakit.sources import Kind, fetch
from lorakit.sources.scaled import scaled as scaled

BaseArgument = Annotated[
    str,
    argument(
        metavar="BASE",
        help="A base: a folder or a .gguf file, its path, https://... or hf:org/repo.",
    ),
]
RunArgument = Annotated[
    str | None,
    argument(
        metavar="BASE",
        help="A base: a folder or a .gguf file, its path, https://... or hf:org/repo; or a "
        "server's API, https://host/v1. None: that of lorakit.toml.",
    ),
]
AdapterArgument = Annotated[
    str, argument(metavar="ADAPTER", help="An adapter: a path, https://... or hf:org/repo.")
]
AdapterOption = Annotated[
    list[str] | None,
    option(
        "--adapter",
        "-a",
        metavar="[NAME=]REF[:SCALE]",
        help="An adapter: a path, https://... or hf:org/repo; may be repeated. :SCALE multiplies "
        "its own alpha / r, :=SCALE replaces it.",
    ),
]
EngineOption = Annotated[
    EngineName | None,
    option(help="What runs the model [default: llama for a GGUF file, else onnx]."),
]
QuantizeOption = Annotated[Quantization, option(help="How the base's weights are held.")]
CalibrationOption = Annotated[
    Path | None,
    option(metavar="FILE", help="A text like what the model will read, for int8 and int4."),
]
ThreadsOption = Annotated[int | None, option(help="Compute threads [default: all cores].")]
ToolsOption = Annotated[
    Path | None, option(help="A JSON file with the tools that the model may call.")
]
PickleOption = Annotated[
    bool,
    option("--allow-pickle", help="Read adapter_model.bin, by torch with weights_only."),
]
AlphaOption = Annotated[
    float | None,
    option(help="For weights without a config: their scale is alpha / rank."),
]
MlxVersionOption = Annotated[
    str | None,
    option(
        metavar="VERSION",
        help="The mlx-lm that trained an MLX adapter, where its scale depends on it.",
    ),
]
PartialOption = Annotated[
    bool, option("--partial", help="Take an incomplete save: what its config promises may lack.")
]
NameOption = Annotated[
    str | None,
    option("--name", help="Which adapter, where a PEFT file holds several."),
]
PrivateOption = Annotated[
    bool,
    option("--allow-private", help="Let URLs be of machines of a private network."),
]
ToleranceOption = Annotated[
    float | None,
    option(help="The largest difference that passes [default: what rounding explains]."),
]
JsonOption = Annotated[bool, option("--json", help="Print JSON.")]


def read_reference(
    reference: str,
    decoder: Decoder | None = None,
    *,
    allow_pickle: bool = False,
    allow_private: bool = False,
    **reading: Any,
) -> Adapter:
    """The adapter that a reference names. reading: further options of `formats.read_adapter`."""
    path = fetched(reference, allow_private=allow_private)
    return read_adapter(path, decoder, allow_pickle=allow_pickle, **reading)


def open_base(reference: str, *, allow_private: bool = False) -> Base:
    """The base that a reference names."""
    return open_local_base(fetched(reference, "base", allow_private=allow_private))


def with_weights(base: Base) -> Base:
    """The base with weights to read: those of a GGUF file are dequantised when they are asked for.

    Where that cannot be done it is said, and the base is as it was opened.
    """
    from lorakit.merge.gguf.origin import GgufOrigin  # slow, and only for GGUF files

    if not base.is_gguf:
        return base
    try:
        return GgufOrigin.of(base, None).base
    except (BaseModelError, UnsupportedError) as error:
        note(f"the base's weights are not read: {error.message}")
        return base


def fetched(reference: str, kind: Kind = "adapter", *, allow_private: bool = False) -> Path:
    """The local path of a reference."""
    with downloads:
        return fetch(reference, kind=kind, progress=downloads, allow_private=allow_private)


def read_tools(path: Path | None) -> list[dict[str, Any]] | None:
    """Tool schemas from a JSON file: a list of OpenAI function tools."""
    if path is None:
        return None
    text = read_text(path)
    try:
        tools = parse_json(text.encode())
    except ValueError as error:
        hint = "lorakit chat --tools FILE.py runs functions" if path.suffix == ".py" else ""
        raise FormatError(f"{path} is not valid JSON: {error}", hint=hint) from error
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise FormatError(f"{path} must hold a list of tools, each a JSON object")
    return tools
