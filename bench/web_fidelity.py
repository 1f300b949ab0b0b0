"""What the forms of an export cost in onnxruntime-web itself: KL and top-1 against float32 there.

    python bench/web_fidelity.py                             q8 of SmolLM2-135M, 24 texts
    python bench/web_fidelity.py --forms q8,q4 --texts 40 --length 128 --threads 2

The model is real_model.py's, exported with inputs for adapters (none is fed), the texts are rows of
English, code, French and Spanish (real_text.py). Both run in onnxruntime-web's wasm build in Node,
on Node's modules of `make node`. KL: from float32, in nats, the mean over all positions.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from real_model import real_model
from real_text import rows

from lorakit.exporting.export import export
from lorakit.exporting.onnx import file_name
from lorakit.text.tokenizer import Tokenizer

SCRIPT = Path(__file__).with_suffix(".mjs")
MODULES = Path(__file__).parents[1] / ".node/node_modules"
ROW = 512  # tokens of a row of real_text.py


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--forms", default="q8")
    parser.add_argument("--texts", type=int, default=24)
    parser.add_argument("--length", type=int, default=128, help="tokens of a text")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--noise", type=float, default=0.0, help="see real_model.py")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    node = shutil.which("node")
    if node is None or not (MODULES / "onnxruntime-web").is_dir():
        sys.exit("it needs node, and its modules: make node")
    model = real_model(chosen.noise)
    forms = chosen.forms.split(",")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "export"
        export(model.folder, folder, mode="dynamic", quantize=["none", *forms], prove_it=False)
        given, out = Path(temporary) / "in.json", Path(temporary) / "out.json"
        reference, *others = (str(folder / "onnx" / file_name(form)) for form in ("none", *forms))
        texts = cut(Tokenizer.open(model.folder), chosen.texts, chosen.length)
        told = {"reference": reference, "others": others, "rows": texts}
        given.write_text(json.dumps({**told, "threads": chosen.threads}), "utf-8")
        subprocess.run([node, SCRIPT, MODULES, given, out], check=True)
        found = json.loads(out.read_text("utf-8"))
    print("| form | KL | top-1 | positions | KL by text |\n|---|---|---|---|---|")
    for form, result in zip(forms, found, strict=True):
        count = result["positions"]
        kinds = ", ".join(f"{k} {t['kl'] / t['positions']:.5f}" for k, t in result["texts"].items())
        kl, top1 = result["kl"] / count, result["top1"] / count
        print(f"| {form} | {kl:.5f} | {top1:.4f} | {count} | {kinds} |")
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1), "utf-8")


def cut(tokenizer: Tokenizer, count: int, length: int) -> list[tuple[str, list[int]]]:
    """So many texts of one length, of the kinds in turn."""
    pieces = ROW // length
    whole = rows(-(-count // pieces) * ROW, partial(tokenizer.encode, special=False))
    parts = [
        (kind, ids[at * length : (at + 1) * length]) for at in range(pieces) for kind, ids in whole
    ]
    return [(kind, ids) for kind, ids in parts if len(ids) == length][:count]


if __name__ == "__main__":
    main()
