"""Encoding text in which control tokens are spelled, with the `tokenizers` library.

A second tokenizer shares the first one's model and does not know these tokens. Where one is meant,
a token of its own stands in the text, so that all around it is cut as it always was.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import tokenizers
from tokenizers import AddedToken

from lorakit.text.marks import Marks, Range

SIDES = [(left, right) for left in (False, True) for right in (False, True)]


class Apart:
    """See lorakit.text.marks.EncodeApart. Thread-safe."""

    def __init__(self, native: tokenizers.Tokenizer, marks: Marks) -> None:
        self._marks = marks
        self._native = apart = tokenizers.Tokenizer(native.model)
        if native.normalizer is not None:
            apart.normalizer = native.normalizer
        if native.pre_tokenizer is not None:
            apart.pre_tokenizer = native.pre_tokenizer
        added = native.get_added_tokens_decoder()
        kept = {index: token for index, token in added.items() if token.content not in marks.tokens}
        apart.add_tokens(list(kept.values()))
        self._ids = {apart.token_to_id(token.content): index for index, token in kept.items()}
        nonce = secrets.token_hex(8)  # so that no text holds what stands for a token
        names = {side: f"\ufdd0{nonce}{int(side[0])}{int(side[1])}\ufdd1" for side in SIDES}
        apart.add_tokens(
            [
                AddedToken(name, lstrip=left, rstrip=right, normalized=False)
                for (left, right), name in names.items()
            ]
        )
        self._stand_ins = {apart.token_to_id(name) for name in names.values()}
        self._stands_for = {
            token.content: names[token.lstrip, token.rstrip] for token in added.values()
        }

    def __call__(self, text: str, ranges: Sequence[Range]) -> list[int]:
        meant, parts = [], []
        for start, end, mark in self._marks.apart(text, ranges):
            parts.append(text[start:end])
            if mark:
                parts.append(self._stands_for[mark])
                meant.append(self._marks.tokens[mark])
        tokens = iter(meant)
        ids = self._native.encode("".join(parts), add_special_tokens=False).ids
        return [
            next(tokens) if index in self._stand_ins else self._ids.get(index, index)
            for index in ids
        ]
