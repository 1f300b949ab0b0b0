"""Folders with small tokenizers of the families' own kinds: trained here, with their settings.

Each has the pre-tokenizer and the normalizer of the family's tokenizer.json, and few enough tokens
to be made in a moment. SentencePiece's is a file that SentencePiece wrote (data/sentencepiece).
"""

import json
from pathlib import Path
from shutil import copytree

from tokenizers import Tokenizer, pre_tokenizers, trainers

from folders import DATA
from lorakit.exporting.gguf.sentencepiece import read_pieces
from lorakit.merge.gguf.corpus import TEXTS

BASE = DATA / "truth/bases/llama"
MODEL = DATA / "sentencepiece/tokenizer.model"
SPACE = "\u2581"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
QWEN2 = CONTRACTION + (
    r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"|\p{N}| ", r"|\p{N}{1,3}| ")
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
BEFORE = r"[^\r\n\p{L}\p{N}]?"
TEKKEN = (
    f"{BEFORE}{UPPER}*{LOWER}+|{BEFORE}{UPPER}+{LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4O = TEKKEN.replace(f"{LOWER}+|", f"{LOWER}+{CONTRACTION}?|").replace(
    f"{LOWER}*|\\p{{N}}", f"{LOWER}*{CONTRACTION}?|\\p{{N}}{{1,3}}"
)
DEEPSEEK = (
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?"
    "[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
)
DEMO = r" |\n|\p{N}|_|\p{L}+|[^\s\p{L}\p{N}_]+|\s"


def split(*expressions, behavior="Isolated", invert=False):
    """Text cut by expressions, then its bytes."""
    cuts = [
        {"type": "Split", "pattern": {"Regex": e}, "behavior": behavior, "invert": invert}
        for e in expressions
    ]
    return {"type": "Sequence", "pretokenizers": [*cuts, byte_level()]}


def byte_level(use_regex=False):
    plain = {"add_prefix_space": False, "trim_offsets": True}
    return {"type": "ByteLevel", **plain, "use_regex": use_regex}


def digits():
    """As SmolLM2's."""
    steps = [{"type": "Digits", "individual_digits": True}, byte_level(use_regex=True)]
    return {"type": "Sequence", "pretokenizers": steps}


FAMILIES = {  # the name that llama.cpp has; how text is cut; whether words that are tokens stay
    "gpt-2": (byte_level(use_regex=True), False),
    "llama-bpe": (split(LLAMA3), True),
    "dbrx": (split(LLAMA3, behavior="Removed", invert=True), False),
    "qwen2": (split(QWEN2), False),
    "smollm": (digits(), False),
    "tekken": (split(TEKKEN), True),
    "gpt-4o": (split(GPT4O), False),
    "deepseek-v3": (split(*DEEPSEEK), False),
    "deepseek-coder": (
        split(
            "[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
            r"\p{N}",
        ),
        False,
    ),
}  # fmt: skip
SPECIAL = ("<unk>", "<s>", "</s>", "<|im_end|>")


def byte_bpe(folder, pre_tokenizer, *, whole_words=False, normalizer=None, size=700, **changes):
    """A base's folder with a byte-level tokenizer of so many tokens. changes: of tokenizer.json."""
    cut = Tokenizer.from_str(
        json.dumps({"version": "1.0", "pre_tokenizer": pre_tokenizer, "model": _bpe({}, [])})
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    cut.train_from_iterator([*TEXTS] * 3 + ["1984 'tis 'status' x_1 ÄRGER FooBar"] * 9, trainer)
    model = json.loads(cut.to_str())["model"]
    last = len(model["vocab"])
    content = {
        "version": "1.0",
        "added_tokens": [*map(added, range(4), SPECIAL), added(last, "<call>", special=False)],
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": begins(),
        "decoder": {**byte_level(), "add_prefix_space": True},
        "model": {**model, "ignore_merges": whole_words},
    }
    return base_folder(folder, {**content, **changes})


def sentencepiece(folder, *, prefix=True, model=True, pre_tokenizer=None, **changes):
    """A base's folder with SentencePiece's tokenizer, as transformers 4 converts it.

    prefix: a space is put before text, by the normalizer. model: tokenizer.model is beside it.
    """
    pieces = read_pieces(MODEL)
    ids = {piece.text: index for index, piece in enumerate(pieces)}
    merges = [
        (piece.score, text[:at], text[at:])
        for text, piece in zip(ids, pieces, strict=True)
        for at in range(1, len(text))
        if text[:at] in ids and text[at:] in ids
    ]
    merges.sort(key=lambda merge: (merge[0], len(merge[1]), len(merge[2])), reverse=True)
    prepend = [{"type": "Prepend", "prepend": SPACE}] if prefix else []
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    back = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    decoders = [back, {"type": "ByteFallback"}, {"type": "Fuse"}]
    settings = {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
    content = {
        "version": "1.0",
        "added_tokens": [*map(added, range(3), ids), added(3, "<mask>", special=False)],
        "normalizer": {"type": "Sequence", "normalizers": [*prepend, replace]},
        "pre_tokenizer": pre_tokenizer,
        "post_processor": begins(),
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _bpe(ids, [merge[1:] for merge in merges], **settings),
    }
    base_folder(folder, {**content, **changes})
    if model:
        (folder / "tokenizer.model").write_bytes(MODEL.read_bytes())
    return folder


def added(index, content, special=True, **changes):
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": index, "content": content, "special": special, **plain, **changes}


def begins(token="<s>", index=1):
    """What puts a token before each text."""
    pieces = [
        {"SpecialToken": {"id": token, "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ]
    named = {token: {"id": token, "ids": [index], "tokens": [token]}}
    return {
        "type": "TemplateProcessing", "single": pieces, "pair": pieces, "special_tokens": named,
    }  # fmt: skip


def base_folder(folder, tokenizer):
    copytree(BASE, folder)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(roles), "utf-8")
    (folder / "chat_template.jinja").unlink()
    return folder


def changed(folder: Path, name="tokenizer.json", **changes):
    """The folder, with other values in one of its JSON files."""
    path = folder / name
    content = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**content, **changes}), "utf-8")
    return folder


def _bpe(ids, merges, **settings):
    plain = {"type": "BPE", "dropout": None, "unk_token": None, "ignore_merges": False}
    return {**plain, **settings, "vocab": ids, "merges": merges}
