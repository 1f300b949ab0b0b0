"""tokenizer.json and tokenizer_config.json out of a GGUF file's vocabulary.

Two kinds: byte-level BPE, whose merges the file has ("gpt2"), and SentencePiece's BPE with byte
fallback, whose merges follow from its scores ("llama": Llama 2, Mistral, Phi 3, Gemma). Keys and
kinds of tokens as in ggml-org/ggml, docs/gguf.md, and llama.cpp, src/llama-vocab.cpp.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorakit.errors import BaseModelError, FormatError, UnsupportedError
from lorakit.files.gguf import GgufFile
from lorakit.merge.gguf.metadata import Metadata
from lorakit.merge.gguf.splitting import Splitting, byte_level, splitting

MAX_TOKEN = 1024  # characters
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
_SENTENCEPIECE = {"bos": 1, "eos": 2, "unk": 0}  # where a file does not say them
ENDS = frozenset(  # what llama.cpp takes for the end of a reply, by its text
    {"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<|endoftext|>"}
)
_SPACE = "\u2581"
STRIPPING = ("phi-3", "phi3")  # in whose tokenizers control tokens take the spaces after them
NOT_STRIPPING = {"<unk>", "<s>", "<|endoftext|>"}
Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """What a file says of its tokenizer."""

    kind: str  # gpt2 or llama
    tokens: tuple[str, ...]
    types: Sequence[int]
    scores: Sequence[float]
    merges: tuple[str, ...]
    splitting: Splitting | None
    roles: Mapping[str, int]
    begins: bool  # <bos> is put before a text
    ends: bool  # <eos> is put after it
    prefixed: bool  # a space is put before a text
    stripping: bool

    @property
    def end_ids(self) -> list[int]:
        """The tokens that end a reply, the usual one first."""
        named = [index for index, token in enumerate(self.tokens) if token in ENDS]
        first = [self.roles["eos"]] if "eos" in self.roles else []
        return first + [index for index in named if index not in first]

    @property
    def special(self) -> dict[int, str]:
        """Tokens that are found in a text before it is cut, by id."""
        kinds = (CONTROL, UNKNOWN, USER_DEFINED)
        return {
            index: token
            for index, token in enumerate(self.tokens)
            if self.types[index] in kinds or token in ENDS
        }


def read_vocabulary(file: GgufFile) -> Vocabulary | None:
    """None where the file has no tokenizer.

    Raises UnsupportedError for a kind of tokenizer, or a way to cut text, that is not known, and
    FormatError where the file contradicts itself.
    """
    metadata = Metadata(file)
    kind = metadata.text("tokenizer.ggml.model", "none")
    if kind in ("none", "no_vocab"):
        return None
    if kind not in ("gpt2", "llama"):
        raise UnsupportedError(
            f"{file.path} has a tokenizer of the kind {kind!r:.40}, which is not written here",
            hint='supported are "gpt2" (byte-level BPE) and "llama" (SentencePiece)',
        )
    tokens = metadata.texts("tokenizer.ggml.tokens")
    _require_usable(file, tokens)
    cut = splitting(metadata.text("tokenizer.ggml.pre", "default")) if kind == "gpt2" else None
    begins = cut.begins if cut is not None else True
    roles = _roles(metadata, kind, len(tokens))
    name = metadata.text("general.name", "").lower()
    return Vocabulary(
        kind=kind,
        tokens=tokens,
        types=_numbers(file, metadata, "token_type", len(tokens), NORMAL),
        scores=_numbers(file, metadata, "scores", len(tokens), 0.0),
        merges=metadata.texts("tokenizer.ggml.merges"),
        splitting=cut,
        roles=roles,
        begins="bos" in roles and metadata.flag("tokenizer.ggml.add_bos_token", begins),
        ends="eos" in roles and metadata.flag("tokenizer.ggml.add_eos_token", False),
        prefixed=metadata.flag("tokenizer.ggml.add_space_prefix", kind == "llama"),
        stripping=any(mark in name for mark in STRIPPING),
    )


def tokenizer_json(vocabulary: Vocabulary) -> bytes:
    """What the `tokenizers` library reads."""
    byte = vocabulary.kind == "gpt2"
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added(vocabulary),
        **(_byte_level(vocabulary) if byte else _sentencepiece(vocabulary)),
        "post_processor": _around(vocabulary),
    }
    return json.dumps(content, ensure_ascii=False).encode() + b"\n"


def tokenizer_config(vocabulary: Vocabulary, templates: Mapping[str, str], context: int) -> Json:
    """The special tokens by role, and the chat templates."""
    roles = {f"{role}_token": vocabulary.tokens[token] for role, token in vocabulary.roles.items()}
    config: Json = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        **roles,
    }
    if set(templates) == {"default"}:
        config["chat_template"] = templates["default"]
    elif templates:
        named = [{"name": name, "template": text} for name, text in templates.items()]
        config["chat_template"] = named
    return config


def _require_usable(file: GgufFile, tokens: Sequence[str]) -> None:
    faults = [f"{t!r:.80}: twice" for t, count in Counter(tokens).items() if count > 1]
    faults += [f"{t!r:.80}: {len(t)} characters" for t in tokens if len(t) > MAX_TOKEN]
    if faults or not tokens:
        raise FormatError(
            f"{file.path} has no usable vocabulary", items=faults[:20] or ["no tokens"]
        )


def _numbers(file: GgufFile, metadata: Metadata, key: str, count: int, default: float) -> Any:
    found = metadata.numbers(f"tokenizer.ggml.{key}")
    if found is None:
        return [default] * count
    if len(found) != count:
        raise FormatError(f"{file.path}: {len(found)} of {key} for {count} tokens")
    return found


def _roles(metadata: Metadata, kind: str, count: int) -> dict[str, int]:
    defaults = _SENTENCEPIECE if kind == "llama" else {}
    found = {}
    for role, key in ROLES.items():
        token = metadata.whole(f"tokenizer.ggml.{key}_token_id", defaults.get(role))
        if token is not None and 0 <= token < count:
            found[role] = int(token)
    return found


def _added(vocabulary: Vocabulary) -> list[Json]:
    return [
        {
            "id": index,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": vocabulary.stripping and token not in NOT_STRIPPING,
            "normalized": False,
            "special": vocabulary.types[index] != USER_DEFINED,
        }
        for index, token in vocabulary.special.items()
    ]


def _ids(vocabulary: Vocabulary) -> dict[str, int]:
    """Ids by token, without those that only fill the table of embeddings up."""
    return {
        token: index
        for index, token in enumerate(vocabulary.tokens)
        if not (vocabulary.types[index] == UNUSED and token == f"[PAD{index}]")
    }


def _byte_level(vocabulary: Vocabulary) -> Json:
    cut = vocabulary.splitting
    assert cut is not None
    merges = [_pair(merge) for merge in vocabulary.merges]
    model = _bpe(_ids(vocabulary), merges, ignore_merges=cut.whole_words)
    return {
        "normalizer": {"type": "NFC"} if cut.composed else None,
        "pre_tokenizer": cut.pre_tokenizer,
        "decoder": byte_level(use_regex=True),
        "model": model,
    }


def _pair(merge: str) -> list[str]:
    """The second part begins after the first space that is not the first character."""
    at = merge.find(" ", 1)
    if at < 0:
        raise BaseModelError(f"the vocabulary has a merge without a space: {merge!r:.80}")
    return [merge[:at], merge[at + 1 :]]


def _sentencepiece(vocabulary: Vocabulary) -> Json:
    """Spaces become a character of their own; what has no token falls back to its bytes."""
    escape: Json = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    unescape: Json = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    normalizers, decoders = [escape], [unescape, {"type": "ByteFallback"}, {"type": "Fuse"}]
    if vocabulary.prefixed:
        normalizers = [{"type": "Prepend", "prepend": _SPACE}, escape]
        decoders = [*decoders, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    unknown = vocabulary.tokens[vocabulary.roles["unk"]] if "unk" in vocabulary.roles else None
    ids = _ids(vocabulary)
    merges = [[left, right] for left, right in _merges(vocabulary, ids)]
    return {
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _bpe(ids, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True),
    }


def _bpe(ids: Mapping[str, int], merges: list[list[str]], **settings: Any) -> Json:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        **settings,
        "vocab": ids,
        "merges": merges,
    }


def _merges(vocabulary: Vocabulary, ids: Mapping[str, int]) -> list[tuple[str, str]]:
    """Every way to join two tokens to a third, that with the best score first.

    SentencePiece joins the pair whose whole has the best score, and of equals the leftmost.
    """
    whole = {
        token: vocabulary.scores[index]
        for token, index in ids.items()
        if vocabulary.types[index] in (NORMAL, UNUSED)
    }
    pairs = [
        (score, token[:at], token[at:])
        for token, score in whole.items()
        for at in range(1, len(token))
        if token[:at] in whole and token[at:] in whole
    ]
    pairs.sort(key=lambda pair: (-pair[0], -len(pair[1])))
    return [(left, right) for _, left, right in pairs]


def _around(vocabulary: Vocabulary) -> Json:
    """The tokens that are put before and after a text."""
    wanted = {"bos": vocabulary.begins, "eos": vocabulary.ends}
    put = {role: vocabulary.roles[role] for role, is_put in wanted.items() if is_put}
    named = {role: vocabulary.tokens[token] for role, token in put.items()}

    def around(sequence: str, kind: int) -> list[Json]:
        middle: Json = {"Sequence": {"id": sequence, "type_id": kind}}
        marks = {role: {"SpecialToken": {"id": t, "type_id": kind}} for role, t in named.items()}
        return [mark for mark in (marks.get("bos"), middle, marks.get("eos")) if mark]

    return {
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": around("A", 0) + around("B", 1),
        "special_tokens": {
            named[role]: {"id": named[role], "ids": [token], "tokens": [named[role]]}
            for role, token in put.items()
        },
    }
