"""What a GGUF file's tokenizer makes of texts, found in a child process.

llama.cpp ends the process over a vocabulary with two tokens of one text, or a byte that has none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lorakit.engines.llama.child_process import RefusedError, can_start, refuse, run_child
from lorakit.engines.llama.tokenizer import LlamaTokenizer
from lorakit.errors import FormatError, LorakitError
from lorakit.files.atomic import spare_folder
from lorakit.files.bounded import read_text

MAX_BYTES = 256 << 20  # of what is asked and answered


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenised:
    """ids: of each text, with what is put around one. pieces: of each token, its bytes as Latin-1.

    ends: the tokens that end a reply.
    """

    ids: list[list[int]]
    pieces: list[str]
    ends: list[int]


def tokenised(path: Path, texts: Sequence[str], tokens: Sequence[int]) -> Tokenised:
    """Of a model, or of a file with a vocabulary alone.

    Raises MissingExtraError, EngineError for a file that llama.cpp refuses, and FormatError for one
    that ends its process.
    """
    if not can_start():
        return _tokenised(path, texts, tokens)
    with spare_folder() as folder:
        asked, answer = folder / "asked", folder / "answer"
        asked.write_text(json.dumps([list(texts), list(tokens)]), "utf-8")
        try:
            reasons = run_child(__name__, "_answer", str(path), str(asked), str(answer))
        except RefusedError:
            return _tokenised(path, texts, tokens)  # which raises what it met there
        if reasons:
            raise FormatError(
                f"{path} has a broken vocabulary: llama.cpp crashes over it", items=reasons
            )
        return Tokenised(**json.loads(read_text(answer, MAX_BYTES)))


def _tokenised(path: Path, texts: Sequence[str], tokens: Sequence[int]) -> Tokenised:
    tokenizer = LlamaTokenizer(path)
    return Tokenised(
        ids=[tokenizer.encode(text, special=True) for text in texts],
        pieces=[tokenizer.token_bytes(token).decode("latin-1") for token in tokens],
        ends=sorted(tokenizer.eos_ids),
    )


def _answer(path: str, asked: str, answer: str) -> None:
    try:
        texts, tokens = json.loads(read_text(Path(asked), MAX_BYTES))
        found = _tokenised(Path(path), texts, tokens)
    except LorakitError:
        refuse()
    Path(answer).write_text(json.dumps(asdict(found)), "utf-8")
    os._exit(0)
