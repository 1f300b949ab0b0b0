"""The files as they are published: the folder's own, but for what names this machine, and a card.

In lorakit.json, the configs and the card, a base that is a path becomes the repository that others
find it by, an adapter's path its name. Where another path of this user's is left, nothing is
published. lorakit.json lists the digests of what is published.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorakit.errors import FormatError, ParameterError
from lorakit.exporting.contents import ADAPTER, CARD, CONFIG, Contents
from lorakit.exporting.front_matter import bases_of, is_owned, is_path
from lorakit.exporting.published_card import published_card
from lorakit.exporting.recorded import RECORD, as_json
from lorakit.exporting.secrets import secrets
from lorakit.files.bounded import open_regular, read_text, read_up_to
from lorakit.formats.folder import read_object
from lorakit.sources.reference import Hub, Local, parse
from lorakit.sources.sending import Content

CONFIGS = (ADAPTER, CONFIG, "generation_config.json", "tokenizer_config.json")
BASES = ("base_model_name_or_path", "base_name")
NAMING = (*BASES, "_name_or_path", "name_or_path")
MAX_CARD = 1 << 20  # bytes
LOOKED_AT = 1 << 20  # bytes of a file, where metadata stand
NOBODYS = ("/", "/root", "/tmp")  # folders that say nothing of a user


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """base_models: the repositories of the bases. card: the text of README.md. remade: files whose
    published bytes are not those of the folder. secrets: what looks like one, if forced."""

    files: Mapping[str, Content]
    base_models: tuple[str, ...]
    card: str
    remade: tuple[str, ...]
    secrets: tuple[str, ...] = ()


def published(
    contents: Contents, place: Hub, base_model: str | None, *, force: bool = False
) -> Published:
    """Raises ParameterError (nobody knows where others find the base), FormatError (a card that the
    Hub does not take, another path of this user's, a secret unless `force`), SourceError."""
    written = read_text(contents.path(CARD), MAX_CARD) if CARD in contents.files else ""
    base, forced = _base(contents, written, base_model), base_model is not None
    made = {
        name: as_json(found)
        for name in contents.files
        if name in CONFIGS
        and (found := _renamed(value := _read(contents, name), base, forced)) != value
    }
    card = published_card(contents, written, place, base, forced=forced)
    made[CARD] = card.encode()
    names = sorted({*contents.files, CARD} - {RECORD})
    files = {name: Content.of(made.get(name, contents.path(name))) for name in names}
    if contents.record:
        record = _record(contents, base, forced)
        if contents.kind == "export":
            record["files"] = {name: content.sha256 for name, content in files.items()}
        made[RECORD] = as_json(record)
        files[RECORD] = Content.of(made[RECORD])
    _require_no_path(contents.folder, files)
    found = tuple(each for name, content in files.items() for each in secrets(name, content))
    if found and not force:
        raise _secret(found)
    return Published(
        files=files,
        base_models=tuple(bases_of(card)),
        card=card,
        remade=tuple(sorted(made)),
        secrets=found,
    )


def _read(contents: Contents, name: str) -> dict[str, Any]:
    return read_object(contents.path(name))


def _base(contents: Contents, card: str, said: str | None) -> str:
    """Where others find the base."""
    if said is not None:
        if not is_owned(said):
            raise ParameterError(f"{said!r:.120} names no repository", hint='base_model="org/repo"')
        return said
    known = dict.fromkeys(each for each in _named_bases(contents, card) if each)
    found = next(filter(is_owned, known), None)
    if found is None:
        raise ParameterError(
            "where others find the base model is not known",
            items=[f"it is called {each}" for each in known],
            hint='say it: base_model="org/repo"',
        )
    return found


def _named_bases(contents: Contents, card: str) -> Iterator[str]:
    record = contents.record
    about = record.get("base")
    named = [*bases_of(card), record.get("base_name")]
    named.append(about.get("name") if isinstance(about, dict) else None)
    for name in (ADAPTER, CONFIG):
        if contents.kind != "export" and name in contents.files:
            named += [_read(contents, name).get(key) for key in NAMING]
    yield from (each for each in named if isinstance(each, str))


def _renamed(value: Any, base: str, forced: bool) -> Any:
    """A value of a config in which no base is a path. forced: the base is the caller's word."""
    if isinstance(value, list):
        return [_renamed(each, base, forced) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        key: base if _to_rename(key, each, forced) else _renamed(each, base, forced)
        for key, each in value.items()
    }


def _to_rename(key: str, value: Any, forced: bool) -> bool:
    if key in BASES:
        return forced or not is_owned(value)
    return key in NAMING and isinstance(value, str) and is_path(value)


def _record(contents: Contents, base: str, forced: bool) -> dict[str, Any]:
    found: dict[str, Any] = _renamed(dict(contents.record), base, forced)
    if isinstance(found.get("base"), dict):
        found["base"] = {**found["base"], "name": base}
    if isinstance(found.get("from"), list):
        found["from"] = [
            {**each, "source": _source(each["source"])}
            if isinstance(each, dict) and isinstance(each.get("source"), str)
            else each
            for each in found["from"]
        ]
    if contents.changed:
        found["changed"] = list(contents.changed)
    return found


def _source(reference: str) -> str:
    """Where an adapter came from, for others: of a path the last part alone."""
    try:
        parsed = parse(reference)
    except ParameterError:
        return reference
    if isinstance(parsed, Local):
        return reference.replace("\\", "/").rstrip("/").rpartition("/")[2] or "adapter"
    return reference


def _require_no_path(folder: Path, files: Mapping[str, Content]) -> None:
    """Raise FormatError where a file names this user's folders."""
    needles = [text.encode() for text in sorted(_spelled(folder))]
    found = [
        f"{name} names {needle.decode()}"
        for name, content in files.items()
        for needle in needles
        if needle in _beginning(content)
    ]
    if found:
        raise FormatError(
            "what would be published names folders of this machine",
            items=found,
            hint="take them out of the text, or export again from other paths",
        )


def _secret(found: tuple[str, ...]) -> FormatError:
    """The message does not show it."""
    return FormatError(
        "what would be published holds what looks like a secret",
        items=found,
        hint="take it out, and revoke it if it was real; force=True publishes it as it is",
    )


def _spelled(folder: Path) -> set[str]:
    """How the user's home and the folder would be written, in a text and in JSON."""
    places = {folder.resolve()}
    with suppress(RuntimeError):  # a user without a home
        places.add(Path.home())
    inside = {f"{place}{os.sep}" for place in places if str(place) not in NOBODYS}
    inside |= {text.replace("\\", "/") for text in inside}
    return inside | {json.dumps(text)[1:-1] for text in inside}


def _beginning(content: Content) -> bytes:
    if isinstance(content.source, bytes):
        return content.source
    with open_regular(content.source) as file:
        return read_up_to(file, LOOKED_AT)
