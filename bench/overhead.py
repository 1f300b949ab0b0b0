"""What lorakit's own Python costs per decode step, above the native run of the graph.

    python bench/overhead.py [--batch 1 8 16] [--repeats 7] [--base FOLDER]

Runs batches through the whole stack (Model, scheduler, sampling, text) and subtracts the time that
onnxruntime spent inside. Every row has its own adapter scale. Medians over repeats, with the range.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lorakit
from lorakit import demo
from lorakit.engines.session import Step
from lorakit.requests import Request
from lorakit.runtime.sampling import SamplingParams

TOKENS = 100
SETTINGS = {
    "greedy": {},
    "temperature 0.8": {"temperature": 0.8, "seed": 1},
    "temperature 0.8, top-p 0.9": {"temperature": 0.8, "top_p": 0.9, "seed": 1},
}


@contextmanager
def native_clock() -> Iterator[list[float]]:
    """Collects the seconds of every native run while the block lasts."""
    runs: list[float] = []
    original = Step.run

    def run(step: Step) -> None:
        begin = time.perf_counter()
        original(step)
        runs.append(time.perf_counter() - begin)

    Step.run = run  # type: ignore[method-assign]  # a measuring probe, taken away again below
    try:
        yield runs
    finally:
        Step.run = original  # type: ignore[method-assign]


def measure(model: lorakit.Model, batch: int, options: dict[str, float]) -> tuple[float, float]:
    """(our milliseconds, native milliseconds) per step."""
    prompt = model.chat_prompt([{"role": "user", "content": "turn the lights off"}])
    sampling = SamplingParams(max_tokens=TOKENS, ignore_eos=True, **options)
    requests = [
        Request(prompt=prompt, adapters={"home": 0.5 + 0.05 * row}, sampling=sampling)
        for row in range(batch)
    ]
    model.batch(requests)  # prompts are cached from here on
    with native_clock() as runs:
        begin = time.perf_counter()
        model.batch(requests)
        wall = time.perf_counter() - begin
    native = sum(runs)
    return (wall - native) / len(runs) * 1e3, native / len(runs) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--base", type=Path, default=demo.base_path())
    chosen = parser.parse_args()
    with lorakit.open(chosen.base, threads=1) as model:
        model.load_adapter(demo.adapter_path("home"))
        print(f"{'rows':>4}  {'sampling':<28} {'ours ms/step (range)':<28} native ms/step")
        for batch in chosen.batch:
            for name, options in SETTINGS.items():
                pairs = [measure(model, batch, options) for _ in range(chosen.repeats)]
                ours, native = ([pair[i] for pair in pairs] for i in (0, 1))
                shown = f"{statistics.median(ours):.2f} ({min(ours):.2f}-{max(ours):.2f})"
                print(f"{batch:>4}  {name:<28} {shown:<28} {statistics.median(native):.2f}")


if __name__ == "__main__":
    main()
