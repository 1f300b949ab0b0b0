"""What an adapter brings of text into a GGUF file: added tokens, the one that ends a reply, and its
template. The rest of the vocabulary stays the file's own.

Types of tokens as in llama.cpp (include/llama.h): 3 is a control token, 4 one that a user defined,
5 one that is not used. Rows without a token are called as its converter calls them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lorakit.base.gguf import TEMPLATE
from lorakit.errors import FormatError, UnsupportedError
from lorakit.files.gguf import GgufFile, Value
from lorakit.formats.brought import TEMPLATE as TEMPLATE_FILE
from lorakit.formats.brought import TOKENIZER, Files

TOKENS, SCORES, KINDS = (f"tokenizer.ggml.{key}" for key in ("tokens", "scores", "token_type"))
END, SIZE = "tokenizer.ggml.eos_token_id", "vocab_size"
CONTROL, DEFINED, UNUSED = 3, 4, 5
SPACE = "\u2581"  # what SentencePiece's vocabularies have for a space
Notes = tuple[str, ...]
Added = Mapping[int, tuple[str, bool]]  # by id: its text, and whether it is special


def own_text(file: GgufFile, brought: Files, rows: int) -> tuple[dict[str, Value], Notes]:
    """The keys that change, and what to say of tokens. rows: of the vocabulary, as it will be.

    Raises FormatError for a tokenizer that cannot be read, and UnsupportedError for one in which
    two ids have one text.
    """
    held = {name: content for name, content in brought if name.endswith((".json", ".jinja"))}
    config = _object(held, "tokenizer_config.json")
    values, notes = _vocabulary(file, _added(held), rows)
    tokens = values[TOKENS].data if TOKENS in values else _own(file, TOKENS)
    if (end := _end(config, tokens, file)) is not None:
        values[END] = Value("u32", end)
        notes += (f"a reply ends with the adapter's {tokens[end]!r}",)
    template = held.get(TEMPLATE_FILE, b"").decode("utf-8", "replace") or config.get(
        "chat_template"
    )
    before = file.values.get(TEMPLATE)
    if isinstance(template, str) and template.strip() != str(before and before.data).strip():
        values[TEMPLATE] = Value("str", template)
    return values, notes


def _own(file: GgufFile, key: str) -> Any:
    value = file.values.get(key)
    return () if value is None or not value.array else value.data


def _vocabulary(file: GgufFile, added: Added, rows: int) -> tuple[dict[str, Value], Notes]:
    """The arrays of a vocabulary of so many rows, where they are other than the file's."""
    tokens, kinds = list(_own(file, TOKENS)), list(_own(file, KINDS))
    scores, count = list(_own(file, SCORES)), len(tokens)
    name = f"{file.values['general.architecture'].data}.{SIZE}"
    sized = {name: Value("u32", rows)} if name in file.values else {}
    if not tokens or not kinds:
        return sized, ()
    del tokens[rows:], kinds[rows:], scores[rows:]
    for token in range(count, rows):
        tokens.append(f"[PAD{token}]")
        kinds.append(UNUSED)
    scores += [0.0] * (rows - len(scores)) if scores else []
    other = []
    for token, (text, special) in added.items():
        if token >= rows:
            other.append(token)
        elif kinds[token] == UNUSED:
            tokens[token], kinds[token] = text, CONTROL if special else DEFINED
        elif tokens[token].replace(SPACE, " ") != text.replace(SPACE, " "):
            other.append(token)
    notes = tuple(_notes(count, rows, other, bool(added)))
    if tokens == list(_own(file, TOKENS)):
        return {}, notes
    if twice := sorted(text for text, times in Counter(tokens).items() if times > 1):
        raise UnsupportedError(
            "the adapter's tokenizer gives a token's text to two ids, on which llama.cpp ends",
            items=[repr(text) for text in twice[:20]],
            hint="save the tokenizer of the training into the adapter's folder",
        )
    values = sized | {
        TOKENS: Value("str", tuple(tokens), array=True),
        KINDS: Value("i32", np.asarray(kinds, np.int32), array=True),
    }
    if scores:
        values[SCORES] = Value("f32", np.asarray(scores, np.float32), array=True)
    return values, notes


def _notes(count: int, rows: int, other: list[int], brought: bool) -> Iterator[str]:
    if rows != count:
        yield f"the vocabulary {'grew' if rows > count else 'shrank'} from {count} to {rows} tokens"
        if rows > count and not brought:
            yield "the adapter brings no tokenizer: the new tokens have ids, and no text"
    if other:
        yield (
            f"{len(other)} tokens are called otherwise in the adapter's tokenizer, such as "
            f"{min(other)}: the file's own stay"
        )


def _added(held: Mapping[str, bytes]) -> Added:
    """Added tokens of a tokenizer.json, or of an added_tokens.json alone."""
    found: dict[int, tuple[str, bool]] = {}
    listed = _object(held, TOKENIZER).get("added_tokens")
    for entry in listed if isinstance(listed, list) else ():
        token, text = (entry.get("id"), entry.get("content")) if isinstance(entry, dict) else (0, 0)
        if (
            isinstance(token, int)
            and not isinstance(token, bool)
            and isinstance(text, str)
            and text
        ):
            found[token] = text, bool(entry.get("special"))
    if not found:
        for text, token in _object(held, "added_tokens.json").items():
            if isinstance(token, int) and not isinstance(token, bool):
                found[token] = text, True
    return {token: said for token, said in sorted(found.items()) if token >= 0}


def _end(config: Mapping[str, Any], tokens: Any, file: GgufFile) -> int | None:
    """The token that ends a reply by the adapter's tokenizer, where it is not the file's."""
    said = config.get("eos_token")
    text = said.get("content") if isinstance(said, dict) else said
    if not isinstance(text, str) or text not in tokens:
        return None
    found, before = list(tokens).index(text), file.values.get(END)
    return None if before is not None and before.data == found else found


def _object(held: Mapping[str, bytes], name: str) -> dict[str, Any]:
    try:
        found = json.loads(held.get(name, b"{}"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{name} of the adapter is not valid JSON: {error}") from error
    return found if isinstance(found, dict) else {}
