"""Many threads use one model at once for a while; anything unexpected is an error.

python tests/engines/llama/stress.py [SECONDS] [SEED]     # prints what was done and the memory

Every call must return, or raise an error that a race explains: an adapter unloaded by another
thread, a full queue, a deadline, a cancellation. In between, each thread compares an answer with
that of an idle model.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import faulthandler
import gc
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[3] / "src"))

import lorakit
from lorakit.errors import (
    CancelledError,
    DeadlineError,
    NameTakenError,
    QueueFullError,
    UnknownAdapterError,
)
from lorakit.model.model import Model
from lorakit.model.types import Request
from lorakit.runtime.params import SamplingParams

TRUTH = Path(__file__).parents[2] / "data" / "truth"
BASE = TRUTH / "gguf" / "llama.base.f32.gguf"
SOURCES = [TRUTH / "peft" / "llama" / n for n in ("plain", "plain_b", "rslora", "bf16")]
SOURCES += [TRUTH / "gguf" / "llama.plain.f32.gguf", TRUTH / "mlx" / "llama" / "lora"]
RACES = (UnknownAdapterError, NameTakenError, QueueFullError, DeadlineError)
THREADS = 8
ROUND = 60  # acts of each thread
OPTIONS = {"max_tokens": 6, "ignore_eos": True}


class Stress:
    """One model under load; `surprises` must stay empty, and every thread must end."""

    def __init__(self, seed: int = 0) -> None:
        self.model = open_model()
        self.seed = seed
        self.rounds = 0
        self.counts: Counter[str] = Counter()
        self.surprises: list[str] = []
        self.resident: list[int] = []  # bytes, while it runs
        self._names = iter(range(1 << 60))
        self._lock = threading.Lock()
        self._fixed = [self.model.load_adapter(s, f"fixed{i}") for i, s in enumerate(SOURCES[:2])]
        self._truth = {
            (prompt, name): self._answer(prompt, name)
            for prompt in range(4)
            for name in (None, "fixed0", "fixed1")
        }

    def run(self, acts: int = ROUND) -> None:
        """Run `acts` random acts in each thread."""
        threads = [
            threading.Thread(target=self._thread, args=(i, acts), name=f"stress-{i}", daemon=True)
            for i in range(THREADS)
        ]
        self.rounds += 1
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(100.0)
            if thread.is_alive():
                faulthandler.dump_traceback(all_threads=True)
                raise AssertionError(f"{thread.name} hangs after {dict(self.counts)}")
            self.resident.append(resident())

    def close(self) -> None:
        for info in self.model.adapters:
            found = self.model.find(info.name)
            if found:
                found.unload()
        self.model.close()

    def _thread(self, number: int, acts: int) -> None:
        rng = random.Random(f"{self.seed} {self.rounds} {number}")
        for _ in range(acts):
            if self.surprises:
                return
            act = rng.choice(ACTS)
            try:
                act(self, rng)
                outcome = "done"
            except RACES as error:
                outcome = error.code
            except BaseException as error:
                self.surprises.append(f"{act.__name__}: {error!r}")
                raise
            with self._lock:
                self.counts[f"{act.__name__.strip('_')} {outcome}"] += 1

    def _answer(self, prompt: int, name: str | None) -> str:
        adapters = {} if name is None else {name: 1.0}
        ids = [1, *range(10 + prompt, 40 + 3 * prompt)]
        return self.model.complete(ids, adapters=adapters, **OPTIONS).text

    # The acts of a thread.

    def _check(self, rng: random.Random) -> None:
        prompt, name = rng.choice(list(self._truth))
        found = self._answer(prompt, name)
        assert found == self._truth[prompt, name], (prompt, name, found)

    def _load(self, rng: random.Random) -> None:
        name = f"a{rng.randrange(12)}"
        if rng.random() < 0.5:
            self.model.load_adapter(rng.choice(SOURCES), name)
        else:
            self.model.load_adapter(rng.choice(SOURCES), name, wait=False).result(60)

    def _load_async(self, rng: random.Random) -> None:
        asyncio.run(self.model.aload_adapter(rng.choice(SOURCES), f"a{rng.randrange(12)}"))

    def _unload(self, rng: random.Random) -> None:
        if found := self.model.find(f"a{rng.randrange(12)}"):
            found.unload()

    def _apply_one(self, rng: random.Random) -> None:
        if found := self.model.find(f"a{rng.randrange(12)}"):
            found.apply(rng.uniform(-1, 1), kv=rng.choice(["keep", "recompute"]))

    def _rescale(self, rng: random.Random) -> None:
        rng.choice(self._fixed).scale = rng.choice([0.0, 0.25, 0.5, -0.5])

    def _remove(self, rng: random.Random) -> None:
        if found := self.model.find(f"a{rng.randrange(12)}"):
            found.remove()

    def _apply_set(self, rng: random.Random) -> None:
        infos = list(self.model.adapters)
        chosen = rng.sample(infos, min(len(infos), rng.randrange(4)))
        self.model.apply({info.name: rng.uniform(-1, 1) for info in chosen})

    def _clear(self, rng: random.Random) -> None:
        self.model.clear_adapters(kv=rng.choice(["keep", "recompute"]))

    def _generate(self, rng: random.Random) -> None:
        ids = [1, *(rng.randrange(4, 508) for _ in range(rng.choice([1, 5, 60])))]
        self.model.complete(ids, seed=rng.randrange(99), temperature=1.0, **OPTIONS)

    def _generate_with(self, rng: random.Random) -> None:
        name = f"a{rng.randrange(12)}"
        timeout = rng.choice([None, 0.001, 0.02, 60.0])
        self.model.complete([1, 5, 6], adapters={name: 0.5}, timeout=timeout, **OPTIONS)

    def _stream(self, rng: random.Random) -> None:
        lookahead = rng.choice([0, 2, None])
        stream = self.model.stream([1, 7, 8], max_tokens=20, ignore_eos=True, lookahead=lookahead)
        for count, _ in enumerate(stream):
            if count == 3:
                rng.choice(self._fixed).scale = rng.uniform(-1, 1)
            if count > 6 and rng.random() < 0.2:
                stream.cancel()
        if rng.random() < 0.5:
            with contextlib.suppress(CancelledError):
                stream.result(60)

    def _drop_stream(self, rng: random.Random) -> None:
        stream = self.model.stream([1, *range(5, 200)], max_tokens=50, ignore_eos=True)
        if rng.random() < 0.5:
            next(stream)

    def _batch(self, rng: random.Random) -> None:
        sampling = SamplingParams(**OPTIONS)
        self.model.batch(
            Request(prompt=[1, 9, i], adapters=chosen, sampling=sampling)
            for i, chosen in enumerate([{}, {"fixed0": 1.0}, {"fixed1": -0.5}, None])
        )

    def _logits(self, rng: random.Random) -> None:
        self.model.logits([1, 5, 9], adapters={"fixed0": rng.choice([1.0, -1.0])})

    def _embed(self, rng: random.Random) -> None:
        self.model.embed([1, 5, 9], adapters={"fixed1": 1.0})


ACTS: list[Callable[[Stress, random.Random], None]] = [
    Stress._check, Stress._check, Stress._load, Stress._load_async, Stress._unload, Stress._unload,
    Stress._apply_one, Stress._rescale, Stress._remove, Stress._apply_set, Stress._clear,
    Stress._generate, Stress._generate_with, Stress._stream, Stress._drop_stream, Stress._batch,
    Stress._logits, Stress._embed,
]  # fmt: skip


def open_model() -> Model:
    return lorakit.open(BASE, threads=1, max_batch=4)


def resident() -> int:
    """Resident bytes of this process, without what malloc only keeps for later; Linux only."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # a C library that is not glibc
        ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def main() -> None:
    faulthandler.enable()
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    stress = Stress(seed)
    end = time.monotonic() + seconds
    while time.monotonic() < end and not stress.surprises:
        stress.run()
    step = max(1, len(stress.resident) // 12)
    print("MiB:", *(f"{size >> 20}" for size in stress.resident[::step]), f"{resident() >> 20}")
    print(dict(sorted(stress.counts.items())), "surprises:", stress.surprises)
    stress.close()
    print(f"closed: {resident() >> 20} MiB")
    sys.exit(bool(stress.surprises))


if __name__ == "__main__":
    import os

    with tempfile.TemporaryDirectory() as cache:
        os.environ["LORAKIT_CACHE"] = cache
        main()
