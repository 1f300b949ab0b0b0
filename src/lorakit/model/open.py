"""`open`: fetches a base and its adapters, and starts a Model."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, Unpack

from lorakit.adapter import Adapter
from lorakit.base.folder import Base
from lorakit.base.gguf import open_base
from lorakit.check import require_fit
from lorakit.engines.llama.options import LlamaOptions
from lorakit.engines.onnx.options import Quantization
from lorakit.engines.protocol import EngineOptions
from lorakit.engines.table import ENGINES, EngineName, choose_engine, make_options, open_engine
from lorakit.engines.torch.options import Device
from lorakit.errors import LorakitError, ParameterError
from lorakit.files.cache import sweep_cache
from lorakit.merge.brought import brought_by, differing
from lorakit.merge.cached import MergedAdapter, merged_base
from lorakit.merge.grown import grown
from lorakit.model.adapter_config import (
    READ,
    SAME_SCALE,
    TEXT_ALONE,
    AdapterChoice,
    AdapterConfig,
    ModelWarning,
    as_choices,
)
from lorakit.model.growing import with_room
from lorakit.model.load import Ready, ready, twice_scaled, unused_name
from lorakit.model.model import Model
from lorakit.runtime.thread import EngineThread
from lorakit.sources import OnProgress, describe, fetch
from lorakit.values import shown, whole

Choice = Adapter | AdapterConfig
Get = Callable[..., Path]  # `fetch` with this model's options
log = logging.getLogger("lorakit")
MAX_QUEUE = 256


class EngineKeywords(TypedDict, total=False):
    """The options of all engines as keyword arguments of `open`."""

    quantize: Quantization
    calibration: str | os.PathLike[str] | None
    threads: int | None
    context: int | None
    max_batch: int
    cached_sequences: int
    device: Device | None
    llama: LlamaOptions | None


def open(
    base: str | os.PathLike[str],
    *,
    adapter: AdapterChoice | Iterable[AdapterChoice] | None = None,
    engine: EngineName | None = None,
    mmproj: str | os.PathLike[str] | None = None,
    max_queue: int = MAX_QUEUE,
    offline: bool | None = None,
    progress: OnProgress | None = None,
    allow_private: bool = False,
    **options: Unpack[EngineKeywords],
) -> Model:
    """Open a base model and return a Model; close it, or use it as a context manager.

    base: a Hugging Face folder (config.json, safetensors, tokenizer.json) or a GGUF file: a path,
    the https:// URL of one, or hf:org/repo[@revision][/subfolder]. Also the path of what
    `lorakit export --to onnx` wrote, or of one of its graphs; the adapters that such a folder holds
    are loaded by their names, and `adapter` may be one of these.
    adapter: one adapter or several to load and apply at once: a reference, an Adapter, or an
    AdapterConfig, which also holds a scale and what to do if it fails.
    engine: "onnx" (ONNX Runtime, the default for a folder), "llama" (llama.cpp, for a GGUF file;
    needs lorakit[llama]), or "torch" (the reference: transformers, every kind of adapter, float32;
    needs lorakit[torch]).
    mmproj: the projector file of a GGUF vision model, so that chats may contain images.
    max_queue: how many requests may wait before QueueFullError.
    offline: fetch nothing; None uses LORAKIT_OFFLINE and HF_HUB_OFFLINE. progress: called for every
    download, also of later `load_adapter` calls; see lorakit.sources. allow_private: allow URLs of
    machines in a private network, also for later `load_adapter` calls.
    options: see EngineOptions (threads, context, max_batch, cached_sequences), and those of single
    engines: OnnxOptions (quantize, calibration), TorchOptions (device) and llama=LlamaOptions(...).
    Raises SourceError, FormatError, BaseModelError, ParameterError, EngineError and, for an
    adapter, what `Model.load_adapter` raises; everything opened so far is then closed.
    """
    if not whole(max_queue) or max_queue < 1:
        said = shown(max_queue)
        raise ParameterError(f"max_queue must be an integer of 1 or more, found {said}")
    choices = as_choices(adapter)
    sweep_cache()
    get: Get = partial(fetch, offline=offline, progress=progress, allow_private=allow_private)
    opened = open_base(get(base, kind="base"))
    name = choose_engine(engine, opened)
    chosen = _options(name, options, mmproj, get)
    opened = opened.in_form(getattr(chosen, "quantize", "none"))
    opened, choices, merged, warnings = _merge(opened, choices, get, progress)
    opened, grew = with_room(opened, choices, progress)
    warnings += [ModelWarning(code=READ, message=text, adapter="") for text in grew]
    kind = ENGINES[name]
    kind.require(opened)  # before the slow parts
    kind.preflight(opened, chosen)
    make = partial(open_engine, name, opened, chosen)
    thread = EngineThread(make, max_queue=max_queue)
    try:  # while the engine opens on its thread
        tokenizer = kind.tokenizer(opened)
        model = Model(
            opened,
            tokenizer,
            thread,
            offline=offline,
            progress=progress,
            allow_private=allow_private,
        )
    except BaseException:
        thread.close()
        raise
    try:
        model.merged = merged
        _hold(model)
        model.warnings = (*_left_out(opened), *warnings, *_apply(model, choices))
    except BaseException:
        model.close()
        raise
    return model


def _options(
    engine: EngineName, given: Mapping[str, Any], mmproj: str | os.PathLike[str] | None, get: Get
) -> EngineOptions:
    """The engine's options from the keywords of `open`, with their files fetched."""
    native, rest = given.get("llama"), {k: v for k, v in given.items() if k != "llama"}
    if native is not None and "llama" in ENGINES[engine].others:
        rest["llama"] = native  # another engine's: make_options raises the error
        native = None
    if mmproj is not None:
        rest["mmproj"] = mmproj
    chosen = make_options(engine, rest, native)
    projector = getattr(chosen, "mmproj", None)
    if projector is None:
        return chosen
    if mmproj is not None:
        projector = get(mmproj, kind="base")
    whole = Path(projector).expanduser().absolute()  # the working directory may change
    return make_options(engine, {"mmproj": whole}, chosen)


