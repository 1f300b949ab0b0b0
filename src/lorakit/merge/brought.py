"""An adapter's own tokenizer and templates, which a merged folder gets in place of the base's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from lorakit.chat.template_files import template_sources
from lorakit.errors import FormatError, LorakitError
from lorakit.files.atomic import write_synced
from lorakit.files.bounded import parse_json, read_bounded
from lorakit.formats.brought import TEMPLATE, Files, meant, templates_of, text_files
from lorakit.merge.folder import MAX_COMPANION

MAX_ITEMS = 8_000_000  # commas and brackets; a large tokenizer.json has about 2 million


def brought_by(places: Sequence[Path]) -> tuple[Files, str]:
    """The files of the only adapter that brings some, or of all that bring the same; and a note
    where they differ, or one cannot be read, so that the base's stay."""
    found: list[Files] = []
    for place in places:
        try:
            files = _brought(place)
        except LorakitError as error:
            return (), f"{error.message}: the base's tokenizer and templates are written"
        if files and not any(_alike(files, before) for before in found):
            found.append(files)
    if len(found) > 1:
        return (), "the adapters bring different tokenizers or templates: the base's are written"
    return (found[0] if found else ()), ""


def _brought(place: Path) -> Files:
    """Its files, and the template that its lorakit.json says as one of them. Raises as
    `text_files`, and FormatError for what is no JSON."""
    files, said = text_files(place), templates_of(place)
    for name, content in files:
        if name.endswith(".json"):
            _require_json(place, name, content)
    if said and not template_sources(place if place.is_dir() else place.parent):
        files = (*files, (TEMPLATE, said["default"].encode()))
    return files


def _require_json(place: Path, name: str, content: bytes) -> None:
    try:
        parse_json(content, items=MAX_ITEMS)
    except ValueError as error:
        raise FormatError(f"{place / name} is not valid JSON: {error}") from error


def _alike(one: Files, other: Files) -> bool:
    before = dict(other)
    return before.keys() == dict(one).keys() and all(_same(text, before[n]) for n, text in one)


def write_brought(folder: Path, files: Files) -> tuple[str, ...]:
    """Write those that differ from what is there; returns their names. Raises OSError.

    A template of the base's that would hide the adapter's goes, and stays where the adapter has
    none.
    """
    changed, before = differing(folder, files), template_sources(folder)
    for name, content in files:
        if name in changed:
            (folder / name).unlink(missing_ok=True)
            write_synced(folder / name, content)
    if changed:
        _keep_template(folder, files, before)
    return changed


def _keep_template(folder: Path, files: Files, before: dict[str, str]) -> None:
    held = dict(files)
    if TEMPLATE not in held and _says_template(held.get("tokenizer_config.json", b"{}")):
        (folder / TEMPLATE).unlink(missing_ok=True)
    elif not template_sources(folder) and "default" in before:
        write_synced(folder / TEMPLATE, before["default"].encode())


def _says_template(config: bytes) -> bool:
    try:
        return bool(json.loads(config).get("chat_template"))
    except (ValueError, AttributeError, RecursionError):
        return False


def differing(folder: Path, files: Files) -> tuple[str, ...]:
    """Names of those that say something else than the folder's own."""
    own = {meant(text).encode() for text in template_sources(folder).values()}
    return tuple(
        name
        for name, content in files
        if not (name == TEMPLATE and content.rstrip() in own)
        and not _is_there(folder / name, content)
    )


def _is_there(path: Path, content: bytes) -> bool:
    there = read_bounded(path, MAX_COMPANION) if path.is_file() else None
    return there is not None and _same(there, content)


def _same(one: bytes, other: bytes) -> bool:
    if one.strip() == other.strip():
        return True
    try:
        return bool(json.loads(one) == json.loads(other))
    except (ValueError, RecursionError):
        return False
