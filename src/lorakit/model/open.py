"""`open`: fetches a base and its adapters, and starts a Model."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, Unpack

from lorakit.adapter import Adapter
from lorakit.base.gguf import open_base
from lorakit.engines.llama.options import LlamaOptions
from lorakit.engines.onnx.options import Quantization
from lorakit.engines.protocol import EngineOptions
from lorakit.engines.table import (
    ENGINES,
    EngineName,
    RuntimeName,
    choose_engine,
    make_options,
    open_engine,
)
from lorakit.engines.torch.options import Device
from lorakit.errors import LorakitError, ParameterError, SourceError
from lorakit.files.bounded import as_path
from lorakit.files.cache import cache_limit, sweep_cache
from lorakit.model.adapter_config import (
    SAME_ADAPTER,
    AdapterChoice,
    AdapterConfig,
    ModelWarning,
    require_aliases,
)
from lorakit.model.adopted import (
    Choice,
    Get,
    Read,
    merged_into,
    places_of,
    read_all,
    text_of,
)
from lorakit.model.fallback import open_with_fallback
from lorakit.model.growing import resize, with_room
from lorakit.model.keywords import require_options
from lorakit.model.load import Ready, unused_name
from lorakit.model.model import Model
from lorakit.model.remarks import left_out, remarks, shorter, survived, warned, without_rows
from lorakit.model.remote import open_remote
from lorakit.model.settings import Wanted, wanted, within
from lorakit.runtime.thread import EngineThread
from lorakit.sources import OnProgress, describe, fetch
from lorakit.sources.prune import keep_limit
from lorakit.values import shown, whole

log = logging.getLogger("lorakit")
MAX_QUEUE = 256
_HOST = re.compile(r"(?P<scheme>https?://)?(?:[^/]*@)?(?P<host>[^/@]+?(?P<port>:\d+)?)(?:/v1)?/?")


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
    base: str | os.PathLike[str] | None = None,
    *,
    adapter: AdapterChoice | Iterable[AdapterChoice] | None = None,
    engine: RuntimeName | None = None,
    mmproj: str | os.PathLike[str] | None = None,
    max_queue: int = MAX_QUEUE,
    offline: bool | None = None,
    progress: OnProgress | None = None,
    allow_private: bool = False,
    api_key: str | None = None,
    model: str | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    fallback: str | None = None,
    settings: str | os.PathLike[str] | None = None,
    **options: Unpack[EngineKeywords],
) -> Model:
    """Open a base model and return a Model; close it, or use it as a context manager.

    base: a Hugging Face folder (config.json, safetensors, tokenizer.json) or a GGUF file: a path,
    the https:// URL of one, or hf:org/repo[@revision][/subfolder]. Also the path of what
    `lorakit export --to onnx` wrote, or of one of its graphs; the adapters that such a folder holds
    are loaded by their names, and `adapter` may be one of these. Or the URL of a server that speaks
    OpenAI's API, https://host/v1 (http:// on this machine), whose model is then used from there.
    adapter: one adapter or several to load and apply at once: a reference, an Adapter, or an
    AdapterConfig, which also holds a scale and what to do if it fails.
    engine: "onnx" (ONNX Runtime, the default for a folder), "llama" (llama.cpp, for a GGUF file;
    needs lorakit[llama]), or "torch" (the reference: transformers, every kind of adapter, float32;
    needs lorakit[torch]); "api": the URL is a server's, whatever it ends in.
    mmproj: the projector file of a GGUF vision model, so that chats may contain images.
    max_queue: how many requests may wait before QueueFullError.
    offline: fetch nothing; None uses LORAKIT_OFFLINE and HF_HUB_OFFLINE. progress: called for every
    download, also of later `load_adapter` calls; see lorakit.sources. allow_private: allow URLs of
    machines in a private network, also for later `load_adapter` calls.
    api_key, model, tokenizer: of a server, see docs/remote.md; None is LORAKIT_API_KEY, its only
    model, and no token ids. fallback: the URL of a server that answers until the base is open,
    which is then fetched and opened in the background; see docs/remote.md.
    settings: a lorakit.toml, see docs/settings.md; a keyword beats it. Without it and without a
    base it is the file that LORAKIT_SETTINGS names.
    options: see EngineOptions (threads, context, max_batch, cached_sequences), and those of single
    engines: OnnxOptions (quantize, calibration), TorchOptions (device) and llama=LlamaOptions(...).
    Raises SourceError, FormatError, BaseModelError, ParameterError, EngineError and, for an
    adapter, what `Model.load_adapter` raises; everything opened so far is then closed.
    """
    require_options(open, options)
    said = wanted(base, engine, adapter, fallback, settings)
    require_aliases(said.adapters)
    server = partial(
        open_remote,
        api_key=api_key,
        model=model,
        tokenizer=tokenizer,
        allow_private=allow_private,
        max_batch=options.get("max_batch"),
        max_queue=max_queue,
    )
    if said.on_server:
        local = options | {"mmproj": mmproj, "fallback": fallback}
        _require_none(local, "for a model in this process")
        return server(os.fspath(said.base), adapter=said.adapters)
    if said.fallback is None:
        own = {"api_key": api_key or None, "model": model, "tokenizer": tokenizer}
        _require_none(own, "for a server")
    if not whole(max_queue) or max_queue < 1:
        found = shown(max_queue)
        raise ParameterError(f"max_queue must be an integer of 1 or more, found {found}")
    later = said.fallback is not None  # then the working directory may be another one
    here = partial(
        _open_here,
        wanted=said.fixed() if later else said,
        mmproj=within(Path.cwd(), mmproj) if later and mmproj is not None else mmproj,
        max_queue=max_queue,
        offline=offline,
        allow_private=allow_private,
        options=_fixed(options) if later else options,
    )
    if said.fallback is None:
        return here(progress)
    return open_with_fallback(
        here,
        partial(server, said.fallback),
        reference=describe(said.base),
        url=said.fallback,
        choices=said.adapters,
        progress=progress,
    )


def _fixed(options: EngineKeywords) -> EngineKeywords:
    """With a calibration text that is found from any working directory."""
    text = options.get("calibration")
    return options if text is None else {**options, "calibration": as_path(text).absolute()}


def _open_here(
    progress: OnProgress | None,
    *,
    wanted: Wanted,
    mmproj: str | os.PathLike[str] | None,
    max_queue: int,
    offline: bool | None,
    allow_private: bool,
    options: Mapping[str, Any],
) -> Model:
    """A model in this process."""
    limit = cache_limit()  # what is wrong with it is said before anything slow
    sweep_cache()
    get: Get = partial(fetch, offline=offline, progress=progress, allow_private=allow_private)
    with _server_meant(wanted.base):
        opened = open_base(get(wanted.base, kind="base"))
    name = choose_engine(wanted.engine, opened)
    chosen = _options(name, options, mmproj, get)
    opened = opened.in_form(getattr(chosen, "quantize", "none"))
    rows = opened.decoder.vocabulary
    adapters, failed = read_all(wanted, opened, get)
    text, brought = text_of(opened, places_of(adapters))
    opened, adapters, merged, warnings = merged_into(opened, adapters, progress, brought)
    dynamic = [ready.adapter for _, ready in adapters if ready is not None]
    opened = with_room(opened, dynamic, progress, brought)
    warnings = [*failed, *warnings, *warned([resize(rows, opened), *text.notes], warnings)]
    kind = ENGINES[name]
    kind.require(opened)  # before the slow parts
    kind.preflight(opened, chosen)
    make = partial(open_engine, name, opened, chosen)
    thread = EngineThread(make, max_queue=max_queue)
    try:  # while the engine opens on its thread
        words = text.tokenizer or kind.tokenizer(opened)
        warnings += warned([without_rows(text.tokenizer, opened)])
        result = Model(
            opened,
            words,
            thread,
            offline=offline,
            progress=progress,
            allow_private=allow_private,
            templates=text.templates,
        )
    except BaseException:
        thread.close()
        raise
    try:
        result.merged = merged
        _hold(result)
        result.warnings += (
            *shorter(result, chosen.context),
            *left_out(opened),
            *warnings,
            *_apply(result, adapters),
        )
        if limit is not None:
            keep_limit()
    except BaseException:
        result.close()
        raise
    return result


@contextmanager
def _server_meant(base: str | os.PathLike[str]) -> Iterator[None]:
    """Where a host alone was named and no model is there: how its API is named."""
    try:
        yield
    except SourceError as error:
        found = _HOST.fullmatch(os.fspath(base))
        if found and (found["scheme"] or found["port"]):
            api = f"{found['scheme'] or 'http://'}{found['host']}/v1"
            error.hint = f'for a server\'s API: {api} (or engine="api"); {error.hint}'
        raise


def _require_none(given: Mapping[str, object], whose: str) -> None:
    """Refuse what cannot act. What says nothing is None, and quantize "none"."""
    said = [name for name, value in given.items() if value not in (None, "none")]
    if wrong := [name for name in said if name != "max_batch"]:
        raise ParameterError(f"{', '.join(wrong)}: {whose}", hint="leave it out")


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


def _hold(model: Model) -> None:
    """Load the adapters that an export has in it."""
    if model.base.exported is not None and model.base.held:
        from lorakit.engines.onnx.graph_file import built_in  # loads onnx, which is slow

        for name, adapter in built_in(model.base.exported).items():
            model.load_adapter(adapter, name)


def _apply(model: Model, adapters: Sequence[Read]) -> tuple[ModelWarning, ...]:
    """Load and activate adapters; returns warnings for those that failed and may."""
    scales: dict[str, float] = {}
    warnings: list[ModelWarning] = []
    for choice, ready in adapters:
        try:
            name, scale = _load(model, choice, ready, scales)
        except LorakitError as error:
            if isinstance(choice, Adapter):
                raise
            warnings.append(survived(choice, error))
        else:
            scales[name] = scale
            handle = model.find(name)
            if isinstance(choice, AdapterConfig) and handle is not None:
                warnings += remarks(choice, handle.adapter)
    model._table.activate(scales, "keep", warn=False).result()
    return (*warnings, *warned(model._table.doubles(scales), code=SAME_ADAPTER))


def _load(
    model: Model, choice: Choice, ready: Ready | None, taken: Collection[str]
) -> tuple[str, float]:
    scale = None if isinstance(choice, Adapter) else choice.scale
    if ready is None:  # an export holds it
        assert isinstance(choice, AdapterConfig)
        return str(choice.path), 1.0 if scale is None else scale
    wanted = "adapter" if isinstance(choice, Adapter) else choice.name
    name = unused_name(wanted, {*taken, *model.base.held})
    model._take(name, ready)
    return name, ready.default_scale if scale is None else scale
