"""lorakit.toml: which model to open, where, with which adapters. Read for `open`, run and chat.

    runtime = "auto"                    # onnx, llama, torch, api
    fallback = "https://host/v1"        # answers until the model here is open
    [models]                            # a reference for each runtime
    onnx = "bases/tiny"
    [[adapter]]                         # or: adapter = {path = "home"}; the fields of AdapterConfig
    path = "adapters/home"

A file is read when it is named. Only where neither a base nor a file is given it is looked for:
LORAKIT_SETTINGS, and on the command line lorakit.toml in the working directory. References are
relative to the file. It holds no secrets. A keyword of `open` beats what it says.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from lorakit.adapter import Adapter
from lorakit.engines.llama.binding.libraries import PACKAGES, VARIABLE
from lorakit.engines.table import RuntimeName
from lorakit.errors import FormatError, ParameterError, page
from lorakit.files.bounded import as_path, read_text
from lorakit.model.adapter_config import AdapterChoice, AdapterConfig, as_choices
from lorakit.remote.server import names_server, server_of
from lorakit.sources import Local, Source, parse
from lorakit.values import among, did_you_mean, shown

AnyRuntime = Literal["auto", RuntimeName]
FILE, NAMED = "lorakit.toml", "LORAKIT_SETTINGS"
KEYS = ("runtime", "models", "adapter", "fallback")
MAX_FILE, MAX_LINE = 1 << 16, 1 << 12  # bytes, characters: deep keys take the square of theirs
NEEDED: Mapping[str, Sequence[Sequence[str]]] = {  # modules of a runtime: one of each row
    "onnx": (("onnxruntime",),),
    "torch": (("torch",), ("transformers",)),
    "llama": (tuple(PACKAGES.values()),),
    "api": (),
}
_RUNTIMES = get_args(AnyRuntime)
_ADAPTER = tuple(each.name for each in fields(AdapterConfig) if each.init)
_SECRET = re.compile(r"(?:^|[_-])(?:api[_-]?key|key|token|secret|password)s?$", re.IGNORECASE)
log = logging.getLogger("lorakit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a file says. adapters: None where it names none; their paths are as they stand there,
    relative to `folder`."""

    place: Path
    runtime: AnyRuntime = "auto"
    models: Mapping[AnyRuntime, str] = field(default_factory=dict)
    adapters: tuple[AdapterConfig, ...] | None = None
    fallback: str | None = None

    @property
    def folder(self) -> Path:
        return self.place.parent

    def model(self, runtime: AnyRuntime | None = None) -> tuple[str | Path, RuntimeName | None]:
        """The base and its runtime. "auto" is models.auto, else the first that is installed here.

        runtime: instead of the file's. Raises ParameterError where there is none.
        """
        name = runtime or self.runtime
        if name not in self.models:
            others = [one for one in self.models if name == "auto"]
            ready = [one for one in others if _installed(one)]
            if not others:
                raise ParameterError(
                    f"{self.place} names no model for the runtime {name}",
                    hint=f'under [models]: {name} = "a path, https://... or hf:org/repo"; '
                    "or give a base",
                )
            name = (ready or others)[0]
        place = self.models[name]
        engine = None if name == "auto" else name
        return (place if name == "api" else within(self.folder, place)), engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a call of `open` and its settings say together.

    folder: from which relative paths of adapters are taken; None is the working directory, when it
    is looked at.
    """

    base: str | os.PathLike[str]
    engine: RuntimeName | None
    adapters: Sequence[Adapter | AdapterConfig]
    fallback: str | None
    folder: Path | None = None

    @property
    def on_server(self) -> bool:
        return self.engine == "api" or (self.engine is None and names_server(self.base))

    def fixed(self) -> Wanted:
        """The same from whichever working directory."""
        folder = Path.cwd() if self.folder is None else self.folder
        return replace(self, base=within(Path.cwd(), self.base), folder=folder)


def wanted(
    base: str | os.PathLike[str] | None,
    engine: RuntimeName | None,
    adapter: AdapterChoice | Iterable[AdapterChoice] | None,
    fallback: str | None,
    settings: str | os.PathLike[str] | None,
) -> Wanted:
    """A keyword of `open` beats its settings. Raises ParameterError, and as `read_settings`."""
    choices = as_choices(adapter)
    said = _settings(base, settings)
    if said is None:
        assert base is not None
        return Wanted(base=base, engine=engine, adapters=choices, fallback=fallback)
    if base is None:
        base, engine = said.model(engine)
    elif engine is None and said.runtime != "auto" and not names_server(base):
        engine = said.runtime
    own = adapter is None and said.adapters is not None
    return Wanted(
        base=base,
        engine=engine,
        adapters=said.adapters or () if own else choices,
        fallback=said.fallback if fallback is None else fallback,
        folder=said.folder if own else None,
    )


def _settings(base: object, settings: str | os.PathLike[str] | None) -> Settings | None:
    """Those that are named; or without a base, those that are found."""
    if settings is not None:
        return read_settings(settings)
    if base is not None:
        return None
    place = find_settings()
    if place is None:
        raise ParameterError(
            "there is no base to open",
            hint=f"give one; or settings, the path of a {FILE}; or set {NAMED} to it",
        )
    return read_settings(place)


def within(folder: Path, reference: str | os.PathLike[str], source: Source = "auto") -> str | Path:
    """A reference, with a relative path taken from a folder."""
    parsed = parse(reference, source)
    if isinstance(parsed, Local):
        return folder / parsed.path.expanduser()
    return os.fspath(reference)


def find_settings(*, here: bool = False) -> Path | None:
    """The file where none is named: LORAKIT_SETTINGS; here: else that of the working directory."""
    if named := os.environ.get(NAMED):
        return as_path(named).expanduser()
    place = Path(FILE)
    return place if here and place.is_file() else None


def read_settings(path: str | os.PathLike[str]) -> Settings:
    """Read a settings file. Raises SourceError, FormatError (no TOML), and ParameterError with all
    that is wrong in it."""
    place = as_path(path).expanduser().absolute()
    text = read_text(place, MAX_FILE).removeprefix("\ufeff")  # which editors of Windows write
    if max(map(len, text.splitlines()), default=0) > MAX_LINE:
        raise FormatError(f"{place} has a line of more than {MAX_LINE} characters")
    try:
        content = tomllib.loads(text)
    except ValueError as error:  # as TOMLDecodeError is
        raise FormatError(f"{place} is not valid TOML: {error}") from error
    except RecursionError as error:
        raise FormatError(f"{place} is nested too deeply") from error
    faults = list(_faults(content))
    adapters, wrong = _adapters(content.get("adapter"))
    if faults := [*faults, *wrong]:
        raise ParameterError(
            f"{place} cannot be used", items=faults, hint=f"see {page('settings')}"
        )
    log.info("settings from %s", place)
    return Settings(
        place=place,
        runtime=content.get("runtime", "auto"),
        models=content.get("models", {}),
        adapters=adapters,
        fallback=content.get("fallback"),
    )


def _faults(content: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with all but the adapters."""
    yield from _unknown("", content, KEYS)
    if not among(runtime := content.get("runtime", "auto"), _RUNTIMES):
        yield f"runtime is {', '.join(_RUNTIMES)}, not {shown(runtime)}"
    models = content.get("models", {})
    if not isinstance(models, dict):
        yield f"models is a table of references, not {shown(models)}"
        models = {}
    yield from _unknown("models.", models, _RUNTIMES)
    for name in _RUNTIMES:
        if name in models:
            yield from _reference(f"models.{name}", models[name], served=name == "api")
    if "fallback" in content:
        yield from _reference("fallback", content["fallback"], served=True)


