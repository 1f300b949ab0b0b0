"""Tokenizer: text to token ids and back, from a base model's own tokenizer files.

It stands on the `tokenizers` library and reads tokenizer.json; the ids of the special tokens come
from tokenizer_config.json, special_tokens_map.json, generation_config.json and config.json. It
knows nothing of chat templates or of models.

No environment variable is set. `tokenizers` warns after a fork only once its thread pool has run;
we call its single-text methods alone, which never start the pool.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import tokenizers

from lorakit.errors import (
    BaseModelError,
    FormatError,
    LorakitError,
    ParameterError,
)
from lorakit.files.bounded import AGAIN, parse_json, read_bounded
from lorakit.files.pointers import refuse_pointer
from lorakit.text.apart import Apart
from lorakit.text.detokenizer import Detokenizer, TextStream, compile_decoder
from lorakit.text.marks import EncodeApart, Marks

__all__ = ["TextStream", "TextTokenizer", "Tokenizer", "read_special_tokens"]

MAX_TOKENIZER = 128 << 20  # bytes; Gemma 3's tokenizer.json is 33 MB
MAX_SMALL_FILE = 16 << 20  # bytes; a tokenizer_config.json with a long token table is about 2 MB
_MAX_ID = 1 << 31
Json = Mapping[str, Any]


class TextTokenizer(Protocol):
    """What the layers above need of a tokenizer, whichever library it stands on; see Tokenizer."""

    @property
    def vocabulary(self) -> int: ...
    @property
    def bos_id(self) -> int | None: ...
    @property
    def eos_ids(self) -> frozenset[int]: ...
    @property
    def control_ids(self) -> frozenset[int]: ...
    @property
    def special_tokens(self) -> Mapping[str, str]: ...
    @property
    def marked_tokens(self) -> Mapping[str, int]: ...
    def apart(self, marks: Marks) -> EncodeApart: ...
    def encode(self, text: str, *, special: bool) -> list[int]: ...
    def decode(
        self, ids: Iterable[int], *, skip: Collection[int] = (), continuing: bool = False
    ) -> str: ...
    def stream(self, *, skip: Collection[int] = (), continuing: bool = False) -> TextStream: ...
    def token_id(self, token: str) -> int | None: ...
    def token_bytes(self, token: int) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tokenizer:
    """A base model's tokenizer. Immutable, and safe to share between threads.

    vocabulary: one more than the highest token id; a model's logits may have more columns.
    bos_id: the token that opens a prompt, if the model has one.
    eos_ids: tokens that end a reply: the generation config's (which names the tool-call stop of
    models that have one), and the tokenizer's own.
    control_ids: special tokens, such as <end_of_turn>, that are structure and not text.
    special_tokens: by role, such as {"bos_token": "<bos>"}: what chat templates are given.
    """

    vocabulary: int
    bos_id: int | None
    eos_ids: frozenset[int]
    control_ids: frozenset[int]
    special_tokens: Mapping[str, str]
    _native: tokenizers.Tokenizer
    _detokenizer: Detokenizer

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Tokenizer:
        """Read the tokenizer of a model folder.

        Raises BaseModelError (code tokenizer_missing) where there is no tokenizer.json,
        FormatError where a file is broken, and UnsupportedError for a decoder that cannot stream.
        """
        path = Path(folder)
        native = _load(path / "tokenizer.json")
        roles = read_special_tokens(path)
        detokenizer = _detokenizer_of(native, path)
        added = native.get_added_tokens_decoder()
        named = {native.token_to_id(token) for token in roles.values()}
        control = {index for index, token in added.items() if token.special} | named
        return cls(
            vocabulary=_vocabulary(native, added),
            bos_id=_bos_id(path, native, roles),
            eos_ids=_eos_ids(path, native, roles),
            control_ids=frozenset(index for index in control if index is not None),
            special_tokens=MappingProxyType(roles),
            _native=native,
            _detokenizer=detokenizer,
        )

    @staticmethod
    def require(folder: str | os.PathLike[str]) -> None:
        """Raise BaseModelError (tokenizer_missing) where `open` would; costs nothing."""
        if not (Path(folder) / "tokenizer.json").is_file():
            raise _missing(Path(folder))

    @property
    def added_tokens(self) -> dict[int, str]:
        """The tokens that are found in a text before it is cut, by id: not control tokens alone."""
        added = self._native.get_added_tokens_decoder()
        return {index: token.content for index, token in added.items()}

    @property
    def marked_tokens(self) -> dict[str, int]:
        """`added_tokens` by their text."""
        return {text: index for index, text in self.added_tokens.items()}

    def apart(self, marks: Marks) -> EncodeApart:
        """What encodes texts in which some of these tokens are meant as text."""
        with _mapped("the tokenizer cannot be used without its control tokens"):
            return Apart(self._native, marks)

    @property
    def normalizer(self) -> Json | None:
        """What changes text before it is cut, as tokenizer.json says it."""
        return _state(self._native.normalizer)

    @property
    def pre_tokenizer(self) -> Json | None:
        """What cuts text, as tokenizer.json says it."""
        return _state(self._native.pre_tokenizer)

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Token ids of a text. Control tokens written in the text become control tokens.

        special: add what the tokenizer's post-processor adds, such as <bos>. A rendered chat
        template already holds it: encode that without. Raises ParameterError for what is not
        valid Unicode text.
        """
        if not isinstance(text, str):
            raise ParameterError(f"text must be a string, found {type(text).__name__}")
        if not text.isascii():
            _refuse_surrogates(text)
        with _mapped("the tokenizer failed to encode the text"):
            encoding = self._native.encode(text, add_special_tokens=special)
        return list(encoding.ids)

    def decode(
        self, ids: Iterable[int], *, skip: Collection[int] = (), continuing: bool = False
    ) -> str:
        """The text of token ids, control tokens shown, without those in `skip`.

        Ids that the tokenizer does not know have no text; bytes that are not UTF-8 become U+FFFD.
        continuing: the ids follow other text. SentencePiece tokenizers drop the first space of a
        text; a completion of a prompt keeps it. "Clean-up" of spaces is never done: it loses text.
        """
        return self._detokenizer.text(ids, skip, continuing)

    def stream(self, *, skip: Collection[int] = (), continuing: bool = False) -> TextStream:
        """An incremental `decode` of one sequence."""
        return TextStream(self._detokenizer, skip=skip, continuing=continuing)

    def token(self, token: int) -> str:
        """A token as the vocabulary spells it ("Ġhello", "▁hello"); "" for an unknown id."""
        return _id_to_token(self._native, token) or ""

    def token_id(self, token: str) -> int | None:
        """The id of a token as the vocabulary spells it; None if there is none."""
        found: int | None = self._native.token_to_id(token)
        return found

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token adds in mid-text: part of a character, perhaps. Unknown: b""."""
        return self._detokenizer.token_bytes(token) or b""

    def token_text(self, token: int) -> str:
        """A token alone, for display: U+FFFD for bytes that are part of a character."""
        return self.token_bytes(token).decode("utf-8", "replace")

    def is_control(self, token: int) -> bool:
        """Whether a token is structure, such as <end_of_turn>, and not text."""
        return token in self.control_ids


def steps(setting: Json | None, name: str) -> list[Json]:
    """The steps of a normalizer or another part of tokenizer.json, those in sequences too.

    name: what a sequence calls them, such as "normalizers".
    """
    if setting is None:
        return []
    if setting.get("type") != "Sequence":
        return [setting]
    return [inner for step in setting.get(name) or () for inner in steps(step, name)]


def read_special_tokens(folder: Path) -> dict[str, str]:
    """Special tokens by role, from tokenizer_config.json and special_tokens_map.json.

    The first wins, as in transformers. Raises FormatError where a file is broken.
    """
    roles: dict[str, str] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        for role, value in read_optional(folder / name).items():
            token = value.get("content") if isinstance(value, dict) else value
            if role.endswith("_token") and isinstance(token, str) and role not in roles:
                roles[role] = token
    return roles


def read_optional(path: Path) -> dict[str, Any]:
    """A JSON object from a small file that need not exist; {} without it, FormatError if broken."""
    try:
        content = parse_json(read_whole(path, MAX_SMALL_FILE))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise FormatError(f"{path} is not valid JSON: {error}", hint=AGAIN) from error
    if not isinstance(content, dict):
        raise FormatError(f"{path} must hold a JSON object")
    return content


def read_whole(path: Path, limit: int) -> bytes:
    """A file's bytes. Raises FileNotFoundError, and FormatError if unreadable, too large or a
    pointer of git-lfs."""
    try:
        content = read_bounded(path, limit)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FormatError(f"cannot read {path}: {error.strerror or error}") from error
    if content is None:
        raise FormatError(f"{path} is larger than {limit} bytes")
    refuse_pointer(content[:64], path)
    return content


def _missing(folder: Path) -> BaseModelError:
    return BaseModelError(
        f"{folder} has no tokenizer.json",
        code="tokenizer_missing",
        hint="copy tokenizer.json from the model's repository; a tokenizer.model or vocab.txt "
        "alone is not read (transformers' AutoTokenizer can write tokenizer.json from it)",
    )


def _load(path: Path) -> tokenizers.Tokenizer:
    try:
        content = read_whole(path, MAX_TOKENIZER)
    except FileNotFoundError as error:
        raise _missing(path.parent) from error
    with _mapped(f"{path} is not a valid tokenizer", hint=AGAIN):
        native = tokenizers.Tokenizer.from_buffer(content)
        native.no_truncation()  # some files carry the settings of their training
        native.no_padding()
        if getattr(native.model, "dropout", None) is not None:
            native.model.dropout = None  # a training setting too: it makes encoding random
    return native


def _vocabulary(native: tokenizers.Tokenizer, added: Collection[int]) -> int:
    """One more than the highest id, without copying the vocabulary out (0.5 s for 262,144)."""
    size = max(native.get_vocab_size(with_added_tokens=True), max(added, default=-1) + 1)
    while native.id_to_token(size) is not None:  # there are holes before it
        size += 1
    return size


def _detokenizer_of(native: tokenizers.Tokenizer, folder: Path) -> Detokenizer:
    decoder = native.decoder
    try:
        with _mapped("the tokenizer's decoder is broken"):
            rules = compile_decoder(_state(decoder))
    except FormatError as error:
        raise type(error)(
            f"{folder / 'tokenizer.json'}: {error.message}", items=error.items, hint=error.hint
        ) from error
    return Detokenizer(rules, lambda token: _id_to_token(native, token))


def _state(part: Any) -> Json | None:
    """A part of a tokenizer, as tokenizer.json says it."""
    if part is None:
        return None
    state: Json = json.loads(part.__getstate__())
    return state


def _id_to_token(native: tokenizers.Tokenizer, token: int) -> str | None:
    if not 0 <= token < _MAX_ID:
        raise ParameterError(f"{token} is not a token id")
    found: str | None = native.id_to_token(int(token))
    return found


def _bos_id(folder: Path, native: tokenizers.Tokenizer, roles: Mapping[str, str]) -> int | None:
    found: int | None = native.token_to_id(roles["bos_token"]) if "bos_token" in roles else None
    return found if found is not None else next(iter(config_ids(folder, "bos_token_id")), None)


def _eos_ids(
    folder: Path, native: tokenizers.Tokenizer, roles: Mapping[str, str]
) -> frozenset[int]:
    own = native.token_to_id(roles["eos_token"]) if "eos_token" in roles else None
    return frozenset(config_ids(folder, "eos_token_id")) | ({own} if own is not None else set())


def config_ids(folder: Path, key: str) -> list[int]:
    """Token ids from generation_config.json, else config.json (or its text_config)."""
    for name in ("generation_config.json", "config.json"):
        content = read_optional(folder / name)
        text = content.get("text_config")
        value = content.get(key)
        if value is None and isinstance(text, dict):
            value = text.get(key)
        if value is None:
            continue
        ids = value if isinstance(value, list) else [value]
        if not all(type(index) is int and 0 <= index < _MAX_ID for index in ids):
            raise FormatError(f"{folder / name}: {key} must be a token id or a list of them")
        return ids
    return []


def _refuse_surrogates(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ParameterError(
            f"the text is not valid Unicode: a lone surrogate at position {error.start}"
        ) from error


@contextmanager
def _mapped(message: str, hint: str = "") -> Iterator[None]:
    """Map what `tokenizers` raises to FormatError.

    A Rust panic arrives as PanicException, which derives from BaseException and cannot be imported.
    """
    try:
        yield
    except LorakitError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise FormatError(f"{message}: {str(error)[:500]}", hint=hint) from error
