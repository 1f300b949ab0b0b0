"""Interleavings of all that a caller can do, against the naive reference; `soak.py` runs more."""

from dataclasses import dataclass, replace

import pytest
from driver import IN_A_ROW, InterleavingError, plan, run, run_opening
from world import DifferenceError

from lorakit.engines.fake import FakeEngine
from lorakit.errors import EngineError
from lorakit.runtime import prefix
from lorakit.runtime.adapters import AttachedAdapters
from lorakit.runtime.job import Job
from lorakit.runtime.sequences import Sequences

SHORT = {  # interleavings in a run of the tests
    ("fake", "gemma3"): 60,
    ("onnx", "gemma3"): 24,
    ("onnx", "llama"): 24,
    ("onnx", "demo"): 18,
    ("onnx", "qwen3"): 18,
    ("export", "gemma3"): 12,
    ("export", "qwen3"): 12,
    ("llama", "gemma3"): 12,
    ("llama", "llama"): 12,
    ("llama", "demo"): 6,
    ("llama", "qwen3"): 12,
    ("torch", "gemma3"): 6,
    ("torch", "llama"): 6,
}
ENOUGH = 960  # interleavings of the fake engine within which each fault must show; most do in 48


@pytest.mark.parametrize(("engine", "base"), SHORT)
def test_every_answer_is_the_naive_one(combination, engine, base):
    report = run(combination(engine, base), SHORT[engine, base])
    assert report.tally["checked"] > 5 * report.interleavings
    assert report.tally["unchecked"] < report.tally["checked"] / 20
    assert report.tally["ties"] <= 1 + report.tally["checked"] / 100


# The driver sees faults. Each of these is one that the runtime, or an engine, could have.


def reuse_across_adapters(patch):
    patch.setattr(prefix, "agreement", lambda one, other: None)


def leave_scales_out_of_keys(patch):
    plan = AttachedAdapters.plan

    def blind(self, adapters, prompt):
        found = plan(self, adapters, prompt)
        key = tuple((start, tuple((d, 1.0) for d, _ in chosen)) for start, chosen in found.key)
        return replace(found, key=key)

    patch.setattr(AttachedAdapters, "plan", blind)


def keep_what_was_computed_of_a_prompt(patch):
    follow = Job.follow

    def late(self, new, policy):
        if self.answer.choices or not self.computed:
            return follow(self, new, policy)
        self.plan = self.plan.then(new, self.computed)
        return self.computed

    patch.setattr(Job, "follow", late)


def always(policy):
    def change(patch):
        follow = Job.follow
        patch.setattr(Job, "follow", lambda self, new, _: follow(self, new, policy))

    return change


def miss_a_change_while_parked(patch):
    follow = Job.follow

    def deaf(self, new, policy):
        return 0 if self.sequence is None and self.answer.choices else follow(self, new, policy)

    patch.setattr(Job, "follow", deaf)


def forget_the_history_of_what_is_parked(patch):
    park = Job.park

    def forget(self):
        park(self)
        self.plan = None

    patch.setattr(Job, "park", forget)


def leave_sequences_open(patch):
    patch.setattr(Sequences, "close", lambda self, sequence: None)


def never_free_adapters(patch):
    patch.setattr(AttachedAdapters, "free", lambda self, used: None)


RUNTIME_FAULTS = [
    reuse_across_adapters,
    leave_scales_out_of_keys,
    keep_what_was_computed_of_a_prompt,
    always("keep"),
    always("recompute"),
    miss_a_change_while_parked,
    forget_the_history_of_what_is_parked,
    leave_sequences_open,
    never_free_adapters,
]


@pytest.mark.parametrize("fault", RUNTIME_FAULTS)
def test_a_fault_of_the_runtime_is_found(combination, monkeypatch, fault):
    fault(monkeypatch)
    with pytest.raises(InterleavingError) as caught:
        search(combination("fake", "gemma3"))
    assert isinstance(caught.value.error, DifferenceError | EngineError)


@dataclass(slots=True, kw_only=True)
class LosesATokenInAFork(FakeEngine):
    def fork(self, sequence, length):
        copy = FakeEngine.fork(self, sequence, length)
        self._states[copy][-1] = self._states[copy][max(length - 1, 0)]
        return copy


@dataclass(slots=True, kw_only=True)
class KeepsATokenTooMany(FakeEngine):
    def truncate(self, sequence, length):
        kept = self._states[sequence][min(length + 1, self.length(sequence))]
        FakeEngine.truncate(self, sequence, length)
        self._states[sequence][-1] = kept


@dataclass(slots=True, kw_only=True)
class MixesUpRows(FakeEngine):
    def forward(self, rows):
        found = FakeEngine.forward(self, rows)
        return found[::-1] if len({len(logits) for logits in found}) == 1 else found


@dataclass(slots=True, kw_only=True)
class IgnoresScales(FakeEngine):
    def forward(self, rows):
        whole = [replace(row, adapters=tuple((h, 1.0) for h, _ in row.adapters)) for row in rows]
        return FakeEngine.forward(self, whole)


@dataclass(slots=True, kw_only=True)
class SavesOtherKv(FakeEngine):
    def save_sequence(self, sequence):
        return FakeEngine.save_sequence(self, sequence)[:-1] + b"\0"


@pytest.mark.parametrize(
    "broken",
    [LosesATokenInAFork, KeepsATokenTooMany, MixesUpRows, IgnoresScales, SavesOtherKv],
)
def test_a_fault_of_an_engine_is_found(combination, broken):
    def wrap(engine):
        return broken(
            vocabulary=engine.vocabulary,
            context=engine.context,
            max_batch=engine.max_batch,
            max_sequences=engine.max_sequences,
        )

    with pytest.raises(InterleavingError) as caught:
        search(replace_engine(combination("fake", "gemma3"), wrap))
    assert isinstance(caught.value.error, DifferenceError)


def test_a_failure_is_told_with_few_operations(combination, monkeypatch):
    always("recompute")(monkeypatch)
    found = combination("fake", "gemma3")
    with pytest.raises(InterleavingError) as caught:
        run(found, ENOUGH)
    failure = caught.value
    assert f"--engine fake --base gemma3 --opening {failure.seed}" in str(failure)
    assert sum(not line.startswith(" ") for line in failure.log) < 15  # of 30 or more


def search(found):
    """Interleavings as `run` has them, without making the failing one shorter."""
    for seed in range(ENOUGH // IN_A_ROW):
        run_opening(found, seed, plan(found, seed, IN_A_ROW))


def replace_engine(found, wrap):
    """The same combination with a broken engine; the reference keeps its own."""
    broken = object.__new__(type(found))
    for name in found.__slots__:
        setattr(broken, name, getattr(found, name))
    broken.wrap = wrap
    return broken
