"""int8 with rows made even (graph/int8.py) beside rows as they are: the time of steps, in turns.

    python bench/int8_rows.py                       decode at batch 1, 8, 16, and prefill of 256
    python bench/int8_rows.py --batch 1 4 --rounds 20 --threads 1

The base has FunctionGemma's shape and random weights (make_base.py). Both graphs are open in one
process and take turns, a few steps each; a ratio is of neighbours. It is given of process time and
of wall time, with its quartiles.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from make_base import make_base

from lorakit.base.folder import Base
from lorakit.engines.onnx.calibration import Calibration, divisors
from lorakit.engines.onnx.device import CPU, Floats
from lorakit.engines.onnx.engine import OnnxEngine
from lorakit.engines.onnx.options import OnnxOptions
from lorakit.engines.onnx.ort import open_session
from lorakit.engines.onnx.semantics import window_reading
from lorakit.engines.protocol import Row
from lorakit.files.cache import cache_root
from lorakit.graph import GraphOptions, MemoryStore, build

STEPS, CONTEXT = 4, 256
FORM = "rowwise8"
Times = list[tuple[float, float]]  # of each engine: process time, wall time


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, help="a base folder (default: made in the cache)")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8, 16])
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    base = Base.open(arguments.base or make_base(cache_root() / "bench" / "functiongemma-shape"))
    options = OnnxOptions(quantize="int8", threads=arguments.threads, max_batch=16, context=1024)
    window = window_reading(CPU, (FORM,))
    tokens = Calibration.of(options).tokens(base)
    even = divisors(base, tokens, threads=options.threads, device=CPU, window=window)
    engines = [
        opened(base, options, GraphOptions(linear=FORM, head=FORM, window=window), found)
        for found in ({}, even)
    ]
    print("| step | rows | as they are, ms | even, ms | cpu ratio (quartiles) | wall ratio |")
    print("|---|---|---|---|---|---|")
    for batch in arguments.batch:
        show("decode", batch, rounds(engines, batch, 1, arguments.rounds))
    show(f"prefill of {CONTEXT}", 1, rounds(engines, 1, CONTEXT, arguments.rounds))


def opened(
    base: Base, options: OnnxOptions, graph: GraphOptions, found: Mapping[str, Floats]
) -> OnnxEngine:
    store = MemoryStore()
    model = build(base, graph, store, found)
    session = open_session(model, threads=options.threads, initializers=store.arrays)
    return OnnxEngine(base, options, graph, session, CPU)


def rounds(engines: Sequence[OnnxEngine], batch: int, new: int, count: int) -> list[Times]:
    """Seconds of a step of each engine, process and wall time, in every round."""
    found: list[Times] = []
    opened = [[engine.open_sequence() for _ in range(batch)] for engine in engines]
    held = CONTEXT if new == 1 else 0
    for engine, sequences in zip(engines, opened, strict=True):
        for sequence in sequences if held else ():
            forward(engine, [sequence], held)
    for number in range(count):
        times = [(0.0, 0.0)] * len(engines)
        for which in range(len(engines))[:: 1 if number % 2 else -1]:
            times[which] = timed(engines[which], opened[which], new, held)
        found.append(times)
    for engine, sequences in zip(engines, opened, strict=True):
        for sequence in sequences:
            engine.close_sequence(sequence)
    return found


def timed(engine: OnnxEngine, sequences: Sequence[int], new: int, held: int) -> tuple[float, float]:
    forward(engine, sequences, new)  # not counted
    if new > 1:
        engine.truncate(sequences[0], held)
    steps = STEPS if new == 1 else 1
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(steps):
        forward(engine, sequences, new)
    times = (time.process_time() - cpu) / steps, (time.perf_counter() - wall) / steps
    for sequence in sequences:
        engine.truncate(sequence, held)
    return times


def forward(engine: OnnxEngine, sequences: Sequence[int], new: int) -> None:
    tokens = np.arange(new) + 4
    engine.forward([Row(sequence=sequence, tokens=tokens) for sequence in sequences])


def show(step: str, rows: int, rounds: Sequence[Times]) -> None:
    before, after = (statistics.median(r[which][0] for r in rounds) * 1e3 for which in (0, 1))
    cpu, wall = ([even[kind] / plain[kind] for plain, even in rounds] for kind in (0, 1))
    low, middle, high = statistics.quantiles(cpu, n=4)
    print(
        f"| {step} | {rows} | {before:.1f} | {after:.1f} | {middle:.3f} ({low:.3f}-{high:.3f}) "
        f"| {statistics.median(wall):.3f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
