"""Whether a tokenizer that was made from a vocabulary gives the ids of the file's own.

Left out is that llama.cpp takes some names for control tokens, whatever the file says of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lorakit.errors import UnsupportedError
from lorakit.merge.gguf.corpus import corpus, sample
from lorakit.merge.gguf.tokenizer import Vocabulary
from lorakit.text.tokenizer import TextTokenizer, Tokenizer

SHOWN = 5


def require_same_ids(folder: Path, vocabulary: Vocabulary, theirs: TextTokenizer) -> int:
    """How many texts were compared.

    Raises UnsupportedError that shows texts which the tokenizer in the folder encodes otherwise.
    """
    ours = Tokenizer.open(folder)
    faults, count = [], 0
    for text in _texts(vocabulary, theirs):
        count += 1
        mine, their = (one.encode(text, special=True) for one in (ours, theirs))
        if mine != their:
            faults.append(f"{text!r:.60}: {_short(mine)}, by llama.cpp {_short(their)}")
            if len(faults) == SHOWN:
                break
    if faults:
        raise UnsupportedError(
            "the tokenizer made from this file does not give the ids of the file's own",
            items=faults,
            hint="this is a fault of lorakit, or the vocabulary is of a kind that it does not know",
        )
    return count


def _texts(vocabulary: Vocabulary, theirs: TextTokenizer) -> Iterator[str]:
    pieces = [
        theirs.token_bytes(token).decode("utf-8", "replace")
        for token in sample(len(vocabulary.tokens))
        if token not in theirs.control_ids
    ]
    cut = vocabulary.splitting
    return corpus(
        vocabulary.special.values(),
        pieces,
        composed=cut is not None and cut.composed,
        approximate=cut is not None and cut.approximate,
    )


def _short(ids: list[int]) -> str:
    return str(ids) if len(ids) <= 12 else f"{ids[:12]} ... ({len(ids)})"
