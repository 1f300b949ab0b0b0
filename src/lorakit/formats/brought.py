"""What an adapter's folder brings beside its weights: a chat template, a tokenizer.

An adapter that was trained with another template than its base's answers worse without it, and one
with tokens of its own does not know the base's. Here both are found, compared and said; what uses
them stands in model/own_text.py and merge/brought.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lorakit.base.folder import Base
from lorakit.chat.template_files import template_sources
from lorakit.check import Mismatch
from lorakit.errors import FormatError, LorakitError, SourceError
from lorakit.files.bounded import read_bounded
from lorakit.files.pointers import refuse_pointer
from lorakit.formats.folder import member, read_object

Files = tuple[tuple[str, bytes], ...]  # by name
TOKENIZER, TEMPLATE, FACTS = "tokenizer.json", "chat_template.jinja", "lorakit.json"
ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "adapters.safetensors")
OF_TOKENIZER = (
    *(TOKENIZER, "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "vocab.txt", "merges.txt"),
)
OF_TEXT = (*OF_TOKENIZER, TEMPLATE, "chat_template.json")
MAX_TOKENIZER = 256 << 20  # bytes; large vocabularies are about 30 MB
SHOWN = 5


def text_files(place: Path, names: tuple[str, ...] = OF_TEXT) -> Files:
    """The tokenizer's files and templates in an adapter's folder; none elsewhere.

    Raises FormatError (a link that leads out of the folder, a file of absurd size, a pointer of
    git-lfs) and SourceError.
    """
    folder = _folder(place)
    if folder is None:
        return ()
    return files_in(folder, names)


def files_in(folder: Path, names: tuple[str, ...]) -> Files:
    """Those of a folder that are called so, as `text_files`."""
    found = []
    for name in sorted(names):
        try:
            path = member(folder, name)
            content = b"" if path is None else read_bounded(path, MAX_TOKENIZER)
        except OSError as error:
            raise SourceError(f"cannot read {folder / name}: {error.strerror or error}") from error
        if content is None:
            raise FormatError(f"{folder / name} is larger than any tokenizer: {MAX_TOKENIZER}")
        refuse_pointer(content[:64], folder / name)
        found += [] if path is None else [(name, content)]
    return tuple(found)


def templates_of(place: Path) -> dict[str, str]:
    """The templates that an adapter was trained with, by name: files, or what its lorakit.json
    says. None in a folder of something else. Raises FormatError and SourceError."""
    folder = _folder(place)
    if folder is None:
        return {}
    if found := template_sources(folder):
        return found
    facts = member(folder, FACTS)
    prompt = read_object(facts).get("prompt") if facts is not None else None
    said = prompt.get("template") if isinstance(prompt, dict) else None
    return {"default": said} if isinstance(said, str) and said else {}


def same_templates(brought: Mapping[str, str], own: Mapping[str, str]) -> bool:
    """Whether each is one of the base's, but for white space at its end."""
    return {meant(text) for text in brought.values()} <= {meant(text) for text in own.values()}


def meant(template: str) -> str:
    """A template without what of its file makes no difference: ends of lines, and of the file."""
    return template.replace("\r\n", "\n").rstrip()


def _folder(place: Path) -> Path | None:
    folder = place if place.is_dir() else place.parent
    if folder.is_dir() and any(member(folder, name) is not None for name in ADAPTERS):
        return folder
    return None


def check_brought(path: Path, base: Base, rows: int | None = None) -> tuple[Mismatch, ...]:
    """Warnings for a template and a tokenizer that are not the base's. None for a single file.

    rows: tokens of the vocabulary with the adapter, where those are more than the base's.
    """
    folder = _folder(path)
    found = () if folder is None else (*_template(folder, base), *_tokenizer(folder, base))
    brings = folder is not None and member(folder, TOKENIZER) is not None
    if rows is not None and rows > base.decoder.vocabulary and not brings:
        found = (*found, _without_tokenizer(rows))
    return found


def _without_tokenizer(rows: int) -> Mismatch:
    return Mismatch(
        item="tokenizer",
        expected=f"one that has the adapter's {rows} tokens, beside it",
        found="none: the new tokens have ids, and no text",
        advice="save the tokenizer of the training into the adapter's folder",
        severity="warning",
    )


def _template(folder: Path, base: Base) -> Iterator[Mismatch]:
    try:
        if brought := templates_of(folder):
            from lorakit.chat.template import ChatTemplate  # Jinja, which few need

            ChatTemplate(sources=brought)
    except LorakitError as error:
        yield _unreadable("chat template", error)
        return
    own = base.templates if base.is_gguf else template_sources(base.path)
    if not same_templates(brought, own):
        yield Mismatch(
            item="chat template",
            expected="the base's" if own else "none, as the base has",
            found="one of the adapter's own",
            advice="the adapter was trained with it: it is used where the base is opened with the "
            "adapter, and comes along where that is merged",
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
        yield _unreadable("tokenizer", error)
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
            advice="the adapter was trained with this tokenizer, which is used where the base is "
            "opened with it, and comes along where it is merged",
            severity="warning",
        )


def _unreadable(item: str, error: Exception) -> Mismatch:
    found = str(error).partition("\n")[0]
    return Mismatch(item=item, expected="one that can be read", found=found, severity="warning")


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
