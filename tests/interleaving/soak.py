"""The long run: many interleavings on every engine and base, in several processes.

    python tests/interleaving/soak.py                            2,000 of each combination
    python tests/interleaving/soak.py --engine onnx --base demo --count 200
    python tests/interleaving/soak.py --engine onnx --base demo --opening 17    one opening again

A line for each combination, a failure with its operations, and the sum; 1 where anything differs.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from driver import COMBINATIONS, IN_A_ROW, Combination, InterleavingError, run

COUNT = 2000  # interleavings of a combination
SLICES = 4  # processes that share a combination, one after another or side by side
APART = 1_000_000  # openings between the slices' first ones
LONGEST = 300.0  # seconds that one interleaving may take; then the process ends with its stacks
RESULT = "result: "


@dataclass(slots=True)
class Sum:
    """What the slices of one combination came to."""

    interleavings: int = 0
    tally: Counter[str] = field(default_factory=Counter)
    worst: float = 0.0
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)

    def add(self, output: str, status: int) -> None:
        lines = output.splitlines()
        found = [json.loads(line[len(RESULT) :]) for line in lines if line.startswith(RESULT)]
        for part in found:
            self.interleavings += part["interleavings"]
            self.tally += Counter(part["tally"])
            self.worst = max(self.worst, part["worst"])
            self.seconds += part["seconds"]
        if status:
            self.faults.append("\n".join(line for line in lines if not line.startswith(RESULT)))

    def __str__(self) -> str:
        names = ("operations", "checked", "ties", "unchecked")
        counts = ", ".join(f"{self.tally[name]} {name}" for name in names)
        return (
            f"{self.interleavings} interleavings, {counts}, "
            f"log probabilities within {self.worst:.1g}, {len(self.faults)} differences, "
            f"{self.seconds:.0f} s"
        )


def slice_of(engine: str, base: str, first: int, count: int, work: Path) -> int:
    """Run interleavings in this process, and print what became of them."""
    combination = Combination(engine, base, work)
    began = time.monotonic()
    try:
        report = run(
            combination,
            count,
            first,
            lambda: faulthandler.dump_traceback_later(LONGEST, exit=True, file=sys.__stderr__),
        )
    except InterleavingError as failure:
        print(failure)
        return 1
    finally:
        faulthandler.cancel_dump_traceback_later()
    result = {
        "interleavings": report.interleavings,
        "tally": report.tally,
        "worst": report.worst,
        "seconds": time.monotonic() - began,
    }
    print(RESULT + json.dumps(result))
    return 0


def command(engine: str, base: str, first: int, count: int, work: Path) -> tuple[str, int]:
    """The same in a process of its own: its output and status."""
    done = subprocess.run(
        [sys.executable, __file__, "--engine", engine, "--base", base, "--count", str(count),
         "--opening", str(first), "--work", str(work)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    return done.stdout, done.returncode


def soak(wanted: list[tuple[str, str]], count: int, processes: int, work: Path) -> int:
    """All of them; returns how many combinations differ."""
    sizes = [count // SLICES + (at < count % SLICES) for at in range(SLICES)]
    sums = {name: Sum() for name in wanted}
    for engine, base in wanted:  # what is made once is not made by two at a time
        Combination(engine, base, work).close()
    with ThreadPoolExecutor(processes) as pool:
        running = [
            (name, pool.submit(command, *name, at * APART, size, work))
            for name in wanted
            for at, size in enumerate(sizes)
            if size
        ]
        for at, (name, future) in enumerate(running, 1):
            sums[name].add(*future.result())
            if at == len(running) or running[at][0] != name:
                print(f"{name[0]:5} {name[1]:6} {sums[name]}", *sums[name].faults, sep="\n  ")
                sys.stdout.flush()
    faults = sum(len(found.faults) for found in sums.values())
    total = sum(found.interleavings for found in sums.values())
    print(f"{total} interleavings, {faults} differences")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=sorted({engine for engine, _ in COMBINATIONS}))
    parser.add_argument("--base", choices=sorted({base for _, base in COMBINATIONS}))
    parser.add_argument("--count", type=int)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--opening", type=int, help="run from this opening on, in this process")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    wanted = [
        (engine, base)
        for engine, base in COMBINATIONS
        if chosen.engine in (None, engine) and chosen.base in (None, base)
    ]
    if not wanted:
        parser.error("the fake engine runs gemma3 alone")
    with tempfile.TemporaryDirectory() as temporary:
        work = chosen.work or Path(temporary)
        os.environ["LORAKIT_CACHE"] = str(work / "cache")
        if chosen.opening is not None:
            count = chosen.count or IN_A_ROW
            return max(slice_of(*name, chosen.opening, count, work) for name in wanted)
        return bool(soak(wanted, chosen.count or COUNT, chosen.processes, work))


if __name__ == "__main__":
    sys.exit(main())
