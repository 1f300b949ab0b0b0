"""What lorakit's own Python costs per decode step, above the native run of the graph.

    python bench/overhead.py [--batch 1 8 16] [--repeats 7] [--base FOLDER --adapter ADAPTER]
    python bench/overhead.py --batch 1 --base tests/data/truth/gguf/llama.base.f32.gguf \
        --adapter tests/data/truth/peft/llama/plain

Runs batches through the whole stack (Model, scheduler, sampling, text) and subtracts the time that
onnxruntime or, for a GGUF base, llama.cpp spent inside. Every row has its own adapter scale.
Medians over repeats, with the range. `undisturbed` is the time from the end of one native run to
the start of the next, the quickest tenth of them: the cost where nobody else takes the core.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import lorakit
from lorakit import demo
from lorakit.engines.llama.native import llama
from lorakit.engines.onnx.ort import Step
from lorakit.model.types import Request
from lorakit.runtime.params import SamplingParams

TOKENS = 100
SETTINGS = {
    "greedy": {},
    "temperature 0.8": {"temperature": 0.8, "seed": 1},
    "temperature 0.8, top-p 0.9": {"temperature": 0.8, "top_p": 0.9, "seed": 1},
}


@contextmanager
def native_clock(gguf: bool) -> Iterator[list[tuple[float, float]]]:
    """Collects the beginning and the end of every native run while the block lasts."""
    place, name = (llama(), "llama_decode") if gguf else (Step, "run")
    runs: list[tuple[float, float]] = []
    original = getattr(place, name)

    def run(*arguments: Any) -> Any:
        begin = time.perf_counter()
        result = original(*arguments)
        runs.append((begin, time.perf_counter()))
        return result

    setattr(place, name, run)  # a measuring probe, taken away again below
    try:
        yield runs
    finally:
        setattr(place, name, original)


def measure(
    model: lorakit.Model, batch: int, options: dict[str, float]
) -> tuple[float, float, float]:
    """Per step, milliseconds: ours, native, ours undisturbed."""
    prompt = model.tokenizer.encode("turn the lights off", special=True)
    sampling = SamplingParams(max_tokens=TOKENS, ignore_eos=True, **options)
    requests = [
        Request(prompt=prompt, adapters={"it": 0.5 + 0.05 * row}, sampling=sampling)
        for row in range(batch)
    ]
    model.batch(requests)  # prompts are cached from here on
    with native_clock(model.base.is_gguf) as runs:
        begin = time.perf_counter()
        model.batch(requests)
        wall = time.perf_counter() - begin
    native = sum(end - begin for begin, end in runs)
    gaps = sorted(after[0] - before[1] for before, after in pairwise(runs))
    return (
        (wall - native) / len(runs) * 1e3,
        native / len(runs) * 1e3,
        gaps[len(gaps) // 10] * 1e3,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--base", type=Path, default=demo.base_path())
    parser.add_argument("--adapter", type=Path, default=demo.adapter_path("home"))
    chosen = parser.parse_args()
    with lorakit.open(chosen.base, threads=1) as model:
        model.load_adapter(chosen.adapter, "it")
        head = f"{'rows':>4}  {'sampling':<28} {'ours ms/step (range)':<28}"
        print(f"{head} undisturbed  native ms/step")
        for batch in chosen.batch:
            for name, options in SETTINGS.items():
                pairs = [measure(model, batch, options) for _ in range(chosen.repeats)]
                ours, native, gap = ([pair[i] for pair in pairs] for i in (0, 1, 2))
                shown = f"{statistics.median(ours):.2f} ({min(ours):.2f}-{max(ours):.2f})"
                rest = f"{min(gap):<12.3f} {statistics.median(native):.2f}"
                print(f"{batch:>4}  {name:<28} {shown:<28} {rest}")


if __name__ == "__main__":
    main()
