"""The driver: seeded interleavings of operations on a real model, each answer checked.

An opening is a model with options of its own, on which several interleavings run one after the
other; what is cached carries over on purpose. The same seed gives the same operations; what runs
freely beside them does not repeat exactly, and the check allows for that.
"""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest.mock import patch

from bases import BASES, adapters_for, base_path
from naive import Naive
from operations import Operation, draw
from world import World

import lorakit
from lorakit.adapter import Adapter
from lorakit.base.folder import Base
from lorakit.base.gguf import open_base
from lorakit.engines.fake import FakeEngine
from lorakit.engines.protocol import Capabilities, Engine, EngineOptions, Logits, Prepared, Row
from lorakit.engines.table import ENGINES, choose_engine, open_engine
from lorakit.errors import CapabilityError

ENGINE_NAMES = ("onnx", "export", "llama", "torch")
COMBINATIONS = [("fake", "gemma3"), *((e, b) for e in ENGINE_NAMES for b in BASES)]
CONTEXT = 256  # tokens; the sliding windows are 16 (gemma3) and 128 (demo)
LENGTH = 30  # operations of an interleaving
IN_A_ROW = 6  # interleavings of an opening
MOST_TRIES = 60  # runs to find a shorter failing interleaving
# By how much a logit may differ between one way of cutting the same tokens into steps and another.
# Measured over all adapters; llama.cpp's GELU goes through a table in half precision.
NOISE = {"fake": 0.0, "onnx": 4e-4, "export": 4e-4, "torch": 4e-4, "llama": 4e-4}
NOISE_OF_GELU = {("llama", "gemma3"): 8e-3, ("llama", "demo"): 8e-3}


class Watched:
    """An engine that counts what is open, and takes prompts in smaller steps than its own."""

    def __init__(self, inner: Engine, chunk: int) -> None:
        self._inner = inner
        self._chunk = chunk
        self.sequences: set[int] = set()
        self.attached: set[int] = set()
        self.before_step: Callable[[Sequence[Row]], None] | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    @property
    def capabilities(self) -> Capabilities:
        chunk = self._chunk
        return replace(self._inner.capabilities, prefill_chunk=chunk, prefill_alone=2 * chunk)

    def forward(self, rows: Sequence[Row]) -> list[Logits]:
        if self.before_step is not None:
            self.before_step(rows)
        return self._inner.forward(rows)

    def attach(self, prepared: Prepared) -> int:
        handle = self._inner.attach(prepared)
        self.attached.add(handle)
        return handle

    def detach(self, handle: int) -> None:
        self._inner.detach(handle)
        self.attached.remove(handle)

    def open_sequence(self) -> int:
        return self._opened(self._inner.open_sequence())

    def fork(self, sequence: int, length: int) -> int:
        return self._opened(self._inner.fork(sequence, length))

    def load_sequence(self, state: bytes, length: int) -> int:
        return self._opened(self._inner.load_sequence(state, length))

    def close_sequence(self, sequence: int) -> None:
        self._inner.close_sequence(sequence)
        self.sequences.remove(sequence)

    def _opened(self, sequence: int) -> int:
        self.sequences.add(sequence)
        return sequence


@dataclass(slots=True, repr=False)
class Combination:
    """An engine and a base, with what all openings of it share. "export" is the base's export,
    which the onnx engine opens. wrap: breaks the engine, in tests of the driver itself."""

    engine: str
    base: str
    work: Path
    longest: int = 6
    wrap: Callable[[Engine], Engine] = lambda engine: engine
    path: Path = field(init=False)
    naive: Naive = field(init=False)
    pool: dict[str, Adapter] = field(init=False)

    def __post_init__(self) -> None:
        kinds = {"gguf": self.engine == "llama", "export": self.engine == "export"}
        self.path = base_path(self.base, self.work, **kinds)
        options = EngineOptions(threads=1, context=CONTEXT, max_batch=1, cached_sequences=1)
        base = open_base(self.path)
        own = (
            self._fake(options) if self.engine == "fake" else open_engine(self.named, base, options)
        )
        pool = adapters_for(self.base, base_path(self.base, self.work))
        self.pool = {name: adapter for name, adapter in pool.items() if _applicable(own, adapter)}
        tokenizer = ENGINES[choose_engine(None, base)].tokenizer(base)
        self.naive = Naive(
            own,
            {adapter.digest: adapter for adapter in pool.values()},
            lambda: tokenizer.stream(continuing=True),
        )

    @property
    def named(self) -> str:
        """The engine as lorakit calls it."""
        return "onnx" if self.engine == "export" else self.engine

    @property
    def noise(self) -> float:
        return NOISE_OF_GELU.get((self.engine, self.base), NOISE[self.engine])

    def _fake(self, options: EngineOptions) -> FakeEngine:
        return FakeEngine(
            vocabulary=512,
            context=CONTEXT,
            max_batch=options.max_batch,
            max_sequences=options.max_batch + options.cached_sequences,
        )

    @contextmanager
    def opened(self, seed: int, **given: int) -> Iterator[World]:
        """A model whose options are drawn, but for those that are given."""
        r = random.Random(f"{self.engine} {self.base} {seed}")
        options = {"max_batch": r.randrange(1, 5), "cached_sequences": r.randrange(0, 5)}
        options |= {"chunk": r.choice((8, 16, 128)), **given}
        chunk = options.pop("chunk")

        def make(base: Base, options: EngineOptions) -> Engine:
            fake = self.engine == "fake"
            inner = self._fake(options) if fake else original.open(base, options)
            return Watched(self.wrap(inner), chunk)

        folder_kind = replace(ENGINES["onnx"], options=EngineOptions)
        original = ENGINES.get(self.named, folder_kind)
        with (
            patch.dict(ENGINES, {self.named: replace(original, open=make)}),
            tempfile.TemporaryDirectory() as folder,
            lorakit.open(
                self.path, engine=self.named, threads=1, context=CONTEXT, **options
            ) as model,
        ):
            world = World(
                model=model,
                naive=self.naive,
                pool=self.pool,
                noise=self.noise,
                work=Path(folder),
                longest=self.longest,
            )
            world.say(f"{options}, chunks of {chunk}")
            yield world

    def close(self) -> None:
        self.naive.engine.close()


