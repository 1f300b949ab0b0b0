"""Exporting for the browser as whole processes: sizes, time and memory, beside torch.onnx.export.

    python bench/export.py [--rounds 3] [--folder DIR] [--forms q8,q4] [--plain] [--torch PYTHON]

The base is make_base.py's (270M parameters, bfloat16, 536 MB), exported with adapter inputs and a
context of 8192, without the proof. `--plain` leaves the calibration of forms of few bits out; the
base's text is of random tokens, as it has no tokenizer. torch.onnx.export writes float32, without a
KV cache, from transformers' model, if there is a Python with torch, transformers and onnxscript.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from make_base import make_base
from processes import Case, alternate, load, table

from lorakit.files.cache import cache_root

OURS = """
import sys
from pathlib import Path
from lorakit.base.folder import Base
from lorakit.engines.onnx.calibration import Calibration
from lorakit.engines.onnx.options import OnnxOptions
from lorakit.exporting import onnx
from lorakit.graph.web import with_inputs
base, out, form, plain = sys.argv[1:]
opened = Base.open(base)
if plain == "plain":
    onnx.CALIBRATED = ()
Path(out).mkdir(parents=True)
onnx.write_onnx(
    onnx.Part(base=opened, adapting=with_inputs(opened.decoder)),
    form,
    Path(out),
    context=8192,
    calibration=Calibration.of(OnnxOptions(quantize="int8")),
    metadata={},
)
"""
TORCH = """
import sys
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM
base, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
model.config.use_cache = False
Path(out).mkdir(parents=True)
ids = torch.zeros((1, 8), dtype=torch.long)
length = torch.export.Dim("length", min=2, max=8192)
torch.onnx.export(
    model, (ids,), Path(out) / "model.onnx", dynamo=True, external_data=True,
    dynamic_shapes={"input_ids": {1: length}},
)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=cache_root() / "bench")
    parser.add_argument("--forms", default="none,fp16,q8,q4,q4f16")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--torch", metavar="PYTHON")
    chosen = parser.parse_args()
    base, out = make_base(chosen.folder / "functiongemma-shape"), chosen.folder / "exported"
    cases = []
    for form in chosen.forms.split(","):
        place = out / form
        words = [str(base), str(place), form, "plain" if chosen.plain else "calibrated"]
        command = [sys.executable, "-c", OURS, *words]
        cases.append(Case(name=f"lorakit {form}", command=command, before=_clear(place)))
    if chosen.torch:
        place = out / "torch"
        command = [chosen.torch, "-c", TORCH, str(base), str(place)]
        cases.append(Case(name="torch.onnx.export", command=command, before=_clear(place)))
    print(load())
    alternate(cases, chosen.rounds)
    sizes = {
        place.name: sum(file.stat().st_size for file in place.rglob("*") if file.is_file()) / 1e6
        for place in sorted(out.iterdir())
    }
    shutil.rmtree(out)
    print("\n".join(table(cases, cases[0])))
    print("MB: " + ", ".join(f"{name} {size:.1f}" for name, size in sizes.items()))
    print(load())


def _clear(place: Path) -> Callable[[], None]:
    return lambda: shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
