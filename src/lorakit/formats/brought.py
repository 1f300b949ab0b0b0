"""What an adapter's folder brings beside its weights: a chat template, a tokenizer.

An adapter that was trained with another template than its base's answers worse without it, and one
with tokens of its own does not know the base's. Here both are compared and said; nothing is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lorakit.base.folder import Base
from lorakit.chat.template import template_sources
from lorakit.check import Mismatch
from lorakit.errors import LorakitError
from lorakit.files.bounded import read_bounded
from lorakit.formats.folder import member, read_object

TOKENIZER = "tokenizer.json"
MAX_TOKENIZER = 256 << 20  # bytes; large vocabularies are about 30 MB
SHOWN = 5


def check_brought(path: Path, base: Base) -> tuple[Mismatch, ...]:
    """Warnings for a template and a tokenizer that are not the base's. None for a single file."""
    folder = path if path.is_dir() else path.parent
    if not folder.is_dir() or (member(folder, "adapter_config.json") is None):
        return ()
    return (*_template(folder, base), *_tokenizer(folder, base))


def _template(folder: Path, base: Base) -> Iterator[Mismatch]:
    brought = template_sources(folder)
    own = base.templates if base.is_gguf else template_sources(base.path)
    if brought and {text.strip() for text in brought.values()} - {t.strip() for t in own.values()}:
        yield Mismatch(
            item="chat template",
            expected="the base's" if own else "none, as the base has",
            found="one of the adapter's own",
            advice=f"the adapter was trained with it: {folder / 'chat_template.jinja'}",
            severity="warning",
        )


def _tokenizer(folder: Path, base: Base) -> Iterator[Mismatch]:
    ours = member(folder, TOKENIZER)
    theirs = None if base.is_gguf else base.path / TOKENIZER
    if ours is None or theirs is None or not theirs.is_file():
        return
    try:
        if read_bounded(ours, MAX_TOKENIZER) == read_bounded(theirs, MAX_TOKENIZER):
            return
        brought, own = (_tokens(read_object(f, limit=MAX_TOKENIZER)) for f in (ours, theirs))
    except (LorakitError, OSError) as error:
        yield Mismatch(
            item="tokenizer",
            expected="one that can be read",
            found=str(error).partition("\n")[0],
            severity="warning",
        )
        return
    new = sorted(brought.keys() - own.keys(), key=brought.__getitem__)
    moved = [token for token in brought.keys() & own.keys() if brought[token] != own[token]]
    lost = own.keys() - brought.keys()
    changes = [
        (new, "tokens that the base lacks"),
        (moved, "with other ids"),
        (lost, "are missing"),
    ]
    said = [f"{len(names)} {what} ({_few(names)})" for names, what in changes if names]
    if said:
        yield Mismatch(
            item="tokenizer",
            expected=f"the base's {len(own)} tokens",
            found="; ".join(said),
            advice="the adapter was trained with this tokenizer",
            severity="warning",
        )


def _few(names: Any) -> str:
    shown = ", ".join(repr(name)[:40] for name in list(names)[:SHOWN])
    return shown + ", ..." * (len(names) > SHOWN)


def _tokens(tokenizer: dict[str, Any]) -> dict[str, int]:
    """Every token with its id: of the vocabulary, and added ones."""
    model = tokenizer.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    found: dict[str, int] = {}
    if isinstance(vocabulary, dict):
        found |= {str(token): index for token, index in vocabulary.items()}
    elif isinstance(vocabulary, list):  # unigram: [token, score] by id
        found |= {str(entry[0]): n for n, entry in enumerate(vocabulary) if isinstance(entry, list)}
    for entry in tokenizer.get("added_tokens") or ():
        if isinstance(entry, dict) and isinstance(entry.get("content"), str):
            found[entry["content"]] = entry.get("id", -1)
    return found