def _reference(name: str, value: object, *, served: bool) -> Iterator[str]:
    """served: it is the URL of a server."""
    if not isinstance(value, str):
        yield f"{name} is a text, not {shown(value)}"
        return
    try:
        server_of(value, None) if served else parse(value)
    except ParameterError as error:
        yield f"{name}: {error.message}"


def _adapters(value: object) -> tuple[tuple[AdapterConfig, ...] | None, list[str]]:
    """The adapters, and what is wrong with them."""
    if value is None:
        return None, []
    tables = value if isinstance(value, list) else [value]
    found: list[AdapterConfig] = []
    faults: list[str] = []
    for number, table in enumerate(tables, 1):
        name = "adapter" if table is value else f"adapter {number}"
        if not isinstance(table, dict):
            faults.append(f"{name} is a table such as {{path = ...}}, not {shown(table)}")
            continue
        wrong = list(_unknown(f"{name}.", table, _ADAPTER))
        if "path" not in table:
            wrong.append(f"{name}.path is missing")
        if not wrong:
            try:
                found.append(AdapterConfig(**table))
                parse(table["path"], table.get("source", "auto"))
            except ParameterError as error:
                wrong.append(f"{name}: {error.message}")
        faults += wrong
    return tuple(found), faults


def _unknown(prefix: str, table: Mapping[str, Any], known: Sequence[str]) -> Iterator[str]:
    for name in table:
        if name in known:
            continue
        if _SECRET.search(name):
            yield f"{prefix}{name}: no secrets here; a server's key is LORAKIT_API_KEY's"
            continue
        hint = did_you_mean(name, known) or f"; there are {', '.join(known)}"
        yield f"{prefix}{name} is not known{hint}"


def _installed(runtime: AnyRuntime) -> bool:
    """Whether its packages are here; looked for, not imported."""
    if runtime == "llama" and os.environ.get(VARIABLE):
        return True
    rows = NEEDED[runtime]
    return all(any(importlib.util.find_spec(one) for one in row) for row in rows)
