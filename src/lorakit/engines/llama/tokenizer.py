"""A GGUF file's own tokenizer, through llama.cpp: the same ids as in other llama.cpp programs.

It holds a native model of its own, loaded with the vocabulary only. So any thread may encode at any
time, and it still works after the engine is closed.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from lorakit.engines.llama.grammar import Grammar
from lorakit.engines.llama.model import load_model
from lorakit.engines.llama.native import llama
from lorakit.engines.llama.options import LlamaOptions
from lorakit.errors import BaseModelError, FormatError, ParameterError
from lorakit.processes import on_fork
from lorakit.text.detokenizer import Detokenizer, Rules, TextStream

LONGEST_PIECE = 1 << 16  # bytes of one token
_SPM = 1  # llama_vocab_type: SentencePiece, which drops a leading space


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
        strip = b" " if api.llama_vocab_type(vocab) == _SPM and self._prefixes_space() else b""
        rules = Rules(convert=lambda token: token.encode("latin-1"), strip=strip, strip_count=1)
        self._detokenizer = Detokenizer(rules, self._piece)

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()  # the native tokenizer may not be thread-safe

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Token ids of a text. Control tokens written out in the text are recognised.

        special: add the tokens that the file puts before a prompt, such as <bos>. Raises
        ParameterError for what is not valid Unicode text.
        """
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
                count = llama().llama_tokenize(self._vocab, raw, len(raw), ids, room, special, True)
            if count >= 0:
                return list(ids[:count])
            if -count <= room:
                raise FormatError("llama.cpp cannot tokenize the text")
            room = -count

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

    def constraint(self, grammar: str) -> Grammar:
        """A constraint that keeps an answer to a GBNF grammar. Raises ParameterError."""
        return Grammar(self, self._vocab, grammar)

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

    def _meta(self, key: str) -> str | None:
        buffer = ctypes.create_string_buffer(256)
        size = llama().llama_model_meta_val_str(self._model, key.encode(), buffer, 256)
        return buffer.value.decode("utf-8", "replace") if size >= 0 else None
