"""A base as a GGUF file, as whole processes: lorakit, llama.cpp's converter, and quantising after.

    python bench/gguf.py [--rounds 3] [--bases smollm2,270m] [--peer convert_hf_to_gguf.py]
                         [--python PYTHON]

The bases are SmolLM2 (real_model.py, float32) and make_base.py's shape (270M parameters, bfloat16),
which gets a SentencePiece tokenizer of as many tokens. Measured are a file in F16; one in Q8_0 that
is written directly; and one in F16 that llama.cpp's llama_model_quantize then makes Q8_0, where
llama-cpp-python is installed. `--peer` is llama.cpp's script, run by `--python`, which needs torch,
transformers, sentencepiece and gguf. Memory is to stay below 300 MB and the largest tensor.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import shutil
import string
import struct
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from make_base import make_base
from processes import Case, alternate, load, table
from real_model import real_model

from lorakit.base.folder import Base
from lorakit.files.cache import cache_root
from lorakit.text.tokenizer import Tokenizer

OURS = """
import sys
from pathlib import Path
from lorakit.base.folder import Base
from lorakit.exporting.gguf import gguf_model, write_gguf
base, out, form = sys.argv[1:]
write_gguf(gguf_model(Base.open(base), name="bench", templates={}), Path(out), form)
"""
THEIRS = """
import os, sys
import llama_cpp.llama_cpp as api
source, out = map(os.fsencode, sys.argv[1:])
parameters = api.llama_model_quantize_default_params()
parameters.ftype = 7
sys.exit(api.llama_model_quantize(source, out, parameters))
"""
SPACE = "\u2581"
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")
CONTROL, UNKNOWN, BYTE, BPE = 3, 2, 6, 2  # numbers of sentencepiece_model.proto


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=cache_root() / "bench")
    parser.add_argument("--bases", default="smollm2,270m")
    parser.add_argument("--peer", metavar="SCRIPT", type=Path)
    parser.add_argument("--python", default=sys.executable, help="what runs that script")
    chosen = parser.parse_args()
    for name in chosen.bases.split(","):
        base = real_model().folder if name == "smollm2" else with_tokenizer(chosen.folder)
        measure(name, base, chosen.folder / "gguf", chosen)


def measure(name: str, base: Path, place: Path, chosen: argparse.Namespace) -> None:
    place.mkdir(exist_ok=True, parents=True)
    cases = [_ours("F16", base, place)]
    if chosen.peer:
        out = place / "peer.gguf"
        command = [chosen.python, str(chosen.peer), "--outtype", "f16", "--outfile", str(out)]
        case = Case(name="convert_hf_to_gguf.py F16", command=[*command, str(base)])
        case.before = _clear(out)
        cases.append(case)
    cases.append(_ours("Q8_0", base, place))
    if find_spec("llama_cpp"):
        source, out = place / "F16.gguf", place / "then.gguf"
        command = [sys.executable, "-c", THEIRS, str(source), str(out)]
        cases.append(Case(name="llama_model_quantize", command=command, before=_clear(out)))
    print(f"{name}: {load()}")
    alternate(cases, chosen.rounds)
    print("\n".join(table(cases, cases[0])))
    opened = Base.open(base)
    largest = max(array.nbytes for array in opened.tensors.values()) / 2**20
    print(f"peak allowed: {300e6 / 2**20 + largest:.0f} MiB; {load()}\n")
    shutil.rmtree(place)


def _ours(form: str, base: Path, place: Path) -> Case:
    out = place / f"{form}.gguf"
    command = [sys.executable, "-c", OURS, str(base), str(out), form]
    return Case(name=f"lorakit {form}", command=command, before=_clear(out))


def _clear(path: Path) -> Callable[[], None]:
    return lambda: path.unlink(missing_ok=True)


# A tokenizer of the size of Gemma 3's, for a base that has none.


def with_tokenizer(root: Path) -> Path:
    """make_base.py's folder beside a tokenizer, which that leaves out."""
    original, folder = make_base(root / "functiongemma-shape"), root / "functiongemma-gguf"
    if folder.exists():
        return folder
    temporary = folder.with_suffix(".part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    (temporary / "model.safetensors").hardlink_to(original / "model.safetensors")
    shutil.copy(original / "config.json", temporary)
    size = json.loads((original / "config.json").read_text())["vocab_size"]
    pieces = list(itertools.islice(_pieces(), size))
    (temporary / "tokenizer.json").write_text(json.dumps(_tokenizer_json(pieces)))
    (temporary / "tokenizer.model").write_bytes(_sentencepiece(pieces))
    (temporary / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<bos>", "eos_token": "<eos>", "add_bos_token": True})
    )
    Tokenizer.open(temporary)
    temporary.rename(folder)
    return folder


def _pieces() -> Iterator[tuple[str, int]]:
    """Tokens and their kinds: every word of one letter, of two, and so on."""
    for name in SPECIAL:
        yield name, UNKNOWN if name == "<unk>" else CONTROL
    for byte in range(256):
        yield f"<0x{byte:02X}>", BYTE
    yield SPACE, 1
    for length in itertools.count(1):
        for letters in itertools.product(string.ascii_lowercase, repeat=length):
            yield "".join(letters), 1


def _tokenizer_json(pieces: list[tuple[str, int]]) -> dict[str, object]:
    vocabulary = {text: number for number, (text, _) in enumerate(pieces)}
    words = [text for text, kind in pieces if kind == 1]
    merges = [[text[:at], text[at:]] for text in words for at in range(1, len(text))]
    return {
        "version": "1.0",
        "added_tokens": [
            {
                "id": vocabulary[name], "content": name, "single_word": False, "lstrip": False,
                "rstrip": False, "normalized": False, "special": True,
            }
            for name in SPECIAL
        ],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        "pre_tokenizer": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True,
            "vocab": vocabulary, "merges": merges,
        },
    }  # fmt: skip


def _sentencepiece(pieces: list[tuple[str, int]]) -> bytes:
    """A ModelProto: pieces, a TrainerSpec, and a NormalizerSpec that changes nothing."""
    scores = itertools.count(0, -1)
    messages = [
        _field(1, text.encode())
        + _tag(2, 5)
        + struct.pack("<f", next(scores) if kind == 1 else 0.0)
        + (_number(3, kind) if kind != 1 else b"")
        for text, kind in pieces
    ]
    trainer = _number(3, BPE) + _number(4, len(pieces)) + _number(35, 1)
    normalizer = _field(1, b"identity") + b"".join(_number(field, 0) for field in (3, 4))
    parts = [_field(1, message) for message in messages]
    return b"".join([*parts, _field(2, trainer), _field(3, normalizer)])


def _field(number: int, content: bytes) -> bytes:
    return _tag(number, 2) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _tag(number, 0) + _varint(value)


def _tag(number: int, wire: int) -> bytes:
    return _varint(number << 3 | wire)


def _varint(value: int) -> bytes:
    groups = range(max(1, math.ceil(value.bit_length() / 7)))
    return bytes(value >> 7 * at & 127 | (at != groups[-1]) << 7 for at in groups)


if __name__ == "__main__":
    main()
