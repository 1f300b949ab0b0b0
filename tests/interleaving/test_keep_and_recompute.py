"""What `keep` and `recompute` mean, case by case, as docs/engines.md defines it.

First the naive reference's own rules, written out token by token; then, on every engine, answers
against that reference, each in a case where another reading of the rules gives another answer.
"""

import threading
from contextlib import contextmanager
from dataclasses import replace

import pytest
from bases import INVOCATION
from naive import Change, History, Naive, Question
from world import Flight, Text, World

from lorakit.engines.fake import FakeEngine
from lorakit.runtime.params import SamplingParams

A, B, C = (("a", 1.0),), (("b", 1.0),), (("c", 1.0),)
ENGINES = [("fake", "llama"), ("onnx", "llama"), ("llama", "llama"), ("torch", "llama"),
           ("onnx", "gemma3"), ("llama", "gemma3"), ("onnx", "qwen3")]  # fmt: skip
PROMPT = [377, 200, 275, 354, 362, 279, 49, 11, 50, 12, *range(60, 90)]
LENGTH = 8  # tokens of an answer


# The definition itself. A prompt of three tokens; what follows is (tokens sampled, set, policy).
RULES = {
    "no change": ([], 2, [A] * 5),
    "before the first token, keep": ([(0, B, "keep")], 2, [B] * 5),
    "before the first token, recompute": ([(0, B, "recompute")], 2, [B] * 5),
    "after one token, keep": ([(1, B, "keep")], 1, [A, A, A, B]),
    "after two tokens, keep": ([(2, B, "keep")], 3, [A, A, A, A, B, B]),
    "after two tokens, recompute": ([(2, B, "recompute")], 3, [B] * 6),
    "keep, then keep": ([(1, B, "keep"), (3, C, "keep")], 4, [A, A, A, B, B, C, C]),
    "keep, then recompute": ([(1, B, "keep"), (3, C, "recompute")], 4, [C] * 7),
    "recompute, then keep": ([(1, B, "recompute"), (2, C, "keep")], 3, [B, B, B, B, C, C]),
    "there and back, nothing fed": ([(2, B, "keep"), (2, A, "keep")], 3, [A] * 6),
    "there and back, one fed": ([(1, B, "keep"), (2, A, "keep")], 3, [A, A, A, B, A, A]),
    "recompute to the same set": ([(1, B, "keep"), (2, B, "recompute")], 3, [B] * 6),
}


@pytest.mark.parametrize(("changes", "count", "sets"), RULES.values(), ids=RULES)
def test_which_set_acts_on_which_token(changes, count, sets):
    history = History([1, 2, 3], A)
    for sampled in range(count + 1):
        for after, chosen, policy in changes:
            if after == sampled:
                history.change(chosen, policy)
        if sampled < count:
            history.append(9)
    assert history.sets == sets


def test_invocation_tokens_are_looked_for_in_the_prompt():
    late = FakeAdapter((7, 8))
    naive = Naive(FakeEngine(), {"late": late, "a": FakeAdapter(())}, Text)
    chosen = (("late", 1.0), ("a", 0.5))
    prompt = [1, 7, 8, 2, 7, 8, 3]
    parts = naive._parts(prompt, [*prompt, 4, 7, 8], [chosen] * 10)
    assert [(ids.tolist(), held) for ids, held in parts] == [
        ([1, 7, 8, 2], (("a", 0.5),)),
        ([7, 8, 3, 4, 7, 8], chosen),
    ]
    parts = naive._parts([1, 7], [1, 7, 8, 2], [chosen] * 4)
    assert [held for _, held in parts] == [(("a", 0.5),)]


class FakeAdapter:
    def __init__(self, invocation_tokens):
        self.invocation_tokens = invocation_tokens


# On the engines. A case is what a caller does around one stream that follows the active set, in
# words of a few verbs; the world knows after how many tokens each of them comes.


def apply(kv="keep", **scales):
    def act(world: World, flight: Flight) -> None:
        with world.changing(scales, kv):
            world.model.apply(scales, kv=kv)

    return act


def read(count: int):
    def act(world: World, flight: Flight) -> None:
        for _ in range(count):
            flight.taken.append(next(flight.stream))

    return act


def others(world: World, flight: Flight) -> None:
    """Enough other requests for a paused stream to lose its sequence."""
    for scales in ({}, {"b": 1.0}, {"a": 0.5}):
        world.model.complete(PROMPT[::-1], adapters=scales, max_tokens=2)


def unload_a(world: World, flight: Flight) -> None:
    with world.changing({}, "keep"):
        world.loaded["a"][0].unload()
    del world.loaded["a"]


