"""How a model runs: options of commands that open one, and the opening, with a bar and notes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from lorakit.cli.downloads import downloads
from lorakit.cli.output import note, patience
from lorakit.cli.reading import Reading
from lorakit.cli.references import EngineOption, PrivateOption, QuantizeOption, ThreadsOption
from lorakit.cli.signature import option
from lorakit.engines.table import RuntimeName
from lorakit.engines.torch.options import Device

if TYPE_CHECKING:
    from lorakit.model.model import Model

OPENING = "opening the model; its graph is built the first time ..."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    """The options of each of the two below."""

    engine: Annotated[
        RuntimeName | None,
        option(
            help="What runs the model [default: llama for a GGUF file, api for https://.../v1, "
            "else onnx]."
        ),
    ] = None
    quantize: QuantizeOption = "none"
    threads: ThreadsOption = None
    device: Annotated[
        Device | None, option(help="Where the torch engine computes [default: cpu].")
    ] = None
    context: Annotated[
        int | None, option(least=1, help="Tokens of context [default: the model's, at most 8192].")
    ] = None
    gpu_layers: Annotated[
        int | None,
        option(least=-1, help="Layers that a GPU holds, of a GGUF file; -1 = all [default: 0]."),
    ] = None
    allow_private: PrivateOption = False

    @property
    def keywords(self) -> dict[str, Any]:
        """As lorakit.open takes them."""
        from lorakit.engines.llama.options import LlamaOptions  # slow: most open no model

        given = {each.name: getattr(self, each.name) for each in fields(self)}
        layers = given.pop("gpu_layers")
        return given | {"llama": None if layers is None else LlamaOptions(gpu_layers=layers)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Running(_Running):
    """Of a model that runs here: on no server."""

    engine: EngineOption = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningAnywhere(_Running):
    """Of one that may also run on a server, or be what a file of settings says."""

    model: Annotated[
        str | None,
        option(metavar="NAME", help="The server's name of the model, if it has several."),
    ] = None
    fallback: Annotated[
        str | None,
        option(
            metavar="URL",
            help="A server, https://.../v1, that answers until BASE is fetched and open; it goes "
            "on where that fails.",
        ),
    ] = None
    settings: Annotated[
        Path | None,
        option(
            metavar="FILE",
            help="A lorakit.toml: the model, its adapters and a fallback [default, where no BASE "
            "is given: LORAKIT_SETTINGS, else lorakit.toml in the working directory].",
        ),
    ] = None
    mmproj: Annotated[
        str | None,
        option(metavar="FILE.gguf", help="The projector of a GGUF vision model, so that it sees."),
    ] = None


def open_with(
    base: str | None,
    adapters: Sequence[str] | None,
    running: Running | RunningAnywhere,
    reading: Reading,
    *,
    calibration: Path | None = None,
    merge: bool = False,
) -> Model:
    """Open a model, load the adapters and make them active at their scales.

    The base may be left out where there are settings: those that are named, or a lorakit.toml.
    """
    given = running.keywords
    if not (base or given.get("settings")):
        given["settings"], given["api_key"] = found_settings(given.get("fallback"))
    return open_shown(
        base, adapters, reading=reading.given, merge=merge, calibration=calibration, **given
    )


def open_shown(
    base: str | None,
    adapters: Sequence[str] | None,
    *,
    reading: Mapping[str, Any],
    merge: bool = False,
    **options: Any,
) -> Model:
    """The same in the library's words: fields of AdapterConfig, and options of lorakit.open."""
    from lorakit.model.adapter_config import TEXT_ALONE, config_of  # slow: most open no model
    from lorakit.model.open import open as open_model

    mode = "merge" if merge else "dynamic"
    configs = [config_of(reference, mode=mode, **reading) for reference in adapters or ()]
    with downloads, patience(OPENING):
        model = open_model(
            base, adapter=configs if adapters else None, progress=downloads, **options
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


def found_settings(fallback: str | None = None) -> tuple[Path | None, str | None]:
    """The settings where neither a base nor a file is given, and the key for their servers.

    A file that only lies in the working directory may be anybody's: no key goes where it says.
    fallback: a server that the user named, and the only one that is then asked.
    """
    from lorakit.model.settings import NAMED, find_settings, read_settings  # slow

    place = find_settings(here=True)
    if place is None or os.environ.get(NAMED):
        return place, None
    said = read_settings(place)
    note(f"settings from {said.place}")
    if fallback is not None:
        return place, None
    if os.environ.get("LORAKIT_API_KEY") and (said.fallback or "api" in said.models):
        note(f"LORAKIT_API_KEY is not sent to a server that it names; --settings {place} does that")
    return place, ""
