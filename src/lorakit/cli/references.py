"""What several commands share: references, read and opened with a bar for what is fetched."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

from lorakit.adapter import Adapter
from lorakit.architectures import Decoder
from lorakit.base.folder import Base
from lorakit.base.gguf import open_base as open_local_base
from lorakit.cli.downloads import downloads
from lorakit.cli.output import note, patience
from lorakit.cli.signature import argument, option
from lorakit.engines.onnx.options import Quantization
from lorakit.engines.table import EngineName, RuntimeName
from lorakit.engines.torch.options import Device
from lorakit.errors import BaseModelError, FormatError, SourceError, UnsupportedError
from lorakit.files.bounded import parse_json, read_text
from lorakit.formats import read_adapter
from lorakit.sources import Kind, fetch
from lorakit.sources.scaled import scaled as scaled

if TYPE_CHECKING:
    from lorakit.model.model import Model

OPENING = "opening the model; its graph is built the first time ..."
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
RuntimeOption = Annotated[
    RuntimeName | None,
    option(
        "--engine",
        help="What runs the model [default: llama for a GGUF file, api for https://.../v1, "
        "else onnx].",
    ),
]
ModelOption = Annotated[
    str | None,
    option("--model", metavar="NAME", help="The server's name of the model, if it has several."),
]
SettingsOption = Annotated[
    Path | None,
    option(
        "--settings",
        metavar="FILE",
        help="A lorakit.toml: the model, its adapters and a fallback [default, where no BASE is "
        "given: LORAKIT_SETTINGS, else lorakit.toml in the working directory].",
    ),
]
QuantizeOption = Annotated[Quantization, option(help="How the base's weights are held.")]
CalibrationOption = Annotated[
    Path | None,
    option(metavar="FILE", help="A text like what the model will read, for int8 and int4."),
]
ThreadsOption = Annotated[int | None, option(help="Compute threads [default: all cores].")]
DeviceOption = Annotated[
    Device | None, option(help="Where the torch engine computes [default: cpu].")
]
ContextOption = Annotated[
    int | None, option(least=1, help="Tokens of context [default: the model's, at most 8192].")
]
GpuLayersOption = Annotated[
    int | None,
    option(least=-1, help="Layers that a GPU holds, of a GGUF file; -1 = all [default: 0]."),
]
MmprojOption = Annotated[
    str | None,
    option(metavar="FILE.gguf", help="The projector of a GGUF vision model, so that it sees."),
]
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
MergeOption = Annotated[
    bool,
    option("--merge", help="Merge the adapters into the weights: any kind, at fixed scales."),
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


def open_with(
    base: str | None,
    adapters: Sequence[str] | None,
    *,
    engine: RuntimeName | None,
    quantize: Quantization,
    calibration: Path | None = None,
    threads: int | None = None,
    device: Device | None = None,
    context: int | None = None,
    gpu_layers: int | None = None,
    mmproj: str | None = None,
    allow_private: bool = False,
    merge: bool = False,
    served: str | None = None,
    settings: Path | None = None,
    **reading: Any,
) -> Model:
    """Open a model, load the adapters and make them active at their scales.

    served: the name of the model, where the base is the URL of a server. settings: a file of
    settings; the base may then be left out, as it may where there is a lorakit.toml.
    """
    from lorakit.engines.llama.options import LlamaOptions
    from lorakit.model.adapter_config import TEXT_ALONE, config_of  # slow: most open no model
    from lorakit.model.open import open as open_model

    mode = "merge" if merge else "dynamic"
    configs = [config_of(reference, mode=mode, **reading) for reference in adapters or ()]
    place, key = (settings, None) if base or settings else found_settings()
    with _server_meant(base), downloads, patience(OPENING):
        model = open_model(
            base,
            adapter=configs if adapters else None,
            engine=engine,
            quantize=quantize,
            calibration=calibration,
            threads=threads,
            device=device,
            context=context,
            llama=None if gpu_layers is None else LlamaOptions(gpu_layers=gpu_layers),
            mmproj=mmproj,
            progress=downloads,
            allow_private=allow_private,
            model=served,
            api_key=key,
            settings=place,
        )
    for warning in model.warnings:
        if not warning.adapter and warning.code != TEXT_ALONE:  # the others were logged
            note(warning.message)
    if model.runtime_name == "api":
        return model
    if model.base.exported is not None and (form := model.base.exported.note()):
        note(form)
    loaded = [] if merge else configs
    unsaid = [n for n, c in enumerate(loaded) if c.scale is None and c.absolute_scale is None]
    for info in [model.adapters[n] for n in unsaid]:
        if info.default_scale != 1:
            note(f"{info.name} at its default scale, {info.default_scale:g}; {info.name}:1 is full")
    return model


@contextmanager
def _server_meant(base: str | None) -> Iterator[None]:
    """Where a host alone was named and no model is there: how its API is named."""
    try:
        yield
    except SourceError as error:
        parts = urlsplit(base or "")
        if parts.scheme in ("http", "https") and parts.path in ("", "/"):
            api = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/v1"
            error.hint = f"for a server's API: {api} (or --engine api); {error.hint}"
        raise


def found_settings() -> tuple[Path | None, str | None]:
    """The settings where neither a base nor a file is given, and the key for their servers.

    A file that only lies in the working directory may be anybody's: no key goes where it says.
    """
    from lorakit.model.settings import NAMED, find_settings, read_settings  # slow

    place = find_settings(here=True)
    if place is None or os.environ.get(NAMED):
        return place, None
    said = read_settings(place)
    note(f"settings from {said.place}")
    if os.environ.get("LORAKIT_API_KEY") and (said.fallback or "api" in said.models):
        note(f"LORAKIT_API_KEY is not sent to a server that it names; --settings {place} does that")
    return place, ""


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
        raise FormatError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise FormatError(f"{path} must hold a list of tools, each a JSON object")
    return tools
