"""From token ids to text: one token's bytes, and a stream that never splits a character.

A tokenizer's decoder is compiled once into rules that give each token's bytes on its own, so that
a stream costs a lookup and an incremental UTF-8 decoder per token, whatever came before.
`tokenizers.DecodeStream` is not used: it holds back everything after an invalid sequence (and
decodes it again at each step), has no flush, and raises on some sequences ("Invalid prefix").

Streaming equals decoding at once by construction, and equals `tokenizers`' own decoding for all
valid UTF-8. On invalid bytes ours keeps the valid characters beside them, where byte-fallback
decoders upstream turn the whole run of bytes into replacement characters.

It knows nothing of files or of encoding.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorakit.errors import UnsupportedError

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_utf8 = codecs.getincrementaldecoder("utf-8")

Convert = Callable[[str], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """A decoder as data: the bytes of one token, and what differs at the start of a text."""

    convert: Convert
    separator: bytes = b""  # between tokens
    strip: bytes = b""  # removed from the start of the text ...
    strip_count: int = 0  # ... at most so many times
    drop_in_first: str = ""  # removed from the first token wherever it stands in it


def compile_decoder(state: Mapping[str, Any] | None) -> Rules:
    """Rules from the `decoder` part of tokenizer.json.

    Raises UnsupportedError for a decoder whose text of a token depends on the tokens around it
    (WordPiece, CTC and others that no decoder-only language model uses).
    """
    if state is None:
        return Rules(convert=str.encode, separator=b" ")
    kind = state.get("type")
    if kind == "Metaspace":
        mark = str(state.get("replacement", "▁"))
        first = "" if state.get("prepend_scheme", "always") == "never" else mark
        return Rules(convert=lambda token: token.replace(mark, " ").encode(), drop_in_first=first)
    steps = state.get("decoders", []) if kind == "Sequence" else [state]
    return _compile_sequence(steps)


def _compile_sequence(steps: Sequence[Mapping[str, Any]]) -> Rules:
    replacements: list[tuple[str, str]] = []
    final: Convert = str.encode
    strip, count, fused = b"", 0, False
    for step in steps:
        kind, pattern = step.get("type"), step.get("pattern")
        if kind == "Replace" and not fused and isinstance(pattern, dict) and "String" in pattern:
            replacements.append((str(pattern["String"]), str(step.get("content", ""))))
        elif kind == "ByteFallback" and not fused and final is str.encode:
            final = _fallback_bytes
        elif kind == "ByteLevel" and not fused and final is str.encode:
            final, fused = _byte_level, True
        elif kind == "Fuse":
            fused = True
        elif kind == "Strip" and fused and not step.get("stop") and not strip:
            strip, count = str(step.get("content", "")).encode(), int(step.get("start", 0))
        else:
            raise UnsupportedError(
                f"this tokenizer's decoder has a step that cannot be streamed: {kind}",
                hint="supported: ByteLevel, Metaspace, or Replace, ByteFallback, Fuse and Strip",
            )

    def convert(token: str) -> bytes:
        for old, new in replacements:
            token = token.replace(old, new)
        return final(token)

    return Rules(convert=convert, strip=strip, strip_count=count)


def _fallback_bytes(token: str) -> bytes:
    """SentencePiece's byte fallback: the token <0xE4> is the byte E4."""
    match = _BYTE_TOKEN.fullmatch(token)
    return bytes([int(match[1], 16)]) if match else token.encode()


def _alphabet() -> dict[int, int]:
    """GPT-2's bytes as printable characters: code point -> byte (Radford et al. 2019)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: byte for byte in printable} | {256 + i: byte for i, byte in enumerate(others)}


_ALPHABET = _alphabet()


def _byte_level(token: str) -> bytes:
    """A byte-level token's bytes; a token with other characters (an added one) is itself."""
    try:
        return bytes([_ALPHABET[ord(char)] for char in token])
    except KeyError:
        return token.encode()


class Detokenizer:
    """Token ids to bytes and text, for one tokenizer. Safe to share between threads.

    token: gives a token's string, or None for an id that the tokenizer does not know; such ids
    (padding rows of the embedding) have no text.
    """

    def __init__(self, rules: Rules, token: Callable[[int], str | None]) -> None:
        self.rules = rules
        self._token = token
        self._bytes: dict[int, bytes | None] = {}

    def token_bytes(self, token: int) -> bytes | None:
        """The bytes that a token adds in mid-text; None for an unknown id."""
        try:
            return self._bytes[token]
        except KeyError:
            string = self._token(token)
            found = None if string is None else self.rules.convert(string)
            self._bytes[token] = found
            return found

    def first_bytes(self, token: int) -> bytes | None:
        """The bytes that a token adds when it is the first of a text."""
        string = self._token(token) if self.rules.drop_in_first else None
        if string is None:
            return self.token_bytes(token)
        return self.rules.convert(string.replace(self.rules.drop_in_first, ""))

    def text(self, tokens: Iterable[int], skip: Collection[int], continuing: bool) -> str:
        """All the tokens at once."""
        stream = TextStream(self, skip=skip, continuing=continuing)
        return b"".join(map(stream.step_bytes, tokens)).decode("utf-8", "replace")


class TextStream:
    """Incremental detokenizer of one sequence: `step` each token, `flush` at the end.

    The pieces that it returns, joined, are what `Tokenizer.decode` gives for all the tokens; a
    piece never ends within a UTF-8 character, and a replacement character appears only where the
    bytes can no longer become a character. For use by one thread at a time.
    """

    __slots__ = ("_decoder", "_detokenizer", "_skip", "_started", "_strips_left")

    def __init__(
        self, detokenizer: Detokenizer, *, skip: Collection[int] = (), continuing: bool = False
    ) -> None:
        self._detokenizer = detokenizer
        self._skip = skip if isinstance(skip, frozenset) else frozenset(skip)
        self._started = continuing
        self._strips_left = 0 if continuing else detokenizer.rules.strip_count
        self._decoder = _utf8("replace")

    def step(self, token: int) -> str:
        """Add a token; returns the text that is now certain, often "" within a character."""
        return self._decoder.decode(self.step_bytes(token))

    def flush(self) -> str:
        """What is left of an unfinished character, as replacement characters; usually ""."""
        return self._decoder.decode(b"", final=True)

    def step_bytes(self, token: int) -> bytes:
        """Add a token; returns its bytes here, before UTF-8 decoding."""
        if token in self._skip:
            return b""
        if self._started and not self._strips_left and not self._detokenizer.rules.separator:
            return self._detokenizer.token_bytes(token) or b""
        return self._edge(token)

    def _edge(self, token: int) -> bytes:
        """A token at the start of a text, or after a separator."""
        rules, detokenizer = self._detokenizer.rules, self._detokenizer
        if self._started:
            piece = detokenizer.token_bytes(token)
            piece = None if piece is None else rules.separator + piece
        else:
            piece = detokenizer.first_bytes(token)
        if piece is None:
            return b""
        self._started = True
        while self._strips_left and rules.strip and piece.startswith(rules.strip):
            piece = piece[len(rules.strip) :]
            self._strips_left -= 1
        if piece:
            self._strips_left = 0
        return piece
