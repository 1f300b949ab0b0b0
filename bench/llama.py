"""lorakit's llama engine beside llama.cpp's own low-level calls: decode, adapters, prompts, memory.

    python bench/llama.py                       every part (about ten minutes on two cores)
    python bench/llama.py decode distinct       some of them
    python bench/llama.py --gguf BASE.gguf --lora ADAPTER.gguf --threads 2 --rounds 10

Parts: decode (batch 1, 8 and 16; no adapter, one of rank 16), distinct (another adapter in every
row), apply (the token after a change of set), prompt (prefill), load (an adapter from PEFT, GGUF
and the cache), memory (of 1 to 16 contexts). The base has FunctionGemma's shape and random weights,
in Q8_0; it is made on first use (bench/make_gguf.py).

All sides run on one copy of the weights and take turns of a few steps, so that whatever else the
machine does hits them alike: the ratios are medians of paired turns, with quartiles. A step of ours
is one `engine.forward` and the best token of each row; the peer's is bench/llama_peer.py.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from llama_peer import Peer
from make_base import make_adapter
from make_gguf import make_gguf

from lorakit.adapter import Adapter
from lorakit.base.folder import Base
from lorakit.base.gguf import open_gguf_base
from lorakit.engines.llama.adapter_file import native_file
from lorakit.engines.llama.engine import LlamaEngine
from lorakit.engines.llama.native import llama
from lorakit.engines.llama.options import LlamaOptions
from lorakit.engines.protocol import AdapterSet, Row
from lorakit.files.cache import cache_root
from lorakit.formats.gguf import write_gguf
from lorakit.formats.peft import write_peft
from lorakit.model.load import ready

CONTEXT = 256  # tokens held when a step begins
BLOCK = 4  # steps of one side before the next has its turn
Side = Callable[[], None]  # one step


def versus(name: str, sides: dict[str, Side], rounds: int, block: int = BLOCK) -> None:
    """Time sides in turns and print a line for each; the first is what others are compared to."""
    wall: dict[str, list[float]] = {side: [] for side in sides}
    cpu: dict[str, list[float]] = {side: [] for side in sides}
    for side in sides.values():
        side()
    for _ in range(rounds):
        for label, side in sides.items():
            begin, used = time.perf_counter(), time.process_time()
            for _ in range(block):
                side()
            wall[label].append((time.perf_counter() - begin) / block * 1e3)
            cpu[label].append((time.process_time() - used) / block * 1e3)
    first = next(iter(sides))
    for label in sides:
        ratios = [a / b for a, b in zip(wall[label], wall[first], strict=True)]
        used = [a / b for a, b in zip(cpu[label], cpu[first], strict=True)]
        print(
            f"| {name} | {label} | {_spread(wall[label], 1)} | {min(wall[label]):.1f} "
            f"| {statistics.median(cpu[label]):.1f} | {_spread(ratios, 2)} | {_spread(used, 2)} |",
            flush=True,
        )


def _spread(values: list[float], digits: int) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


HEADER = (
    "| step | side | ms (quartiles) | least | cpu ms | x first | x first cpu |\n"
    "|---|---|---|---|---|---|---|"
)


class Ours:
    """An open engine with adapters attached, and rows ready at a context."""

    def __init__(
        self, bench: Bench, *, rows: int, contexts: int = 8, adapters: int = 1, kv: int = CONTEXT
    ) -> None:
        self.options = LlamaOptions(
            threads=bench.threads, max_batch=rows, cached_sequences=rows, contexts=contexts
        )
        self.engine = LlamaEngine.open(bench.base, self.options)
        self.handles = [
            self.engine.attach(self.engine.prepare(adapter))
            for adapter in bench.adapters[:adapters]
        ]
        self.length, self.prompt = kv, bench.tokens(kv)
        self.sequences = [self.engine.open_sequence() for _ in range(rows)]

    def fill(self, adapters: Callable[[int], AdapterSet]) -> None:
        for at, sequence in enumerate(self.sequences):
            row = Row(sequence=sequence, tokens=self.prompt, adapters=adapters(at), logits="none")
            self.engine.forward([row])

    def step(self, adapters: Callable[[int], AdapterSet], count: int) -> Side:
        """Decode one token of `count` rows, over and over at about the same context."""
        token = self.prompt[:1]
        rows = [
            Row(sequence=sequence, tokens=token, adapters=adapters(at))
            for at, sequence in enumerate(self.sequences[:count])
        ]

        def run() -> None:
            if self.engine.length(rows[0].sequence) >= self.length + 64:
                for row in rows:
                    self.engine.truncate(row.sequence, self.length)
            for logits in self.engine.forward(rows):
                logits[-1].argmax()

        return run


def peer_step(peers: list[Peer], sets: list[Any], count: int, kv: int) -> Side:
    """One token of `count` rows: all in one decode, or one context per row, or sets switched."""
    position = [kv - 1]

    def run() -> None:
        at = position[0] = kv if position[0] >= kv + 64 else position[0] + 1
        if at == kv:
            for peer in peers:
                for row in range(count):
                    peer.forget(row, kv)
        if len(peers) > 1:
            for peer in peers:
                peer.step([5], at)
        elif len(sets) > 1:
            for row, adapters in enumerate(sets):
                peers[0].use(adapters)
                peers[0].step([5], at, first=row)
        else:
            peers[0].step([5] * count, at)

    return run


class Bench:
    """The base, adapters for it, and a second copy of both for the peer."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.threads, self.rounds = arguments.threads, arguments.rounds
        self.batch: list[int] = arguments.batch
        path = arguments.gguf or make_gguf(cache_root() / "bench" / "functiongemma-q8_0.gguf")
        self.base: Base = open_gguf_base(path)
        self.adapters: list[Adapter] = [make_adapter(self.base.decoder, i) for i in range(16)]
        self.api = api = llama()
        parameters = api.llama_model_default_params()
        self.model = api.llama_model_load_from_file(os.fsencode(path), parameters)
        self.loras = [self.native(adapter) for adapter in self.adapters]
        if arguments.lora:
            self.loras[0] = api.llama_adapter_lora_init(self.model, os.fsencode(arguments.lora))

    def native(self, adapter: Adapter) -> Any:
        with native_file(adapter, self.base) as path:
            return self.api.llama_adapter_lora_init(self.model, os.fsencode(path))

    def tokens(self, count: int) -> Any:
        return np.random.default_rng(0).integers(10, self.base.decoder.vocabulary, count)

    def peer(self, *, rows: int, cells: int, adapters: Any = (), like_ours: bool = True) -> Peer:
        peer = Peer(self.model, rows=rows, cells=cells, threads=self.threads, like_ours=like_ours)
        peer.use(adapters)
        return peer

    def decode(self) -> None:
        for count in self.batch:
            ours = Ours(self, rows=count)
            sets: dict[str, tuple[AdapterSet, Any]] = {
                "base": ((), ()),
                "rank 16": (((ours.handles[0], 1.0),), ((self.loras[0], 1.0),)),
            }
            for name, (held, native) in sets.items():
                ours.fill(lambda _, held=held: held)
                sides, peers = {}, {}
                for label, like in (("llama.cpp", True), ("llama.cpp, its defaults", False)):
                    cells = count * (CONTEXT + 64)
                    peers[label] = self.peer(
                        rows=count, cells=cells, adapters=native, like_ours=like
                    )
                    for row in range(count):
                        peers[label].fill(row, self.tokens(CONTEXT))
                    sides[label] = peer_step([peers[label]], [], count, CONTEXT)
                sides["lorakit"] = ours.step(lambda _, held=held: held, count)
                versus(f"decode, batch {count}, {name}", sides, self.rounds)
                for peer in peers.values():
                    peer.close()
                for sequence in ours.sequences:
                    ours.engine.truncate(sequence, 0)
            ours.engine.close()

    def distinct(self) -> None:
        for count in [count for count in self.batch if count > 1]:
            tokens = self.tokens(CONTEXT)
            each = [
                self.peer(rows=1, cells=CONTEXT + 256, adapters=((lora, 1.0),))
                for lora in self.loras[:count]
            ]
            for peer in each:
                peer.fill(0, tokens)
            one = self.peer(rows=count, cells=count * (CONTEXT + 64))
            for row in range(count):
                one.fill(row, tokens)
            sets = [((lora, 1.0),) for lora in self.loras[:count]]
            sides = {
                "llama.cpp, a context per adapter": peer_step(each, [], count, CONTEXT),
                "llama.cpp, one context switched": peer_step([one], sets, count, CONTEXT),
            }
            opened = []
            for contexts in (1, 4, 8, 16):
                if contexts > count:
                    continue
                ours = Ours(self, rows=count, contexts=contexts, adapters=count)
                held = [((handle, 1.0),) for handle in ours.handles]
                ours.fill(held.__getitem__)
                sides[f"lorakit, contexts={contexts}"] = ours.step(held.__getitem__, count)
                opened.append(ours.engine)
            versus(f"decode, {count} adapters in {count} rows", sides, self.rounds, block=1)
            for peer in [*each, one]:
                peer.close()
            for engine in opened:
                engine.close()

    def apply(self) -> None:
        """The token after another set was applied, beside a token of the same set."""
        for kv in (256,):
            for contexts in (1, 8):
                ours = Ours(self, rows=1, contexts=contexts, adapters=2, kv=kv)
                sets = [((handle, 1.0),) for handle in ours.handles]
                ours.fill(lambda _, sets=sets: sets[0])
                same = ours.step(lambda _, sets=sets: sets[0], 1)
                turns = [ours.step(lambda _, held=held: held, 1) for held in sets]
                at = [0]

                def change(turns: list[Side] = turns, at: list[int] = at) -> None:
                    at[0] += 1
                    turns[at[0] % 2]()

                sides = {"the same set": same, "another set": change}
                versus(f"a token at {kv}, contexts={contexts}", sides, self.rounds)
                ours.engine.close()

    def prompt(self) -> None:
        for count in (512,):
            self._prompt(count, "base", 0)
            self._prompt(count, "rank 16", 1)

    def _prompt(self, count: int, name: str, adapters: int) -> None:
        ours, tokens = Ours(self, rows=1), self.tokens(count)
        native = [(self.loras[0], 1.0)][:adapters]
        peer = self.peer(rows=1, cells=count + 256, adapters=native)
        held = tuple((handle, 1.0) for handle in ours.handles[:adapters])

        def native_run() -> None:
            peer.forget(0, 0)
            peer.fill(0, tokens[:-1])
            peer.step([int(tokens[-1])], count - 1)

        def run(chunk: int) -> None:
            sequence = ours.sequences[0]
            ours.engine.truncate(sequence, 0)
            for at in range(0, count, chunk):
                part = tokens[at : at + chunk]
                ours.engine.forward([Row(sequence=sequence, tokens=part, adapters=held)])

        sides = {"llama.cpp, 512 at once": native_run}
        sides |= {f"lorakit, {chunk} at once": partial(run, chunk) for chunk in (128, 512)}
        versus(f"prompt of {count}, {name}", sides, max(3, self.rounds // 3), block=1)
        peer.close()
        ours.engine.close()

    def load(self) -> None:
        """An adapter of rank 16 (15 MB) until the engine has it; CPU time in the last columns."""
        with tempfile.TemporaryDirectory() as folder:
            peft, gguf = Path(folder) / "peft", Path(folder) / "adapter.gguf"
            write_peft(self.adapters[1], peft)
            write_gguf(self.adapters[1], gguf, self.base.decoder)
            ours = Ours(self, rows=1)
            with native_file(self.adapters[1], self.base) as name:
                """Where it is cached."""

            def attach(path: Path, *, cached: bool) -> None:
                if not cached:
                    name.unlink()
                adapter, _ = ready(path, self.base, lambda place: place)
                ours.engine.detach(ours.engine.attach(ours.engine.prepare(adapter)))

            def native() -> None:
                lora = self.api.llama_adapter_lora_init(self.model, os.fsencode(gguf))
                self.api.llama_adapter_lora_free(lora)

            sides: dict[str, Side] = {
                "llama_adapter_lora_init": native,
                "PEFT": lambda: attach(peft, cached=False),
                "GGUF": lambda: attach(gguf, cached=False),
                "PEFT, written before": lambda: attach(peft, cached=True),
                "GGUF, written before": lambda: attach(gguf, cached=True),
            }
            versus("load", sides, self.rounds, block=1)
            ours.engine.close()

    def memory(self) -> None:
        print("\n| contexts | resident MB above the first |\n|---|---|")
        ours = Ours(self, rows=16, contexts=16, adapters=16)
        held = [((handle, 1.0),) for handle in ours.handles]
        first = 0
        for at in range(16):
            row = Row(sequence=ours.sequences[at], tokens=ours.prompt, adapters=held[at])
            ours.engine.forward([row])
            resident = psutil.Process().memory_info().rss
            first = first or resident
            if at + 1 in (1, 2, 4, 8, 16):
                print(f"| {at + 1} | {(resident - first) / 1e6:.0f} |")
        ours.engine.close()


PARTS = ("decode", "distinct", "apply", "prompt", "load", "memory")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--gguf", type=Path, help="a base (default: made in the cache)")
    parser.add_argument("--lora", type=Path, help="the peer's adapter (default: made)")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8, 16])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=12)
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}")
    bench = Bench(arguments)
    print(f"load average {os.getloadavg()[0]:.1f}, {arguments.threads} threads\n\n{HEADER}")
    for part in arguments.parts or PARTS:
        getattr(bench, part)()
    print(f"\nload average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
