"""Libraries of llama.cpp beside each other: which one's kernels are faster on this machine.

    python bench/llama_libraries.py MODEL.gguf compiled/libllama.so xllamacpp/xllamacpp.abi3.so

Each library runs in a process of its own, and they take turns of a few steps, so that whatever else
the machine does hits them alike. Ratios are medians of paired turns to the first library, with
quartiles: above 1 is slower.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

CONTEXT, PROMPT = 256, 512
PARTS = {"decode, 1 row": 4, "decode, 8 rows": 4, f"prompt of {PROMPT}": 1}  # steps of a turn


def serve(path: str, threads: int) -> None:
    """In a child: answers the name of a part with its milliseconds per step, of wall and CPU."""
    from llama_peer import Peer

    from lorakit.engines.llama.native import llama

    api = llama()
    model = api.llama_model_load_from_file(os.fsencode(path), api.llama_model_default_params())
    ids = [5 + at % 100 for at in range(PROMPT)]
    peers = [Peer(model, rows=n, cells=n * (CONTEXT + 64), threads=threads) for n in (1, 8)]
    for peer, rows in zip(peers, (1, 8), strict=True):
        for row in range(rows):
            peer.fill(row, ids[:CONTEXT])
    reader = Peer(model, rows=1, cells=PROMPT, threads=threads)

    def decode(peer: Peer, rows: int) -> None:
        peer.step([5] * rows, CONTEXT)
        for row in range(rows):
            peer.forget(row, CONTEXT)

    def read() -> None:
        reader.forget(0, 0)
        reader.fill(0, ids[:-1])
        reader.step(ids[-1:], PROMPT - 1)

    steps: list[Callable[[], None]] = [
        lambda: decode(peers[0], 1),
        lambda: decode(peers[1], 8),
        read,
    ]
    turns = dict(zip(PARTS, steps, strict=True))
    for line in sys.stdin:
        name = line.strip()
        begin, used = time.perf_counter(), time.process_time()
        for _ in range(PARTS[name]):
            turns[name]()
        taken = (time.perf_counter() - begin, time.process_time() - used)
        print(*(seconds / PARTS[name] * 1e3 for seconds in taken), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("libraries", nargs="+", help="for LORAKIT_LLAMA_LIB")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    if arguments.libraries == ["-"]:
        serve(str(arguments.model), arguments.threads)
        return
    command = [sys.executable, __file__, str(arguments.model), "-"]
    children = [
        subprocess.Popen(
            [*command, "--threads", str(arguments.threads)],
            env={**os.environ, "LORAKIT_LLAMA_LIB": library},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )
        for library in arguments.libraries
    ]  # fmt: skip
    print(
        "| step | library | least ms | x first (quartiles) | x first, CPU |\n|---|---|---|---|---|"
    )
    try:
        for name in PARTS:
            compare(name, arguments.libraries, children, arguments.rounds)
    finally:
        for child in children:
            child.kill()
            child.wait()


def compare(
    name: str, libraries: list[str], children: list[subprocess.Popen[str]], rounds: int
) -> None:
    times: list[list[list[float]]] = [[] for _ in children]
    for at in range(rounds + 1):
        for child, found in zip(children, times, strict=True):
            assert child.stdin
            assert child.stdout
            child.stdin.write(f"{name}\n")
            taken = [float(number) for number in child.stdout.readline().split()]
            if at:  # the first turn warms up
                found.append(taken)
    for library, found in zip(libraries, times, strict=True):
        shown = [f"{min(turn[0] for turn in found):.1f}"]
        for kind in (0, 1):
            ratios = [a[kind] / b[kind] for a, b in zip(found, times[0], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            shown.append(f"{middle:.2f} ({low:.2f}-{high:.2f})")
        print(f"| {name} | {library} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
