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
from lorakit.errors import LorakitError, ParameterError
from lorakit.files.bounded import as_path
from lorakit.files.cache import cache_limit, sweep_cache
from lorakit.formats.brought import Files
from lorakit.merge.brought import brought_by
from lorakit.merge.cached import (
    MergedAdapter,
    merge_notes,
    merged_base,
    require_fit_merged,
    require_mergeable,
)
from lorakit.model.adapter_config import (
    CONTEXT,
    MERGED,
    READ,
    SAME_ADAPTER,
    SAME_SCALE,
    TEXT_ALONE,
    AdapterChoice,
    AdapterConfig,
    AdapterRef,
    ModelWarning,
    require_aliases,
)
from lorakit.model.fallback import open_with_fallback
from lorakit.model.growing import resize, with_room
from lorakit.model.keywords import require_options
from lorakit.model.load import Ready, is_held, read_one, settled, twice_scaled, unused_name
from lorakit.model.model import Model
from lorakit.model.own_text import OwnText, own_text
from lorakit.model.remote import open_remote
from lorakit.model.settings import Wanted, wanted, within
from lorakit.runtime.thread import EngineThread
from lorakit.sources import OnProgress, Source, describe, fetch
from lorakit.sources.prune import keep_limit
from lorakit.text.tokenizer import TextTokenizer
from lorakit.values import shown, whole

Choice = Adapter | AdapterConfig
Read = tuple[Choice, Ready | None]  # None: an export holds it
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
    opened = open_base(get(wanted.base, kind="base"))
    name = choose_engine(wanted.engine, opened)
    chosen = _options(name, options, mmproj, get)
    opened = opened.in_form(getattr(chosen, "quantize", "none"))
    rows = opened.decoder.vocabulary
    adapters, failed = _read(wanted, opened, get)
    text, brought = _text(opened, _places(adapters))
    opened, adapters, merged, warnings = _merge(opened, adapters, progress, brought)
    dynamic = [ready.adapter for _, ready in adapters if ready is not None]
    opened = with_room(opened, dynamic, progress, brought)
    warnings = [*failed, *warnings, *_said([resize(rows, opened), *text.notes], warnings)]
    kind = ENGINES[name]
    kind.require(opened)  # before the slow parts
    kind.preflight(opened, chosen)
    make = partial(open_engine, name, opened, chosen)
    thread = EngineThread(make, max_queue=max_queue)
    try:  # while the engine opens on its thread
        words = text.tokenizer or kind.tokenizer(opened)
        warnings += _said([_without_rows(text.tokenizer, opened)])
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
            *_shorter(result, chosen.context),
            *_left_out(opened),
            *warnings,
            *_apply(result, adapters),
        )
        if limit is not None:
            keep_limit()
    except BaseException:
        result.close()
        raise
    return result


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


def _read(wanted: Wanted, base: Base, get: Get) -> tuple[list[Read], list[ModelWarning]]:
    """The adapters, each fetched and read once, and warnings for those that failed and may."""
    found: list[Read] = []
    warnings: list[ModelWarning] = []
    held: set[str] = set()
    for choice in wanted.adapters:
        try:
            name = _held(choice, base, held)
            if name:
                held.add(name)
                found.append((choice, None))
            else:
                source = "auto" if isinstance(choice, Adapter) else choice.source
                there = partial(_get_from, wanted.folder, get, source)
                found.append((choice, read_one(choice, base, there)))
        except LorakitError as error:
            if isinstance(choice, Adapter):
                raise
            warnings.append(_survived(choice, error))
    return found, warnings


def _get_from(folder: Path | None, get: Get, source: Source, reference: AdapterRef) -> Path:
    """An adapter, whose path may be relative to the folder of a settings file."""
    assert not isinstance(reference, Adapter)
    place = reference if folder is None else within(folder, reference, source)
    return get(place, source=source)


def _held(choice: Choice, base: Base, taken: Collection[str]) -> str:
    """The name of the adapter in an export that this one is; ""."""
    if isinstance(choice, Adapter) or choice.path in taken or not is_held(choice, base.held):
        return ""
    return str(choice.path)