POOL = {"a": "random0", "b": "random1", "late": "late"}
CASES = {
    "before it runs, keep": [apply(a=2.0)],
    "before it runs, recompute": [apply("recompute", a=2.0)],
    "its first token was read, keep": [read(1), apply(a=2.0)],
    "in decode, keep": [read(3), apply(a=2.0)],
    "in decode, recompute": [read(3), apply("recompute", a=2.0)],
    "in decode, keep twice": [read(2), apply(a=2.0), read(2), apply(b=1.0)],
    "in decode, keep, then recompute": [read(2), apply(a=2.0), read(2), apply("recompute", b=1.0)],
    "another scale": [apply(a=1.0), read(3), apply(a=-1.0)],
    "there and back in a pause": [apply(a=1.0), read(3), apply(b=1.0), apply(a=1.0)],
    "there, one token, and back": [apply(a=1.0), read(3), apply(b=1.0), read(1), apply(a=1.0)],
    "parked, the set as it was": [apply(a=1.0), read(3), others],
    "keep, then parked": [read(3), apply(a=2.0), others],
    "keep, one token, then parked": [read(2), apply(a=2.0), read(2), others],
    "parked, then keep": [read(3), others, apply(a=2.0)],
    "parked, then recompute": [read(3), others, apply("recompute", a=2.0)],
    "parked before its first token": [others, apply(a=2.0), others],
    "unloaded in decode": [apply(a=2.0), read(3), unload_a],
    "invoked late": [read(3), apply(late=2.0)],
    "invoked from its place on": [apply(late=2.0), read(3), apply(a=1.0, late=2.0)],
    "recomputed from its place on": [read(3), apply("recompute", late=2.0)],
}


@contextmanager
def opened(combination, cached: int, chunk: int):
    """A model for one request at a time, with a pool of adapters, and the prompt in its cache."""
    with combination.opened(0, max_batch=1, cached_sequences=cached, chunk=chunk) as world:
        for name in POOL:
            load(world, name)
        world.model.complete(prompt(), adapters={}, max_tokens=2)
        yield world
        world.settle()


def load(world, name):
    adapter = world.pool[POOL[name]]
    world.loaded[name] = (world.model.load_adapter(adapter, name), adapter.digest)


def prompt():
    return [*PROMPT[:20], *INVOCATION, *PROMPT[20:]]


def take_off(world, label, ids, *, lookahead=0):
    params = SamplingParams(max_tokens=LENGTH, ignore_eos=True, logprobs=0)
    flight = Flight(
        label=label,
        question=world.question(ids, params, None),
        stream=world.model.stream(ids, sampling=params, lookahead=lookahead),
        live=True,
        exact=lookahead == 0,
    )
    world.flights.append(flight)
    return flight


@pytest.mark.parametrize(("engine", "base"), ENGINES)
@pytest.mark.parametrize("cached", [0, 3])
def test_cases(combination, engine, base, cached):
    with opened(combination(engine, base), cached, chunk=16) as world:
        for name, acts in CASES.items():
            flight = take_off(world, name, prompt())
            for act in acts:
                act(world, flight)
            world.land(flight)
            if "a" not in world.loaded:
                load(world, "a")
            world.model.clear_adapters()
            world.active = {}
        assert world.tally["checked"] == len(CASES)
        assert not world.tally["ties"]


@pytest.mark.parametrize(("engine", "base"), ENGINES)
@pytest.mark.parametrize("kv", ["keep", "recompute"])
def test_in_the_midst_of_a_prompt(combination, engine, base, kv):
    """A change that comes while the prompt is computed acts on the whole of it."""
    with opened(combination(engine, base), cached=2, chunk=8) as world:
        watched = world.model._runtime._scheduler.engine
        arrived, go_on = threading.Event(), threading.Event()

        def wait(rows):
            if not arrived.is_set() and len(rows[0].tokens) == 16:
                arrived.set()
                assert go_on.wait(30)

        watched.before_step = wait
        flight = take_off(world, "it", prompt()[::-1], lookahead=None)
        assert arrived.wait(30)
        change = world.model._table.activate({"b": 1.0}, kv)  # it comes after this step
        go_on.set()
        change.result(30)
        flight.question = replace(flight.question, chosen=world.chosen({"b": 1.0}))
        world.land(flight)
        assert world.tally["checked"] == 1
        world.model.clear_adapters()


@pytest.mark.parametrize(("engine", "base"), ENGINES)
def test_the_cases_tell_the_rules_apart(combination, engine, base):
    """Keep, recompute and no change give log probabilities that no rounding explains."""
    found = combination(engine, base)
    params = SamplingParams(max_tokens=LENGTH, ignore_eos=True, logprobs=0)
    chosen = ((found.pool["random0"].digest, 2.0),)
    question = Question(prompt=tuple(prompt()), params=params)
    readings = [
        (),
        (Change(chosen=chosen, policy="keep", after=3),),
        (Change(chosen=chosen, policy="keep", after=4),),
        (Change(chosen=chosen, policy="recompute", after=3),),
    ]
    answers = [list(found.naive.answer(question, changes)) for changes in readings]
    logits = [[step.logits for step in answer] for answer in answers]
    for at, one in enumerate(logits):
        for other in logits[at + 1 :]:
            assert max(abs(a - b).max() for a, b in zip(one, other, strict=True)) > 20 * found.noise


@pytest.mark.parametrize(("engine", "base"), ENGINES)
def test_one_forward_for_many_tokens_is_as_good_as_one_for_each(combination, engine, base):
    """The reference's short cut gives what it gives without."""
    found = combination(engine, base)
    params = SamplingParams(max_tokens=LENGTH, ignore_eos=True)
    question = Question(
        prompt=tuple(prompt()), params=params, chosen=((found.pool["random2"].digest, 1.0),)
    )
    change = Change(chosen=((found.pool["late"].digest, 1.0),), policy="keep", after=3)
    slow = list(found.naive.answer(question, [change]))
    found.naive._memory.clear()
    believed = [step.choice.token for step in slow]
    fast = list(found.naive.answer(question, [change], believed=believed))
    for one, other in zip(slow, fast, strict=True):
        assert one.choice == other.choice
        assert abs(one.logits - other.logits).max() <= found.noise
