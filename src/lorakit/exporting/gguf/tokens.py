"""Whether llama.cpp gives the token ids of the base's own tokenizer, found out by tokenising.

Compared are the ids of many texts, what tokens are shown as, and what ends a reply. It is asked
with a file that holds the vocabulary alone, before the long work, or with the whole model after it.
Text that llama.cpp takes otherwise by its nature (vocabulary.py notes it) is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from lorakit.base.folder import Base
from lorakit.engines.llama.tokenised import Tokenised, tokenised
from lorakit.errors import UnsupportedError
from lorakit.exporting.gguf.spaces import SPACE, spaces
from lorakit.files.atomic import spare_folder
from lorakit.files.gguf import Value
from lorakit.files.gguf_parts import open_gguf_model
from lorakit.files.gguf_write import gguf_head, packed
from lorakit.merge.gguf.corpus import corpus, sample
from lorakit.merge.gguf.splitting import splitting
from lorakit.text.tokenizer import Tokenizer, steps

SHOWN = 5
Keys = Mapping[str, Value]


def require_same_ids(base: Base, path: Path) -> int:
    """How many texts were compared with those of a written model; path: its first part.

    Raises UnsupportedError, which shows what differs, FormatError for a vocabulary that crashes
    llama.cpp, EngineError for one that it refuses, and MissingExtraError without the extra `llama`.
    """
    return _compared(base, path, open_gguf_model(path).values)


def trial_vocabulary(
    base: Base,
    keys: Keys,
    ours: Tokenizer | None = None,
    *,
    stored: Mapping[str, bytes] | None = None,
) -> int:
    """The same before there is a model. keys: all that it will have. ours: the base's tokenizer,
    where it is open already. stored: the keys as the file stores them, where they are at hand."""
    stored = stored or {key: packed(value) for key, value in keys.items()}
    with spare_folder() as folder:
        path = folder / "vocabulary.gguf"
        path.write_bytes(gguf_head(stored, []))
        return _compared(base, path, keys, ours)


def _compared(base: Base, path: Path, keys: Keys, ours: Tokenizer | None = None) -> int:
    ours = ours or Tokenizer.open(base.path)
    size = len(keys["tokenizer.ggml.token_type"].data)
    added = {token: text for token, text in ours.added_tokens.items() if token < size}
    tokens = sorted({*sample(size), *added})
    texts = _texts(ours, keys, size, added)
    theirs = tokenised(path, texts, tokens)
    faults = [*_ids(ours, texts, theirs), *_pieces(ours, tokens, theirs)]
    faults += [
        f"{token} ({ours.token(token)!r:.60}) ends a reply, by llama.cpp it does not"
        for token in sorted(ours.eos_ids - set(theirs.ends))
    ]
    if faults:
        raise UnsupportedError(
            f"the tokenizer of {base.name} gives other token ids in llama.cpp",
            items=[*faults[:SHOWN], f"{len(faults)} differences in {len(texts)} texts"],
            hint="a GGUF file of it would answer otherwise; export to another target",
        )
    return len(texts)


def _texts(ours: Tokenizer, keys: Keys, size: int, added: Mapping[int, str]) -> list[str]:
    pieces = [ours.token_bytes(token) for token in sample(size) if token not in ours.control_ids]
    special = [text for text in added.values() if set(text) != {SPACE}]
    cut = splitting(keys["tokenizer.ggml.pre"].data)
    is_spm = keys["tokenizer.ggml.model"].data == "llama"
    texts = corpus(
        special,
        [piece.decode("utf-8", "replace") for piece in pieces],
        composed={"type": "NFC"} in steps(ours.normalizer, "normalizers"),
        approximate=not is_spm and cut.approximate,
    )
    prefixed = keys.get("tokenizer.ggml.add_space_prefix")
    before = spaces(ours.normalizer, ours.pre_tokenizer, (), chats=False)
    if prefixed is None or before is None:
        return list(texts)
    return replace(before, prefixed=prefixed.data).same(texts, special)


def _ids(ours: Tokenizer, texts: list[str], theirs: Tokenised) -> Iterator[str]:
    for text, their in zip(texts, theirs.ids, strict=True):
        mine = ours.encode(text, special=True)
        if mine != their:
            yield f"{text!r:.60}: {_short(mine)}, by llama.cpp {_short(their)}"


def _pieces(ours: Tokenizer, tokens: list[int], theirs: Tokenised) -> Iterator[str]:
    for token, piece in zip(tokens, theirs.pieces, strict=True):
        mine = ours.token_bytes(token)
        is_text = mine and token not in ours.control_ids
        if is_text and mine != piece.encode("latin-1"):
            yield f"{token} is shown as {mine!r:.60}, by llama.cpp {piece.encode('latin-1')!r:.60}"


def _short(ids: list[int]) -> str:
    return str(ids) if len(ids) <= 12 else f"{ids[:12]} ... ({len(ids)})"