def _applicable(engine: Engine, adapter: Adapter) -> bool:
    try:
        engine.prepare(adapter)
    except CapabilityError:
        return False
    return True


@dataclass(slots=True, eq=False, repr=False)
class InterleavingError(Exception):
    """Where it went wrong, and the shortest way there that was found."""

    combination: Combination
    seed: int
    index: int
    error: BaseException
    log: list[str]

    def __str__(self) -> str:
        place = f"--engine {self.combination.engine} --base {self.combination.base}"
        return "\n".join(
            [
                f"{type(self.error).__name__}: {self.error}",
                f"again: python tests/interleaving/soak.py {place} --opening {self.seed}",
                f"(interleaving {self.index} of it), or these operations alone:",
                *self.log,
            ]
        )


@dataclass(slots=True)
class Report:
    """What the interleavings of a combination came to."""

    interleavings: int = 0
    tally: Counter[str] = field(default_factory=Counter)
    worst: float = 0.0


def plan(combination: Combination, seed: int, interleavings: int) -> list[list[Operation]]:
    """The operations of an opening."""
    stream = random.Random(f"{combination.engine} {combination.base} {seed} operations")
    return [draw(stream, LENGTH) for _ in range(interleavings)]


def run_opening(
    combination: Combination,
    seed: int,
    interleavings: Sequence[Sequence[Operation]],
    before: Callable[[], None] = lambda: None,
) -> Report:
    """Run interleavings on a model that is opened for them. Raises InterleavingError.

    before: called before each of them.
    """
    report = Report()
    with combination.opened(seed) as world:
        for index, operations in enumerate(interleavings):
            before()
            try:
                for operation in operations:
                    operation.run(world)
                world.settle()
            except Exception as error:
                for flight in world.flights:
                    flight.stream.cancel()
                raise InterleavingError(combination, seed, index, error, world.log) from error
            report.interleavings += 1
    report.tally, report.worst = world.tally, world.worst
    return report


def run(
    combination: Combination, count: int, first: int = 0, before: Callable[[], None] = lambda: None
) -> Report:
    """`count` interleavings. Raises InterleavingError for the first that goes wrong, shortened."""
    total, seed = Report(), first
    while total.interleavings < count:
        wanted = plan(combination, seed, min(IN_A_ROW, count - total.interleavings))
        try:
            report = run_opening(combination, seed, wanted, before)
        except InterleavingError as failure:
            raise shortened(failure, wanted, before) from failure
        total.interleavings += report.interleavings
        total.tally += report.tally
        total.worst = max(total.worst, report.worst)
        seed += 1
    return total


def shortened(
    failure: InterleavingError, wanted: list[list[Operation]], before: Callable[[], None]
) -> InterleavingError:
    """The same failure with fewer operations before it, where it comes again."""
    kept = [operation for part in wanted[: failure.index + 1] for operation in part]
    size, tries = len(kept) // 2, 0
    while size and tries < MOST_TRIES:
        for start in range(0, len(kept), size):
            fewer = kept[:start] + kept[start + size :]
            tries += 1
            try:
                run_opening(failure.combination, failure.seed, [fewer], before)
            except InterleavingError as same:
                if type(same.error) is type(failure.error):
                    failure.log, failure.error, kept = same.log, same.error, fewer
                    break
            if tries >= MOST_TRIES:
                break
        else:
            size //= 2
    return failure
