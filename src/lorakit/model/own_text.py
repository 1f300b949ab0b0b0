"""What a model reads and writes text with: the base's tokenizer and template, or its adapters' own.

An adapter that was trained with another template, or with tokens of its own, needs them to answer
as it learnt. They are used where all adapters that bring some agree; white space at a template's
end, and what a tokenizer's file says beside its tokens, make no difference.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorakit.base.folder import Base
from lorakit.chat.template import ChatTemplate
from lorakit.chat.template_files import template_sources
from lorakit.errors import LorakitError
from lorakit.files.atomic import spare_folder
from lorakit.files.bounded import parse_json, read_bounded
from lorakit.formats.brought import (
    MAX_TOKENIZER,
    OF_TOKENIZER,
    TOKENIZER,
    Files,
    meant,
    same_templates,
    templates_of,
    text_files,
)
from lorakit.text.tokenizer import Tokenizer, read_special_tokens

CONFIGS = ("config.json", "generation_config.json")  # which say the tokens that end a text
OF_TRAINING = ("truncation", "padding", "version")  # what of tokenizer.json no text depends on


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnText:
    """What the adapters bring, in place of the base's; None: that stays. notes: what was chosen."""

    tokenizer: Tokenizer | None = None
    templates: Mapping[str, str] | None = None
    notes: tuple[str, ...] = ()


def own_text(base: Base, places: Sequence[Path]) -> OwnText:
    """What the adapters at these places bring. Nothing of them is an error: it is noted."""
    notes: list[str] = []
    own = _base_templates(base)
    templates = _templates(own, places, notes)
    tokenizer = None if base.is_gguf else _tokenizer(base, places, notes)
    if tokenizer is not None and templates is None and own:
        templates = own  # its special tokens are now the adapter's
    return OwnText(tokenizer=tokenizer, templates=templates, notes=tuple(notes))


def _base_templates(base: Base) -> Mapping[str, str]:
    try:
        return base.templates if base.is_gguf else template_sources(base.path)
    except LorakitError:  # whoever chats is told
        return {}


def _templates(
    own: Mapping[str, str], places: Sequence[Path], notes: list[str]
) -> Mapping[str, str] | None:
    found: dict[tuple[tuple[str, str], ...], Mapping[str, str]] = {}
    for place in places:
        try:
            if said := templates_of(place):
                ChatTemplate(sources=said)
                key = tuple(sorted((name, meant(text)) for name, text in said.items()))
                found.setdefault(key, said)
        except LorakitError as error:
            notes.append(f"the chat template of {place.name} is left out: {error.message}")
    if len(found) > 1:
        notes.append("the adapters bring different chat templates: the base's is used")
    if len(found) != 1 or same_templates(brought := next(iter(found.values())), own):
        return None
    notes.append("the chat template is the adapter's own, in place of the base's")
    return brought


def _tokenizer(base: Base, places: Sequence[Path], notes: list[str]) -> Tokenizer | None:
    own: Files = ()
    found: dict[object, tuple[Path, Files]] = {}
    for place in places:
        try:
            if files := text_files(place, OF_TOKENIZER):
                own = own or _of_base(base.path)
                found[_identity(own, files)] = (place, files)
        except LorakitError as error:
            notes.append(f"the tokenizer of {place.name} is left out: {error.message}")
    if len(found) > 1:
        notes.append("the adapters bring different tokenizers: the base's is used")
    if len(found) != 1 or _identity(own, ()) in found:
        return None
    ((place, files),) = found.values()
    try:
        tokenizer = _opened(own, files)
    except LorakitError as error:
        notes.append(f"the tokenizer of {place.name} is left out: {error.message}")
        return None
    notes.append("the tokenizer is the adapter's own, in place of the base's")
    return tokenizer


def _of_base(folder: Path) -> Files:
    names = [name for name in (*OF_TOKENIZER, *CONFIGS) if (folder / name).is_file()]
    read = [(name, read_bounded(folder / name, MAX_TOKENIZER)) for name in names]
    return tuple((name, content) for name, content in read if content is not None)


def _identity(own: Files, brought: Files) -> tuple[str, ...]:
    """Equal where two tokenizers give the same ids and know the same special tokens."""
    before, held = dict(own).get(TOKENIZER, b""), {**dict(own), **dict(brought)}
    content = held.pop(TOKENIZER, b"")
    with spare_folder() as folder:
        _write(folder, held)
        roles = read_special_tokens(folder)
    same = content == before  # as it mostly is, and a large one takes a second to compare
    tokens = "" if same or (digest := _digest(content)) == _digest(before) else digest
    return (tokens, *(f"{role} {token}" for role, token in sorted(roles.items())))


def _digest(content: bytes) -> str:
    """A digest of what a tokenizer.json says of tokens; of its bytes, where it says nothing."""
    try:
        said: Any = parse_json(content)
        rest = {key: value for key, value in said.items() if key not in OF_TRAINING}
        content = json.dumps(rest, sort_keys=True).encode()
    except (ValueError, AttributeError):
        pass  # `Tokenizer.open` says what is the matter with it
    return hashlib.sha256(content).hexdigest()


def _opened(own: Files, brought: Files) -> Tokenizer:
    with spare_folder() as folder:
        _write(folder, {**dict(own), **dict(brought)})
        return Tokenizer.open(folder)


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)
