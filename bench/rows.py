"""Rows of different numbers of new tokens: packed into one run, and each in a run of its own.

    python bench/rows.py                        int8 at one thread (about four minutes)
    python bench/rows.py --quick                few cases and repeats
    python bench/rows.py --quantize none int4 --threads 2

The base has FunctionGemma's shape and random weights (bench/make_base.py); adapters have rank 16 on
all linear layers, a row's own each, its logits are the last token's. The two ways of a case take
turns, so that whatever else the machine does hits them alike: read the ratios, which are medians of
pairs with their quartiles, of CPU time. `x a batch` is of a step with one token in each row. Below
the table: what opening lanes takes, and what a batch costs in a graph with them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from make_base import make_adapter, make_base

from lorakit.base.folder import Base
from lorakit.engines.onnx.engine import OnnxEngine
from lorakit.engines.onnx.options import OnnxOptions
from lorakit.engines.onnx.plan import Worth
from lorakit.engines.protocol import AdapterSet, Row
from lorakit.files.cache import cache_root

MODES = ("base", "shared", "distinct")
CASES = (  # new tokens of each row
    [4] * 8,
    [2] * 8,
    [4, 4],
    [4] + [1] * 7,
    [8, 2, 1, 5, 1, 1, 3, 1],
    [32] + [1] * 7,
    [64] + [1] * 7,
    [4] * 16,
)
QUICK = CASES[0], CASES[4]
JOINING = 128  # tokens of a prompt beside rows that decode; a row too long to be packed
HEADER = "| weights | adapters | new tokens | apart, ms | packed, ms | packed / apart | x a batch |"


@dataclass
class Pair:
    """CPU seconds of two ways that took turns."""

    one: list[float]
    other: list[float]

    @property
    def ratio(self) -> str:
        """Of the other to the one, with its quartiles."""
        ratios = [b / a for a, b in zip(self.one, self.other, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        return f"{middle:.2f} ({low:.2f}-{high:.2f})"


class Bench:
    """An open engine with adapters attached, and rows ready at a context."""

    def __init__(self, base: Base, arguments: argparse.Namespace, quantize: str) -> None:
        self.context = arguments.context
        options = OnnxOptions(quantize=quantize, threads=arguments.threads, max_batch=17)
        self.engine = OnnxEngine.open(base, options)
        self.handles = [
            self.engine.attach(self.engine.prepare(make_adapter(base.decoder, seed)))
            for seed in range(8)
        ]
        rng = np.random.default_rng(0)
        self.tokens = rng.integers(0, base.decoder.vocabulary, self.context)
        first = self.engine.open_sequence()
        self.engine.forward([Row(sequence=first, tokens=self.tokens, logits="none")])
        forks = [self.engine.fork(first, self.context) for _ in range(16)]
        self.sequences = [first, *forks]

    def step(self, counts: list[int], mode: str) -> float:
        """CPU seconds of one step; it leaves the sequences as they were."""
        parts = enumerate(zip(self.sequences, counts, strict=False))
        rows = [
            Row(sequence=sequence, tokens=self.tokens[:count], adapters=self.adapters(mode, index))
            for index, (sequence, count) in parts
        ]
        begin = time.process_time()
        self.engine.forward(rows)
        spent = time.process_time() - begin
        for row in rows:
            self.engine.truncate(row.sequence, self.context)
        return spent

    def adapters(self, mode: str, row: int) -> AdapterSet:
        if mode == "base":
            return ()
        return ((self.handles[row % 8 if mode == "distinct" else 0], 1.0),)

    def packing(self, packed: bool) -> None:
        """A benchmark looks inside: whether rows are packed."""
        self.engine._sessions.most = 16 if packed else 0

    def lanes(self, rows: int) -> float:
        """Open a session with lanes for so many rows, which stays; seconds."""
        self.packing(True)
        self.engine._sessions.worth = Worth(opening=0.0)
        begin = time.perf_counter()
        self.step([4] * rows, "base")
        self.engine._sessions.worth.settled = True
        return time.perf_counter() - begin


def paired(one: Callable[[], float], other: Callable[[], float], rounds: int) -> Pair:
    """The first turn of each is not counted."""
    turns = [(one(), other()) for _ in range(rounds + 1)][1:]
    return Pair([turn[0] for turn in turns], [turn[1] for turn in turns])


def measure(bench: Bench, mode: str, counts: list[int], rounds: int) -> str:
    """A line of the table."""

    def apart() -> float:
        bench.packing(False)
        return bench.step(counts, mode)

    def packed() -> float:
        bench.packing(True)
        return bench.step(counts, mode)

    pair = paired(apart, packed, rounds)
    batch = paired(lambda: bench.step([1] * len(counts), mode), packed, rounds)
    shown = " ".join(map(str, counts)) if len(set(counts)) > 1 else f"{len(counts)} x {counts[0]}"
    one, other = (statistics.median(times) * 1e3 for times in (pair.one, pair.other))
    return f"{mode} | {shown} | {one:.1f} | {other:.1f} | {pair.ratio} | {batch.ratio} |"


def batches(plain: Bench, bench: Bench, rounds: int) -> str:
    """What batches of single tokens take beside those of an engine without lanes."""
    found = []
    for mode, rows in (("base", 1), ("distinct", 8)):
        pair = paired(
            lambda mode=mode, rows=rows: plain.step([1] * rows, mode),
            lambda mode=mode, rows=rows: bench.step([1] * rows, mode),
            4 * rounds,
        )
        found.append(f"{pair.ratio} for {rows} row{'s' * (rows > 1)} ({mode})")
    return ", ".join(found)


def joining(plain: Bench, mode: str, rounds: int) -> str:
    """A prompt too long to be packed, beside rows that decode."""
    pair = paired(
        lambda: plain.step([1] * 8, mode),
        lambda: plain.step([JOINING] + [1] * 8, mode),
        rounds,
    )
    return f"{pair.ratio} of the batch ({mode})"


def report(base: Base, arguments: argparse.Namespace, quantize: str) -> None:
    bench, plain = (Bench(base, arguments, quantize) for _ in range(2))
    plain.packing(False)
    said = []
    for lanes in (8,) if arguments.quick else (8, 16):
        opened = bench.lanes(lanes)
        for mode in arguments.adapters:
            for counts in QUICK if arguments.quick else CASES:
                if lanes == 8 + 8 * (len(counts) > 8):
                    line = measure(bench, mode, counts, arguments.rounds)
                    print(f"| {quantize} | {line}", flush=True)
        said.append(f"the first step with {lanes} lanes, which opens them: {opened:.2f} s")
        slower = batches(plain, bench, arguments.rounds)
        said.append(f"batches in a graph with {lanes} lanes: {slower}")
    for mode in ("base", "distinct"):
        beside = joining(plain, mode, arguments.rounds)
        said.append(f"{JOINING} tokens beside 8 rows: {beside}")
    print("\n" + "\n".join(f"- {quantize}: {line}" for line in said))
    for each in (bench, plain):
        each.engine.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, help="a base folder (default: made in the cache)")
    parser.add_argument("--quantize", nargs="+", default=["int8"])
    parser.add_argument("--adapters", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--context", type=int, default=256, help="tokens held when a step begins")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.adapters, arguments.rounds = ["distinct"], 4
    folder = arguments.base or make_base(cache_root() / "bench" / "functiongemma-shape")
    print(HEADER + "\n|" + "---|" * (HEADER.count("|") - 1))
    for quantize in arguments.quantize:
        report(Base.open(folder), arguments, quantize)


if __name__ == "__main__":
    main()
