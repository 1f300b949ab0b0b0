"""Decode and prefill speed of the ONNX engine: no adapter, one shared adapter, all rows distinct.

    python bench/decode.py                       the whole table (about ten minutes on two cores)
    python bench/decode.py --quick               batch 1 and 8, int8, few repeats
    python bench/decode.py --quantize int8 int4 --batch 1 8 16 --threads 1
    python bench/decode.py --gguf BASE.gguf --gguf-lora ADAPTER.gguf    llama.cpp beside it

The base has FunctionGemma's shape and random weights; it is made on first use (bench/make_base.py).
Adapters have rank 16 on all linear layers. A decode step is one `engine.forward` of one new token
per row at the given context. The three cases of a batch size take turns, a few steps each, so that
whatever else the machine does hits them alike; read the ratios first, the milliseconds second.
`ms` is the median wall time of a step with its quartiles, `cpu` the median process time, `python`
the median wall time of a step outside onnxruntime, `x base` the median ratio to no adapter.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import psutil
from make_base import make_adapter, make_base

from lorakit.base.folder import Base
from lorakit.engines.onnx.engine import OnnxEngine
from lorakit.engines.onnx.options import OnnxOptions
from lorakit.engines.onnx.ort import Step
from lorakit.engines.protocol import AdapterSet, Row
from lorakit.files.cache import cache_root

MODES = ("base", "shared", "distinct")
BLOCK = 4  # steps of one case before the next has its turn


@dataclass
class Timings:
    """What was measured of one case."""

    quantize: str
    mode: str
    batch: int
    tokens: int  # per step
    kind: str = "decode"
    wall: list[float] = field(default_factory=list)  # seconds
    cpu: list[float] = field(default_factory=list)
    native: list[float] = field(default_factory=list)  # of wall, inside onnxruntime

    @property
    def rate(self) -> float:
        return self.tokens / statistics.median(self.wall)

    def line(self, base: Timings) -> str:
        low, middle, high = (value * 1e3 for value in statistics.quantiles(self.wall, n=4))
        python = statistics.median(w - n for w, n in zip(self.wall, self.native, strict=True))
        ratio = statistics.median(a / b for a, b in zip(self.cpu, base.cpu, strict=True))
        wall_ratio = statistics.median(a / b for a, b in zip(self.wall, base.wall, strict=True))
        return (
            f"| {self.quantize} | {self.kind} | {self.batch} | {self.mode} "
            f"| {middle:.1f} ({low:.1f}-{high:.1f}) | {statistics.median(self.cpu) * 1e3:.1f} "
            f"| {self.rate:.0f} | {wall_ratio:.2f} | {ratio:.2f} | {python * 1e3:.2f} |"
        )


HEADER = (
    "| weights | step | batch | adapters | ms (quartiles) | cpu ms | tokens/s | x base "
    "| x base cpu | python ms |\n|---|---|---|---|---|---|---|---|---|---|"
)


class Bench:
    """An open engine with adapters attached, and rows ready at a context."""

    def __init__(self, base: Base, arguments: argparse.Namespace, quantize: str) -> None:
        self.quantize, self.context = quantize, arguments.context
        rows = max(arguments.batch)
        options = OnnxOptions(
            quantize=quantize, threads=arguments.threads, max_batch=rows, cached_sequences=rows
        )
        OnnxEngine.open(base, options).close()  # builds and caches the graph the first time
        resident = psutil.Process().memory_info().rss
        before = time.perf_counter()
        self.engine = OnnxEngine.open(base, options)
        self.opened = time.perf_counter() - before
        self.resident = psutil.Process().memory_info().rss - resident
        self.handles = [
            self.engine.attach(
                self.engine.prepare(make_adapter(base.decoder, seed, arguments.rank))
            )
            for seed in range(rows)
        ]
        self.prompt = np.random.default_rng(0).integers(0, base.decoder.vocabulary, self.context)
        first = self.engine.open_sequence()
        self.engine.forward([Row(sequence=first, tokens=self.prompt, logits="none")])
        self.sequences = [first]
        self.sequences += [self.engine.fork(first, self.context) for _ in range(rows - 1)]

    def adapters(self, mode: str, row: int) -> AdapterSet:
        if mode == "base":
            return ()
        return ((self.handles[row if mode == "distinct" else 0], 1.0),)

    def decode(self, mode: str, batch: int, timings: Timings) -> None:
        """A few decode steps from the same context; the first is not counted."""
        rows = [
            Row(sequence=sequence, tokens=self.prompt[:1], adapters=self.adapters(mode, index))
            for index, sequence in enumerate(self.sequences[:batch])
        ]
        self.engine.forward(rows)
        for _ in range(BLOCK):
            self.timed(rows, timings)
        for row in rows:
            self.engine.truncate(row.sequence, self.context)

    def prefill(self, mode: str, timings: Timings) -> None:
        sequence = self.engine.open_sequence()
        adapters = self.adapters(mode, 0)
        self.timed([Row(sequence=sequence, tokens=self.prompt, adapters=adapters)], timings)
        self.engine.close_sequence(sequence)

    def timed(self, rows: list[Row], timings: Timings) -> None:
        NATIVE.seconds = 0.0
        cpu, wall = time.process_time(), time.perf_counter()
        self.engine.forward(rows)
        timings.wall.append(time.perf_counter() - wall)
        timings.cpu.append(time.process_time() - cpu)
        timings.native.append(NATIVE.seconds)

    def requests(self, mode: str, batch: int) -> float:
        """New tokens per second of `batch` requests of 64 + 64 tokens, prefill included."""
        begin = time.perf_counter()
        opened = [self.engine.open_sequence() for _ in range(batch)]
        for index, sequence in enumerate(opened):
            held = self.adapters(mode, index)
            self.engine.forward([Row(sequence=sequence, tokens=self.prompt[:64], adapters=held)])
        for _ in range(63):
            self.engine.forward(
                [
                    Row(sequence=s, tokens=self.prompt[:1], adapters=self.adapters(mode, index))
                    for index, s in enumerate(opened)
                ]
            )
        for sequence in opened:
            self.engine.close_sequence(sequence)
        return 64 * batch / (time.perf_counter() - begin)


class _Native:
    """How long onnxruntime ran, so that the rest of a step can be told apart."""

    seconds = 0.0

    def watch(self) -> None:
        run = Step.run

        def timed(step: Step) -> None:
            begin = time.perf_counter()
            run(step)
            self.seconds += time.perf_counter() - begin

        Step.run = timed  # type: ignore[method-assign]  # a benchmark looks inside


NATIVE = _Native()


def measure(bench: Bench, arguments: argparse.Namespace) -> Iterator[list[Timings]]:
    """Decode at every batch size, then prefill; each item is one group of modes to compare."""
    for batch in arguments.batch:
        group = [Timings(bench.quantize, mode, batch, batch) for mode in MODES]
        for _ in range(arguments.rounds):
            for timings in group:
                bench.decode(timings.mode, batch, timings)
        yield group
    group = [
        Timings(bench.quantize, mode, 1, bench.context, kind=f"prefill of {bench.context}")
        for mode in MODES[:2]
    ]
    for _ in range(arguments.rounds):
        for timings in group:
            bench.prefill(timings.mode, timings)
    yield group


def report(base: Base, arguments: argparse.Namespace) -> list[Timings]:
    """Print the table, one block of it as soon as it is measured, and the notes below it."""
    collected: list[Timings] = []
    notes: list[str] = []
    print(HEADER)
    for quantize in arguments.quantize:
        bench = Bench(base, arguments, quantize)
        groups = []
        for group in measure(bench, arguments):
            for timings in group:
                print(timings.line(group[0]), flush=True)
            groups.append(group)
            collected += group
        notes += note(bench, groups[0][-1], groups[-2][-1], arguments)
        bench.engine.close()
    print("\n" + "\n".join(notes))
    return collected


def note(
    bench: Bench, alone: Timings, most: Timings, arguments: argparse.Namespace
) -> Iterator[str]:
    yield f"- {bench.quantize}: opened in {bench.opened:.2f} s, {bench.resident / 1e6:.0f} MB"
    if most.batch > alone.batch:
        gain = most.rate / alone.rate
        yield f"  {most.batch} distinct adapters in one batch: {gain:.1f}x the tokens/s of one"
    if not arguments.quick:
        for batch in arguments.batch[-2:]:
            rates = {mode: bench.requests(mode, batch) for mode in MODES}
            shown = ", ".join(f"{mode} {rate:.0f}" for mode, rate in rates.items())
            yield f"  {batch} requests of 64 + 64 tokens, new tokens/s with prefill: {shown}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, help="a base folder (default: made in the cache)")
    parser.add_argument("--quantize", nargs="+", default=["int8", "int4", "none", "fp16"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 4, 8, 16])
    parser.add_argument("--context", type=int, default=256, help="tokens held when a step begins")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--threads", type=int, help="default: the engine's choice")
    parser.add_argument("--rounds", type=int, default=6, help=f"of {BLOCK} steps per case")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, help="write every single timing to this file")
    parser.add_argument("--gguf", type=Path, help="the same base for llama.cpp")
    parser.add_argument("--gguf-lora", type=Path, help="an adapter for it")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.quantize, arguments.batch, arguments.rounds = ["int8"], [1, 8], 3
    arguments.batch.sort()
    folder = arguments.base or make_base(cache_root() / "bench" / "functiongemma-shape")
    NATIVE.watch()
    collected = report(Base.open(folder), arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(timings) for timings in collected]))
    if not arguments.gguf:
        print("llama.cpp: skipped, no --gguf was given")
        return
    from peer_llama import llama_rows

    for line in llama_rows(arguments):
        print(line)


if __name__ == "__main__":
    main()
