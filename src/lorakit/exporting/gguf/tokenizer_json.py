"""A folder's tokenizer.json as what a GGUF file asks for: tokens by id, merges, added tokens.

What it does not know is how text is cut (pre_tokenizers.py) and what a token scores
(sentencepiece.py). The layout is that of the `tokenizers` library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from lorakit.errors import BaseModelError, FormatError, UnsupportedError
from lorakit.exporting.gguf.spaces import SPACE
from lorakit.files.bounded import parse_json
from lorakit.text.tokenizer import MAX_TOKENIZER, Json, Tokenizer, read_whole, steps

MAX_ITEMS = 6_000_000  # commas and brackets; Gemma 3's has 2.4 million
_PARTS = {  # and what a sequence in each calls its steps
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "post_processor": "processors",
}
SHOWN = 300  # characters of a setting in a message


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """A token that is found in a text before it is cut."""

    content: str
    special: bool
    left: bool  # takes the spaces before it
    right: bool  # takes the spaces after it
    word: bool  # only where it is a word of its own
    late: bool  # is found after the text was changed, and is changed itself

    @property
    def merged(self) -> bool:
        """Whether it is a run of spaces, as Gemma has them, which merges make as well.

        llama.cpp would show the token's own text, if it were not made of merges there too.
        """
        return set(self.content) == {SPACE} and not self.special


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerJson:
    """ids: of the model's own vocabulary. added: by id; some of them are in `ids` too."""

    path: Path
    ids: Mapping[str, int]
    merges: Sequence[str | Sequence[str]]
    added: Mapping[int, Added]
    model: Json
    normalizer: Json | None
    pre_tokenizer: Json | None
    post_processor: Json | None

    @classmethod
    def open(cls, folder: Path) -> TokenizerJson:
        """Raises BaseModelError (tokenizer_missing), FormatError, UnsupportedError (not BPE)."""
        Tokenizer.require(folder)
        path = folder / "tokenizer.json"
        try:
            content = parse_json(read_whole(path, MAX_TOKENIZER), items=MAX_ITEMS)
            model = content["model"]
            kind = model.get("type", "BPE")
            if kind != "BPE":
                raise UnsupportedError(
                    f"{path} is of the kind {kind!r:.40}, which is not written to GGUF here",
                    hint="supported are BPE over bytes, and SentencePiece's BPE",
                )
            parts = [content.get(name) for name in _PARTS]
            for part, inner in zip(parts, _PARTS.values(), strict=True):
                steps(part, inner)  # which are objects, all of them
            ids = dict(model["vocab"])
            if set(map(type, ids.values())) - {int}:
                raise ValueError("its ids are not all numbers")
            return cls(
                path=path,
                ids=ids,
                merges=list(model["merges"]),
                added={one["id"]: _added(one) for one in content.get("added_tokens") or ()},
                model=model,
                normalizer=parts[0],
                pre_tokenizer=parts[1],
                post_processor=parts[2],
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FormatError(f"{path} is not a valid tokenizer: {error!r:.200}") from error

    @property
    def is_sentencepiece(self) -> bool:
        """Whether what has no token falls back to bytes, so that text stays what it is."""
        return bool(self.model.get("byte_fallback")) and not any(
            step.get("type") == "ByteLevel" for step in steps(self.pre_tokenizer, "pretokenizers")
        )

    def pairs(self) -> Sequence[tuple[str, str]]:
        """Both parts of each merge, the first one first. Raises FormatError."""
        found = self.merges
        if found and isinstance(found[0], str):
            found = [merge.split(" ") for merge in found if isinstance(merge, str)]
        if len(found) != len(self.merges) or set(map(len, found)) - {2}:
            raise FormatError(f"{self.path} has merges that are not of two parts")
        return found  # type: ignore[return-value]  # of two, as was looked at

    def refuse(self, what: str, found: object) -> NoReturn:
        """Raise UnsupportedError that shows a setting."""
        raise UnsupportedError(
            f"{self.path}: {what} that llama.cpp cannot be told",
            items=[f"{found!s:.{SHOWN}}"],
            hint="a GGUF file of it would give other token ids",
        )


def tokens(tokenizer: TokenizerJson, rows: int) -> dict[int, str]:
    """Tokens by id, without those added ones that have no row of the embedding.

    Raises BaseModelError for tokens of the vocabulary that have none.
    """
    found = {index: token for token, index in tokenizer.ids.items()}
    found |= {index: one.content for index, one in tokenizer.added.items()}
    beyond = sorted(index for index in found if index >= rows)
    lost = [index for index in beyond if index not in tokenizer.added]
    if lost:
        raise BaseModelError(
            f"{tokenizer.path} has {len(lost)} tokens beyond the {rows} rows of the embedding",
            items=[f"{index}: {found[index]!r:.80}" for index in lost[:20]],
            hint="the tokenizer may be that of another model",
        )
    for index in beyond:
        del found[index]
    return found


def _added(one: Json) -> Added:
    if type(one["id"]) is not int or not isinstance(one["content"], str):
        raise ValueError(f"an added token is {dict(one)!s:.120}")
    return Added(
        content=one["content"],
        special=bool(one.get("special")),
        left=bool(one.get("lstrip")),
        right=bool(one.get("rstrip")),
        word=bool(one.get("single_word")),
        late=bool(one.get("normalized")),
    )
