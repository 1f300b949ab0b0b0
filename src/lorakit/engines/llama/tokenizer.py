"""A GGUF file's own tokenizer, through llama.cpp: the same ids as in other llama.cpp programs.

It holds a native model of its own, loaded with the vocabulary only. So any thread may encode at any
time, and it still works after the engine is closed.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from lorakit.computed import computed_once
from lorakit.engines.llama.model import load_model
from lorakit.engines.llama.native import llama
from lorakit.engines.llama.options import LlamaOptions
from lorakit.errors import BaseModelError, CapabilityError, FormatError, ParameterError
from lorakit.processes import on_fork
from lorakit.text.detokenizer import Detokenizer, Rules, TextStream
from lorakit.text.marks import EncodeApart, Marks, Range

LONGEST_PIECE = 1 << 16  # bytes of one token
_SPM = 1  # llama_vocab_type: SentencePiece, which drops a leading space
_UNKNOWN, _CONTROL, _USER_DEFINED, _LSTRIP, _RSTRIP = 1, 8, 16, 128, 256  # llama_token_attr
_SPACE = " \t\n\v\f\r"  # what those two strip


class LlamaTokenizer:
    """The methods of text.tokenizer.Tokenizer, for a GGUF file. Thread-safe."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises EngineError (no such file, no GGUF), BaseModelError (tokenizer_missing)."""
        api = llama()
        self._model = load_model(Path(path), LlamaOptions(), vocabulary_only=True)
        self._free = weakref.finalize(self, api.llama_model_free, self._model)
        self._renew_lock()
        on_fork(self, LlamaTokenizer._renew_lock)
        self._vocab = vocab = api.llama_model_get_vocab(self._model)
        if api.llama_vocab_type(vocab) == 0:
            raise BaseModelError(f"{path} has no tokenizer", code="tokenizer_missing")
        self.vocabulary = int(api.llama_vocab_n_tokens(vocab))
        bos = int(api.llama_vocab_bos(vocab))
        self.bos_id = bos if bos >= 0 else None
        ids = range(self.vocabulary)
        self.eos_ids = frozenset(i for i in ids if api.llama_vocab_is_eog(vocab, i))
        self.control_ids = frozenset(i for i in ids if api.llama_vocab_is_control(vocab, i))
        self.special_tokens = self._roles()
        self._spaced = api.llama_vocab_type(vocab) == _SPM and self._prefixes_space()
        strip = b" " if self._spaced else b""
        rules = Rules(convert=lambda token: token.encode("latin-1"), strip=strip, strip_count=1)
        self._detokenizer = Detokenizer(rules, self._piece)

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()  # the native tokenizer may not be thread-safe

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Token ids of a text. Control tokens written out in the text are recognised.

        special: add the tokens that the file puts before a prompt, such as <bos>. Raises
        ParameterError for what is not valid Unicode text.
        """
        return self._encode(text, special=special, marked=True)

    def _encode(self, text: str, *, special: bool, marked: bool) -> list[int]:
        if not isinstance(text, str):
            raise ParameterError(f"text must be a string, found {type(text).__name__}")
        try:
            raw = text.encode()
        except UnicodeEncodeError as error:
            raise ParameterError(
                f"the text is not valid Unicode: a lone surrogate at position {error.start}"
            ) from error
        room = len(raw) + 8
        while True:
            ids = (llama().llama_token * room)()
            with self._lock:
                count = llama().llama_tokenize(
                    self._vocab, raw, len(raw), ids, room, special, marked
                )
            if count >= 0:
                return list(ids[:count])
            if -count <= room:
                raise FormatError("llama.cpp cannot tokenize the text")
            room = -count

    @computed_once
    def marked_tokens(self) -> Mapping[str, int]:
        """The tokens that are found in a text before it is cut, by their text."""
        kinds = _CONTROL | _USER_DEFINED | _UNKNOWN
        found = (i for i in range(self.vocabulary) if self._attributes(i) & kinds)
        return {self._text(token): token for token in found}

    def apart(self, marks: Marks) -> EncodeApart:
        """What encodes texts in which some of these tokens are meant as text."""

        def encode(text: str, ranges: Sequence[Range]) -> list[int]:
            ids: list[int] = []
            stripped = False
            cuts = sorted(a + 1 for a, b in ranges if self._stays(text[a:b]))
            for start, end, mark in marks.apart(text, ranges):
                token = marks.tokens.get(mark)
                own = 0 if token is None else self._attributes(token)
                words = text[start:end]
                start += len(words) - len(words.lstrip(_SPACE)) if stripped else 0
                end -= len(words) - len(words.rstrip(_SPACE)) if own & _LSTRIP else 0
                inner = cuts[bisect_right(cuts, start) : bisect_left(cuts, end)]
                ids += self._plain(text, [start, *inner, max(start, end)])
                ids += [] if token is None else [token]
                stripped = bool(own & _RSTRIP)
            return ids

        return encode

    def _stays(self, token: str) -> bool:
        """Whether llama.cpp finds a token also where it is told to find none."""
        return bool(self._attributes(self.marked_tokens[token]) & _USER_DEFINED)

    def _plain(self, text: str, cuts: list[int]) -> list[int]:
        """Ids of a text without control tokens, cut at these places."""
        ids: list[int] = []
        for number, (start, end) in enumerate(pairwise(cuts)):
            if number == 0 or not self._spaced:
                ids += self._encode(text[start:end], special=False, marked=False)
                continue
            before = self._encode("\n", special=False, marked=False)  # in place of a space
            found = self._encode("\n" + text[start:end], special=False, marked=False)
            if found[: len(before)] != before:
                raise CapabilityError(
                    "this vocabulary cannot keep control tokens that messages spell as text",
                    hint='control_tokens="template" takes them for the template\'s own',
                )
            ids += found[len(before) :]
        return ids

    def decode(
        self, ids: Iterable[int], *, skip: Collection[int] = (), continuing: bool = False
    ) -> str:
        """The text of token ids, with control tokens, but without those in `skip`."""
        return self._detokenizer.text(ids, skip, continuing)

    def stream(self, *, skip: Collection[int] = (), continuing: bool = False) -> TextStream:
        """An incremental `decode` of one sequence."""
        return TextStream(self._detokenizer, skip=skip, continuing=continuing)

    def token_id(self, token: str) -> int | None:
        """The id of a text that is a single token; None if it is not."""
        ids = self.encode(token, special=False)
        return ids[0] if len(ids) == 1 else None

    def token_bytes(self, token: int) -> bytes:
        """The bytes of a token within a text, maybe part of a character; b"" if unknown."""
        return self._detokenizer.token_bytes(token) or b""

    def _piece(self, token: int) -> str | None:
        """A token's bytes as Latin-1 text, which the detokenizer's rules convert back."""
        if not 0 <= token < self.vocabulary:
            return None
        room = 64
        while room <= LONGEST_PIECE:
            buffer = ctypes.create_string_buffer(room)
            count = llama().llama_token_to_piece(self._vocab, token, buffer, room, 0, True)
            if count >= 0:
                return buffer.raw[:count].decode("latin-1")
            room = -count
        return None

    def _prefixes_space(self) -> bool:
        value = self._meta("tokenizer.ggml.add_space_prefix")
        return value != "false"

    def _roles(self) -> Mapping[str, str]:
        """Special tokens by role, for chat templates."""
        api = llama()
        found = {
            "bos_token": api.llama_vocab_bos(self._vocab),
            "eos_token": api.llama_vocab_eos(self._vocab),
            "pad_token": api.llama_vocab_pad(self._vocab),
        }
        return {role: self._text(token) for role, token in found.items() if token >= 0}

    def _text(self, token: int) -> str:
        return (llama().llama_vocab_get_text(self._vocab, token) or b"").decode("utf-8", "replace")

    def _attributes(self, token: int) -> int:
        return int(llama().llama_vocab_get_attr(self._vocab, token))

    def _meta(self, key: str) -> str | None:
        buffer = ctypes.create_string_buffer(256)
        size = llama().llama_model_meta_val_str(self._model, key.encode(), buffer, 256)
        return buffer.value.decode("utf-8", "replace") if size >= 0 else None
