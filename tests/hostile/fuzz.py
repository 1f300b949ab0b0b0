"""Mutates good files of every format and reads them: a LorakitError or an adapter, nothing else.

python tests/hostile/fuzz.py [SECONDS] [SEED]      # prints what broke, and keeps the file
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import gguf_cases
import mlx_cases
import ort_cases
import web_cases
from cases import folder

from lorakit.architectures import describe
from lorakit.base.folder import read_json
from lorakit.check import check
from lorakit.errors import LorakitError
from lorakit.formats import read_adapter

TRUTH = Path(__file__).parent.parent / "data" / "truth"
NUMBERS = [0, 1, 2, 7, 31, 32, 255, 256, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 62, 1 << 63]
TEXTS = [b"[", b"{", b"}", b'"', b"\\", b",", b":", b"-", b"9" * 30, b"1e999", b"null", b"true"]
TEXTS += [b"NaN", b"{}", b"[]", b"../", b"\x00", b"\xff", b"\xef\xbb\xbf", b".lora_A.weight"]


def seeds(place: Path) -> list[Path]:
    """Small good adapters, and the reference tools' own; a folder or a file each."""
    folder(place / "peft")
    mlx_cases.folder(place / "mlx")
    gguf_cases.write(place / "small.gguf", gguf_cases.packed())
    ort_cases.write(place / "small.onnx_adapter", ort_cases.good())
    web_cases.write(place / "small.safetensors", *web_cases.good())
    files = ("small.gguf", "small.onnx_adapter", "small.safetensors")
    own = [place / name for name in ("peft", "mlx", *files)]
    found = [p for kind in ("peft", "mlx") for p in sorted((TRUTH / kind).glob("*/*"))]
    found += sorted((TRUTH / "ort").glob("*.onnx_adapter"))
    found += sorted((TRUTH / "gguf").glob("*.plain*.gguf")) + sorted((TRUTH / "gguf").glob("*al*"))
    return own * 4 + found


def mutate(content: bytes, other: bytes, rng: random.Random) -> bytes:
    """Some flips, numbers, texts, cuts or splices, mostly in the first kilobytes."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        size = len(data)
        at = rng.randrange(min(size, rng.choice((64, 512, 4096, size))) or 1) if size else 0
        match rng.randrange(7):
            case 0 if size:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                number = rng.choice(NUMBERS).to_bytes(8, "little")[: rng.choice((1, 2, 4, 8))]
                data[at : at + len(number)] = number
            case 2:
                text = rng.choice(TEXTS)
                data[at : at + rng.choice((0, len(text)))] = text
            case 3:
                del data[at:]
            case 4:
                del data[at : at + rng.randrange(1, 64)]
            case 5:
                start = rng.randrange(len(other) or 1)
                data[at : at + rng.randrange(64)] = other[start : start + rng.randrange(64)]
            case 6:
                data[at:at] = data[at : at + rng.randrange(256)]
    return bytes(data)


def attempts(place: Path, seed: int) -> Iterator[tuple[Path, str]]:
    """Endless mutated adapters, each with what became of it: "read", a code, or BROKEN..."""
    rng = random.Random(seed)
    pool = seeds(place / "seeds")
    decoders = [
        describe(read_json(TRUTH / "bases" / b / "config.json")) for b in ("gemma3", "llama")
    ]
    contents = {
        file: file.read_bytes()
        for path in pool
        for file in (path.iterdir() if path.is_dir() else [path])
        if file.is_file() and file.name != "logits.npz"
    }
    for number in range(sys.maxsize):
        path = rng.choice(pool)
        target = place / f"{number}{path.suffix}"
        files = [f for f in contents if path in (f, f.parent)]
        chosen = rng.choice(files)
        for file in files:
            new = target / file.name if path.is_dir() else target
            new.parent.mkdir(parents=True, exist_ok=True)
            content = contents[file]
            if file == chosen:
                content = mutate(content, contents[rng.choice(list(contents))], rng)
            new.write_bytes(content)
        yield target, _outcome(target, rng.choice(decoders))
        shutil.rmtree(target) if target.is_dir() else target.unlink()


def _outcome(path: Path, decoder: object) -> str:
    start = time.process_time()  # a busy machine does not count
    try:
        adapter = read_adapter(path, decoder)
        check(adapter, decoder)
        outcome = "read"
    except LorakitError as error:
        outcome = error.code
        if not all(line.isprintable() for line in str(error).split("\n")):
            return f"BROKEN: not printable: {error!r}"
        if path.name not in str(error) and "config.json" not in str(error):
            return f"BROKEN: does not name its file: {error!r}"
    except Exception as error:
        return f"BROKEN: {type(error).__name__}: {error}"
    seconds = time.process_time() - start
    return outcome if seconds < 5 else f"BROKEN: {seconds:.1f} s"


def main() -> None:
    limit = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else int.from_bytes(os.urandom(4), "little")
    print(f"seed {seed}")
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as name:
        end = time.monotonic() + limit
        for path, outcome in attempts(Path(name), seed):
            counts[outcome[:60]] = counts.get(outcome[:60], 0) + 1
            if outcome.startswith("BROKEN") and counts[outcome[:60]] == 1:
                kept = Path(tempfile.mkdtemp(prefix="fuzz-")) / path.name
                shutil.copytree(path, kept) if path.is_dir() else shutil.copy(path, kept)
                print(f"{outcome}\n  {kept}", flush=True)
            if time.monotonic() > end:
                break
    print(counts)


if __name__ == "__main__":
    main()