def _merge(
    base: Base, choices: list[Choice], get: Get, progress: OnProgress | None
) -> tuple[Base, list[Choice], tuple[MergedAdapter, ...], list[ModelWarning]]:
    """The base with adapters of mode "merge" merged into it, and the other adapters."""
    wanted = [c for c in choices if isinstance(c, AdapterConfig) and c.mode == "merge"]
    rest = [c for c in choices if isinstance(c, Adapter) or c.mode != "merge"]
    if wanted:
        base.require_weights()
    found: list[tuple[AdapterConfig, Adapter, MergedAdapter]] = []
    warnings, folders = [], []
    for config in wanted:
        try:
            ready_one = ready(config, base, partial(get, source=config.source))
            require_fit(ready_one.adapter, grown(base, [(ready_one.adapter, 1.0)]))
        except LorakitError as error:
            warnings.append(_survived(config, error))
        else:
            found.append((config, ready_one.adapter, _merged(config, ready_one)))
            warnings += _remarks(config, ready_one.adapter)
            folders += [ready_one.place] if ready_one.place is not None else []
    brought, differ = brought_by(folders)
    own = ", ".join(differing(base.path, brought))
    for text in (differ, f"the adapter's own, in place of the base's: {own}" if own else ""):
        warnings += [ModelWarning(code=READ, message=text, adapter="")] if text else []
    try:
        pairs = [(adapter, said) for _, adapter, said in found]
        merged = merged_base(base, pairs, progress, brought) if found else base
    except LorakitError as error:  # all of them failed together
        warnings += [_survived(config, error) for config, _, _ in found]
        return base, rest, (), warnings
    return merged, rest, tuple(said for _, said in pairs), warnings


def _merged(config: AdapterConfig, found: Ready) -> MergedAdapter:
    scale = found.default_scale if config.scale is None else config.scale
    return MergedAdapter(
        name=config.name, source=found.source, scale=float(scale), digest=found.adapter.digest
    )


def _hold(model: Model) -> None:
    """Load the adapters that an export has in it."""
    if model.base.exported is not None and model.base.held:
        from lorakit.engines.onnx.graph_file import built_in  # loads onnx, which is slow

        for name, adapter in built_in(model.base.exported).items():
            model.load_adapter(adapter, name)


def _apply(model: Model, choices: Sequence[Choice]) -> tuple[ModelWarning, ...]:
    """Load and activate adapters; returns warnings for those that failed and may."""
    scales: dict[str, float] = {}
    warnings = []
    for choice in choices:
        try:
            name, scale = _load(model, choice, scales)
        except LorakitError as error:
            if isinstance(choice, Adapter):
                raise
            warnings.append(_survived(choice, error))
        else:
            scales[name] = scale
            handle = model.find(name)
            if isinstance(choice, AdapterConfig) and handle is not None:
                warnings += _remarks(choice, handle.adapter)
    model.apply(scales)
    return tuple(warnings)


def _load(model: Model, choice: Choice, taken: Collection[str]) -> tuple[str, float]:
    if isinstance(choice, Adapter):
        name = unused_name("adapter", taken)
        model.load_adapter(choice, name)
        return name, 1.0
    held = model.base.held
    if choice.path in held and choice.path not in taken and choice.source == "auto":
        if choice.absolute_scale is not None or choice.reading:
            raise ParameterError(
                f"{choice.path} is in the export, as it was read and at the scale it had then",
                hint="give a scale of 1, or none",
            )
        return str(choice.path), 1.0 if choice.scale is None else choice.scale
    name = unused_name(choice.name, {*taken, *held})
    loaded = model.load_adapter(choice, name)
    return name, loaded.info.default_scale if choice.scale is None else choice.scale


def _remarks(choice: AdapterConfig, adapter: Adapter) -> list[ModelWarning]:
    """What reading it had to decide, and a scale that is probably meant otherwise."""
    reference = describe(choice.path, choice.source)
    said = [(READ, note) for note in adapter.reading.notes]
    if twice := twice_scaled(adapter, choice.scale, choice.name):
        said.append((SAME_SCALE, twice))
    for _, message in said:
        log.warning("%s: %s", reference, message)
    return [ModelWarning(code=code, message=text, adapter=reference) for code, text in said]


def _left_out(base: Base) -> tuple[ModelWarning, ...]:
    """That a model which also sees runs as its text model alone."""
    if not base.left_out:
        return ()
    message = (
        f"{base.name} is a model that also sees; its text model runs, without "
        f"{len(base.left_out)} tensors such as {base.left_out[0]}"
    )
    log.warning("%s", message)
    return (ModelWarning(code=TEXT_ALONE, message=message, adapter=""),)


def _survived(choice: AdapterConfig, error: LorakitError) -> ModelWarning:
    """A warning for a failed adapter. Raises the error unless on_error allows it to fail."""
    if choice.on_error == "raise":
        raise error
    reference = describe(choice.path, choice.source)
    log.warning("going on without the adapter %s [%s]: %s", reference, error.code, error.message)
    return ModelWarning(code=error.code, message=str(error), adapter=reference)