def _text(base: Base, places: Sequence[Path]) -> tuple[OwnText, Files]:
    """What is used of the adapters' tokenizers and templates, and the files of a base with it."""
    text = own_text(base, places)
    if text.tokenizer is None and text.templates is None:
        return text, ()
    return text, brought_by(places)[0]


def _said(
    texts: Iterable[str], known: Sequence[ModelWarning] = (), code: str = READ
) -> list[ModelWarning]:
    """Warnings about the base, of which the log tells, too, that are not known already."""
    before = {warning.message for warning in known}
    said = [text for text in texts if text and text not in before]
    for text in said:
        log.info("%s", text)
    return [ModelWarning(code=code, message=text, adapter="") for text in said]


def _without_rows(tokenizer: TextTokenizer | None, base: Base) -> str:
    """That an adapter's tokenizer knows tokens for which the base has no rows."""
    more = 0 if tokenizer is None else tokenizer.vocabulary - base.decoder.vocabulary
    if more <= 0:
        return ""
    return f"tokens of the adapter's tokenizer that have no row in the base, for no prompt: {more}"


def _places(found: Sequence[Read]) -> list[Path]:
    """Of the adapters whose tokenizer and template may be used."""
    return [
        ready.place
        for choice, ready in found
        if ready is not None
        and ready.place is not None
        and isinstance(choice, AdapterConfig)
        and choice.text == "own"
    ]


def _merge(
    base: Base, adapters: Sequence[Read], progress: OnProgress | None, brought: Files
) -> tuple[Base, list[Read], tuple[MergedAdapter, ...], list[ModelWarning]]:
    """The base with adapters of mode "merge" merged into it, and the other adapters."""
    wanted: list[tuple[AdapterConfig, Ready]] = []
    rest: list[Read] = []
    for choice, ready in adapters:
        if isinstance(choice, AdapterConfig) and choice.mode == "merge" and ready is not None:
            wanted.append((choice, settled(ready, base)))
        else:
            rest.append((choice, ready))
    if wanted:
        require_mergeable(base)
        if base.is_gguf:
            brought, _ = brought_by(_places(wanted))
    found: list[tuple[AdapterConfig, Adapter, MergedAdapter]] = []
    warnings: list[ModelWarning] = []
    for config, ready in wanted:
        try:
            require_fit_merged(ready.adapter, base)
        except LorakitError as error:
            warnings.append(_survived(config, error))
        else:
            found.append((config, ready.adapter, _merged(config, ready)))
            warnings += _remarks(config, ready.adapter)
    try:
        pairs = [(adapter, said) for _, adapter, said in found]
        merged = merged_base(base, pairs, progress, brought) if found else base
        warnings += _said(merge_notes(base, pairs, brought), code=MERGED)
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
            warnings.append(_survived(choice, error))
        else:
            scales[name] = scale
            handle = model.find(name)
            if isinstance(choice, AdapterConfig) and handle is not None:
                warnings += _remarks(choice, handle.adapter)
    model._table.activate(scales, "keep", warn=False).result()
    return (*warnings, *_said(model._table.doubles(scales), code=SAME_ADAPTER))


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


def _remarks(choice: AdapterConfig, adapter: Adapter) -> list[ModelWarning]:
    """What reading it had to decide, and a scale that is probably meant otherwise."""
    reference = describe(choice.path, choice.source)
    said = [(READ, note) for note in adapter.reading.notes]
    if twice := twice_scaled(adapter, choice.scale, choice.name):
        said.append((SAME_SCALE, twice))
    for _, message in said:
        log.warning("%s: %s", reference, message)
    return [ModelWarning(code=code, message=text, adapter=reference) for code, text in said]


def _shorter(model: Model, asked: int | None) -> list[ModelWarning]:
    """That a model holds less than was asked for."""
    limit = model.capabilities.longest
    if asked is None or not limit or asked <= limit:
        return []
    message = (
        f"context: {model.name} was made for {limit} tokens, and holds {limit} of the {asked} that "
        "were asked for"
    )
    log.warning("%s", message)
    return [ModelWarning(code=CONTEXT, message=message, adapter="")]


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
