"""Exporting for the browser as whole processes: sizes, time and memory, beside torch.onnx.export.

    python bench/export.py [--rounds 3] [--folder DIR] [--forms q8,q4] [--plain]
    python bench/export.py --torch PYTHON [--limit 900]
    python bench/export.py --peer-seconds 80

The base is make_base.py's (270M parameters, bfloat16, 536 MB), exported with adapter inputs and a
context of 8192, without the proof. `--plain` leaves the calibration of forms of few bits out; the
base's text is of random tokens, as it has no tokenizer. torch.onnx.export writes float32, without a
KV cache, from transformers' model, by a Python with torch, transformers and onnxscript. It takes
minutes, so that it runs once, after ours, and is stopped at a limit; what it took can be given to
later runs on the same machine.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from make_base import make_base
from processes import Case, alternate, load, measure, table

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
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=cache_root() / "bench")
    parser.add_argument("--forms", default="fp16,q8,q4")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--torch", metavar="PYTHON")
    parser.add_argument("--limit", type=float, default=900, help="seconds for torch.onnx.export")
    parser.add_argument("--peer-seconds", type=float, help="what it took before, instead of a run")
    chosen = parser.parse_args()
    base, out = make_base(chosen.folder / "functiongemma-shape"), chosen.folder / "exported"
    shutil.rmtree(out, ignore_errors=True)
    cases = []
    for form in chosen.forms.split(","):
        words = [str(base), str(out / form), form, "plain" if chosen.plain else "calibrated"]
        cases.append(_case(f"lorakit {form}", [sys.executable, "-c", OURS, *words], out / form))
    print(load(), flush=True)
    alternate(cases, chosen.rounds)
    print("\n".join(table(cases, cases[0])))
    print("MB: " + ", ".join(f"{place.name} {_size(place):.1f}" for place in sorted(out.iterdir())))
    print(load(), flush=True)
    if chosen.peer_seconds is not None:
        _compare(cases, chosen.peer_seconds, "given")
    elif chosen.torch:
        command = [chosen.torch, "-c", TORCH, str(base), str(out / "torch")]
        peer = _case("torch.onnx.export", command, out / "torch")
        if measure(peer, limit=chosen.limit):
            about = f"{peer.cpus[0]:.0f} s of CPU time, {peer.peaks[0]:.0f} MiB"
            _compare(cases, peer.walls[0], f"{about}, {_size(out / 'torch'):.1f} MB")
        else:
            _compare(cases, chosen.limit, "then stopped: the ratios are at least these")
        print(load())
    shutil.rmtree(out)


def _compare(cases: Sequence[Case], seconds: float, about: str) -> None:
    """How many times as fast each case is, by its median, as the peer's one run."""
    print(f"torch.onnx.export: {seconds:.1f} s ({about})")
    for case in cases:
        print(f"{case.name}: {seconds / statistics.median(case.walls):.1f}x as fast")


def _case(name: str, command: Sequence[str], place: Path) -> Case:
    return Case(name, command, before=lambda: shutil.rmtree(place, ignore_errors=True))


def _size(place: Path) -> float:
    """MB of the files in a folder."""
    return sum(file.stat().st_size for file in place.rglob("*") if file.is_file()) / 1e6


if __name__ == "__main__":
    main()
