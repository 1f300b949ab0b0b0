"""What a DoRA adapter costs beside a plain one: decode steps of the ONNX engine, in turns.

    python bench/dora.py                       int8 at batch 1, 8 and 16, all rows distinct
    python bench/dora.py --batch 8 --rounds 20 --threads 2 --quantize none

The base has FunctionGemma's shape and random weights (make_base.py), adapters rank 16 on all linear
layers. Two engines are open in one process: one has only met plain adapters, the other has DoRA
too, and thereby the graph with gains (graph/gains.py). The cases take turns, a few steps each, and
a ratio is of neighbours in wall and in process time, with quartiles. `rescaled` changes every row's
scale at each step. First is said how long it takes to prepare and to attach adapters of each kind.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from make_base import make_adapter, make_base

from lorakit.adapter import Adapter, Magnitude
from lorakit.base.folder import Base
from lorakit.engines.onnx.engine import OnnxEngine
from lorakit.engines.onnx.options import OnnxOptions
from lorakit.engines.protocol import Row
from lorakit.files.cache import cache_root

STEPS, CONTEXT = 4, 256
Times = tuple[float, float]  # process time, wall time


@dataclass
class Case:
    """An engine, an adapter for each row, and the steps that were timed."""

    name: str
    engine: OnnxEngine
    handles: Sequence[int]
    sequences: Sequence[int]
    rescaled: bool = False
    rounds: list[Times] = field(default_factory=list)

    def run(self, batch: int, number: int) -> None:
        """A few decode steps from the same context; the first is not counted."""
        before: list[Times] = []
        for step in range(STEPS + 1):
            before.append((time.process_time(), time.perf_counter()))
            scale = 1.0 + 0.01 * (number * STEPS + step) if self.rescaled else 1.0
            self.engine.forward(
                [
                    Row(sequence=s, tokens=np.array([7]), adapters=((h, scale),))
                    for s, h in zip(self.sequences[:batch], self.handles, strict=False)
                ]
            )
        after = (time.process_time(), time.perf_counter())
        for sequence in self.sequences[:batch]:
            self.engine.truncate(sequence, CONTEXT)
        self.rounds.append(tuple((b - a) / STEPS for a, b in zip(before[1], after, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, help="a base folder (default: made in the cache)")
    parser.add_argument("--quantize", default="int8")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8, 16])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    base = Base.open(arguments.base or make_base(cache_root() / "bench" / "functiongemma-shape"))
    rows = max(arguments.batch)
    options = OnnxOptions(
        quantize=arguments.quantize, threads=arguments.threads, max_batch=rows, context=1024
    )
    one, other = (OnnxEngine.open(base, options) for _ in range(2))
    plain = [make_adapter(base.decoder, seed) for seed in range(rows)]
    dora = [with_magnitudes(adapter, base) for adapter in plain]
    attached = {
        "plain": (one, attach(one, plain, "plain")),
        "dora": (other, attach(other, dora, "dora")),
        "plain beside dora": (other, attach(other, plain, "plain, where dora is")),
    }
    opened = {id(engine): sequences(engine, rows) for engine in (one, other)}
    print("| batch | adapters | ms | cpu ms | cpu ratio (quartiles) | wall ratio (quartiles) |")
    print("|---|---|---|---|---|---|")
    for batch in arguments.batch:
        cases = [
            Case(name, engine, handles, opened[id(engine)], rescaled)
            for rescaled in (False, True)
            for name, (engine, handles) in attached.items()
        ]
        for number in range(arguments.rounds):
            for case in cases:
                case.run(batch, number)
        for index, case in enumerate(cases):
            print(line(batch, case, cases[0 if index < len(attached) else len(attached)]))


def with_magnitudes(adapter: Adapter, base: Base) -> Adapter:
    rng = np.random.default_rng(0)
    norms = {
        delta.module: np.linalg.norm(base.weight(delta.module).astype(np.float32), axis=1)
        for delta in adapter.deltas
    }
    return replace(
        adapter,
        magnitudes=tuple(
            Magnitude(module=name, value=norm * rng.uniform(0.9, 1.1, len(norm)).astype(np.float32))
            for name, norm in norms.items()
        ),
    )


def attach(engine: OnnxEngine, adapters: Sequence[Adapter], name: str) -> list[int]:
    """Says how long the first took, which may open the graph with gains, and the others."""
    taken, handles = [], []
    for adapter in adapters:
        begin = time.perf_counter()
        prepared = engine.prepare(adapter)
        middle = time.perf_counter()
        handles.append(engine.attach(prepared))
        taken.append((middle - begin, time.perf_counter() - middle))
    (first, swapped), *others = taken
    said = f"{name}: the first prepared in {first * 1e3:.0f} ms, attached in {swapped * 1e3:.1f}"
    if others:
        ready, held = (statistics.median(each) * 1e3 for each in zip(*others, strict=True))
        said += f"; others in {ready:.0f} and {held:.1f}"
    print(said)
    return handles


def sequences(engine: OnnxEngine, count: int) -> list[int]:
    """Sequences that hold a context."""
    prompt = np.random.default_rng(0).integers(0, engine.capabilities.vocabulary, CONTEXT)
    first = engine.open_sequence()
    engine.forward([Row(sequence=first, tokens=prompt, logits="none")])
    return [first, *(engine.fork(first, CONTEXT) for _ in range(count - 1))]


def line(batch: int, case: Case, beside: Case) -> str:
    cpu, wall = (statistics.median(each) * 1e3 for each in zip(*case.rounds, strict=True))
    name = f"{case.name}, rescaled" if case.rescaled else case.name
    ratios = [
        quartiles([a[at] / b[at] for a, b in zip(case.rounds, beside.rounds, strict=True)])
        for at in (0, 1)
    ]
    return f"| {batch} | {name} | {wall:.1f} | {cpu:.1f} | {ratios[0]} | {ratios[1]} |"


def quartiles(values: Sequence[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


if __name__ == "__main__":
    main()
