"""What of a folder is published: an export, an adapter or a model, and nothing else that is there.

Of an export, what its record lists; of others, what their kind has by name. Checkpoints, states of
optimizers, hidden files and whatever else a folder collects stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from lorakit.base.gguf import open_base
from lorakit.errors import FormatError, ParameterError, SourceError
from lorakit.exporting.recorded import RECORD, RECORD_FORMAT
from lorakit.files.cache import digest_of
from lorakit.formats import read_adapter
from lorakit.formats.folder import member, read_object
from lorakit.merge.folder import ALONG
from lorakit.sources.bundle import collect

Kind = Literal["export", "adapter", "model"]
CARD, PARITY, ADAPTER, CONFIG = "README.md", "parity.json", "adapter_config.json", "config.json"
BESIDE = (CARD, RECORD, "curves.svg", "metrics.jsonl", *ALONG)  # of an adapter or a model


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """A folder to publish. files: their paths in it, with slashes. record: lorakit.json, empty
    where there is none. changed: why it is not what the record says. left: what is not published.
    """

    folder: Path
    kind: Kind
    files: tuple[str, ...]
    record: Mapping[str, Any] = field(default_factory=dict)
    changed: tuple[str, ...] = ()
    left: tuple[str, ...] = ()

    def path(self, name: str) -> Path:
        return self.folder / name

    @property
    def adapters(self) -> list[Mapping[str, Any]]:
        """What the record of an export says of each adapter."""
        found = self.record.get("from") if self.kind == "export" else None
        return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def require_folder(folder: Path) -> None:
    """Raise ParameterError for what is no folder, and SourceError for a name that is too long."""
    try:
        if not folder.is_dir():
            what = "a file" if folder.exists() else "not there"
            raise ParameterError(f"{folder} is {what}", hint=HINT)
    except OSError as error:
        raise SourceError(f"cannot read {folder}: {error.strerror or error}") from error


def contents(folder: Path) -> Contents:
    """Look at a folder; large files are read once, for their digests.

    Raises ParameterError (nothing of the kind), SourceError, FormatError and whatever reading an
    adapter or a model raises.
    """
    require_folder(folder)
    record = _record(folder)
    if record.get("format") == RECORD_FORMAT:
        return _export(folder, record)
    for name, look in ((ADAPTER, _adapter), (CONFIG, _model)):
        if member(folder, name) is not None:
            return look(folder, record)
    raise ParameterError(
        f"{folder} holds no export, adapter or model",
        items=[f"there is no {' and no '.join((RECORD, ADAPTER, CONFIG))}"],
        hint=HINT,
    )


HINT = "name a folder that `lorakit export`, `lorakit train` or `lorakit merge` wrote"


def _record(folder: Path) -> dict[str, Any]:
    path = member(folder, RECORD)
    return {} if path is None else read_object(path)


def _export(folder: Path, record: Mapping[str, Any]) -> Contents:
    listed = record.get("files")
    if not isinstance(listed, dict) or not listed:
        raise FormatError(f"{folder / RECORD} lists no files", hint="export again")
    odd = [repr(name)[:80] for name in listed if not _inside(name)]
    if odd:
        raise FormatError(f"{folder / RECORD} lists what is no part of an export", items=odd[:20])
    changed, there = [], []
    for name, digest in listed.items():
        path = member(folder, name)
        if path is not None:
            there.append(name)
        if name == CARD:  # people may write on it
            continue
        if path is None:
            changed.append(f"{name} is missing")
        elif digest_of(path) != digest:
            changed.append(f"{name} is not what was exported")
    if CARD not in there and member(folder, CARD) is not None:
        there.append(CARD)
    return Contents(
        folder=folder,
        kind="export",
        files=tuple(sorted({*there, RECORD})),
        record=record,
        changed=tuple(changed),
        left=_left(folder, {*there, RECORD}),
    )


def _inside(name: str) -> bool:
    """Whether it is the path of a file in a folder, and no part of it hidden."""
    parts = PurePosixPath(name).parts
    plain = bool(parts) and "\\" not in name and name.isprintable() and ":" not in name
    return plain and "/".join(parts) == name and not any(p.startswith((".", "/")) for p in parts)


def _adapter(folder: Path, record: Mapping[str, Any]) -> Contents:
    adapter = read_adapter(folder)
    said = record.get("adapter")
    digest = said.get("digest") if isinstance(said, dict) else None
    changed = digest is not None and digest != adapter.digest
    found = collect("adapter", _getter(folder), str(folder))
    return _named(folder, "adapter", found, record, ["its weights"] if changed else [])


def _model(folder: Path, record: Mapping[str, Any]) -> Contents:
    open_base(folder).require_weights()
    return _named(folder, "model", collect("base", _getter(folder), str(folder)), record, [])


def _getter(folder: Path) -> Callable[[str], Path | None]:
    return lambda name: member(folder, name)


def _named(
    folder: Path,
    kind: Kind,
    found: Mapping[str, Path],
    record: Mapping[str, Any],
    changed: list[str],
) -> Contents:
    try:
        beside = {path.name for path in folder.iterdir() if _beside(path.name)}
    except OSError as error:
        raise SourceError(f"cannot read {folder}: {error.strerror or error}") from error
    files = {*found, *(name for name in beside if member(folder, name) is not None)}
    return Contents(
        folder=folder,
        kind=kind,
        files=tuple(sorted(files)),
        record=record,
        changed=tuple(f"{what} are not those that were measured" for what in changed),
        left=_left(folder, files),
    )


def _beside(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in BESIDE)


def _left(folder: Path, files: set[str]) -> tuple[str, ...]:
    """What else lies there; a folder in which nothing is published by its name alone."""
    within = {str(parent) for name in files for parent in PurePosixPath(name).parents}

    def look(place: Path) -> Iterator[str]:
        for path in sorted(place.iterdir()):
            name = path.relative_to(folder).as_posix()
            if name in within:
                yield from look(path)
            elif name not in files:
                yield f"{name}/" if path.is_dir() else name

    return tuple(look(folder))
