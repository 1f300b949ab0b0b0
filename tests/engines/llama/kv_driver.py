"""Random interleavings of engine calls, each step compared with a cold run.

    python tests/engines/llama/kv_driver.py BASE SEEDS [KV_TYPE]   # gemma3 0-100 f16

A cold run computes a sequence's whole history in a separate engine that holds nothing else.
"""

from __future__ import annotations

import random
import sys
from collections import Counter

import numpy as np
from llama_cases import open_engine, row, truth_adapter

ADAPTERS = ("plain", "plain_b", "rslora")
SEQUENCES = 6
LONGEST = 240
# Largest difference of a logit: cells lie elsewhere, so sums round otherwise; a form with fewer
# bits rounds more, and a wrong cell differs by 0.1 and more.
TOLERANCE = {"f32": 2e-3, "f16": 1e-2, "q8_0": 5e-2}


class Driver:
    """An engine, the history of its sequences, and the engine for the cold runs."""

    def __init__(self, base: str, seed: int, kv_type: str = "f32", contexts: int = 2) -> None:
        self.rng = random.Random(f"{base} {seed} {kv_type}")
        options = {"kv_type": kv_type, "context": 256}
        self.engine = open_engine(
            base, max_batch=4, cached_sequences=3, contexts=contexts, **options
        )
        self.cold = open_engine(base, max_batch=1, cached_sequences=0, contexts=1, **options)
        self.handles = [
            tuple(
                engine.attach(engine.prepare(truth_adapter(base, name)))
                for engine in (self.engine, self.cold)
            )
            for name in ADAPTERS
        ]
        self.tolerance = TOLERANCE[kv_type]
        self.histories: dict[int, list[tuple[int, tuple]]] = {}
        self.worst = 0.0
        self.lost: Counter[str] = Counter()  # calls in which nothing could be reused

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()
            self.check_lengths()

    def close(self) -> None:
        self.engine.close()
        self.cold.close()

    def step(self) -> None:
        if not self.histories or (len(self.histories) < SEQUENCES and self.rng.random() < 0.15):
            self.histories[self.engine.open_sequence()] = []
            return
        act = self.rng.choices(
            (self.forward, self.fork, self.truncate, self.close_one, self.save_and_load),
            (10, 3, 3, 1, 2),
        )[0]
        act(self.rng.choice(list(self.histories)))

    def forward(self, _: int) -> None:
        rows = []
        for name in self.rng.sample(list(self.histories), min(4, len(self.histories))):
            if rows and self.rng.random() < 0.4:
                continue
            chosen = self.some_set()
            tokens = [self.rng.randrange(4, 500) for _ in range(self.rng.choice((1, 1, 3, 20, 60)))]
            if len(self.histories[name]) + len(tokens) <= LONGEST:
                self.histories[name] += [(token, chosen) for token in tokens]
                rows.append(row(name, tokens, self.of(chosen, 0), "last"))
        found = [logits.copy() for logits in self.engine.forward(rows)]
        for at, logits in zip(rows, found, strict=True):
            self.compare(at.sequence, logits)

    def fork(self, name: int) -> None:
        cut = self.rng.randint(0, len(self.histories[name]))
        if len(self.histories) < SEQUENCES and self.holds("fork", name, cut):
            self.histories[self.engine.fork(name, cut)] = self.histories[name][:cut]

    def truncate(self, name: int) -> None:
        cut = self.rng.randint(0, len(self.histories[name]))
        if self.holds("truncate", name, cut):
            self.engine.truncate(name, cut)
            del self.histories[name][cut:]

    def close_one(self, name: int) -> None:
        self.engine.close_sequence(name)
        del self.histories[name]

    def save_and_load(self, name: int) -> None:
        history = self.histories[name]
        if history and len(self.histories) < SEQUENCES:
            state = self.engine.save_sequence(name)
            self.histories[self.engine.load_sequence(state, len(history))] = list(history)

    def holds(self, what: str, name: int, length: int) -> bool:
        if self.engine.reusable(name, length) == length:
            return True
        self.lost[what] += 1
        return False

    def some_set(self) -> tuple:
        """(index of an adapter, scale) pairs; few different ones, so that sets meet again."""
        if self.rng.random() < 0.4:
            return ()
        return ((self.rng.randrange(len(ADAPTERS)), self.rng.choice((0.5, 1.0))),)

    def of(self, chosen: tuple, engine: int) -> tuple:
        return tuple((self.handles[index][engine], scale) for index, scale in chosen)

    def compare(self, name: int, logits: np.ndarray) -> None:
        difference = float(np.abs(logits - self.from_cold(self.histories[name])).max())
        self.worst = max(self.worst, difference)
        assert difference < self.tolerance, f"a logit is off by {difference}"

    def from_cold(self, history: list) -> np.ndarray:
        sequence, start, found = self.cold.open_sequence(), 0, None
        while start < len(history):
            chosen = history[start][1]
            end = next(
                (at for at in range(start, len(history)) if history[at][1] != chosen), len(history)
            )
            tokens = [token for token, _ in history[start:end]]
            (found,) = self.cold.forward([row(sequence, tokens, self.of(chosen, 1), "last")])
            start = end
        found = found.copy()
        self.cold.close_sequence(sequence)
        return found

    def check_lengths(self) -> None:
        for name, history in self.histories.items():
            assert self.engine.length(name) == len(history)


def main() -> None:
    base, seeds, *rest = sys.argv[1:]
    first, last = (int(number) for number in seeds.split("-"))
    worst, lost = 0.0, Counter()
    for seed in range(first, last):
        driver = Driver(base, seed, *rest, contexts=1 + seed % 3)
        try:
            driver.run(30)
        except BaseException:
            print(f"seed {seed}")
            raise
        worst, lost = max(worst, driver.worst), lost + driver.lost
        driver.close()
    print(f"{last - first} interleavings of {base}, worst {worst:.2g}, reuse lost {dict(lost)}")


if __name__ == "__main__":
    main()
