"""The operations of an interleaving. Each draws what it needs from a random stream of its own, so
that others can be left out of a failing interleaving without changing it.
"""

from __future__ import annotations

import asyncio
import gc
import random
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from drawing import SCALES, own_or_live, policy, prompt, sampling, scales
from world import LONGEST_WAIT, DifferenceError, Flight, World, expect, some

from lorakit.errors import (
    BaseModelError,
    CapabilityError,
    ContextFullError,
    DeadlineError,
    NameTakenError,
    ParameterError,
    UnknownAdapterError,
)
from lorakit.model.types import Request
from lorakit.runtime.generation import Generation
from lorakit.runtime.params import SamplingParams

NAMES = ("a", "b", "c", "d")
MOST_FLIGHTS = 6
MOST_CHANGES = 3  # that one stream sees; more make too many places to try


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: its name in the table, and the seed of its own random stream."""

    name: str
    seed: int

    def run(self, world: World) -> None:
        world.tally["operations"] += 1
        world.say(self.name)
        TABLE[self.name][1](world, random.Random(self.seed))


def draw(stream: random.Random, count: int) -> list[Operation]:
    names, weights = list(TABLE), [weight for weight, _ in TABLE.values()]
    return [Operation(n, stream.getrandbits(48)) for n in stream.choices(names, weights, k=count)]


# Adapters.


def load(world: World, r: random.Random) -> None:
    free = [name for name in NAMES if name not in world.loaded]
    if not free:
        return
    name, which = r.choice(free), some(r, sorted(world.pool))
    adapter = world.pool[which]
    if beside := r.random() < 0.3:
        loading = world.model.load_adapter(adapter, name, wait=False)
        complete(world, r)
    handle = loading.result(LONGEST_WAIT) if beside else world.model.load_adapter(adapter, name)
    world.loaded[name] = (handle, adapter.digest)
    world.say(f"  {which} as {name}{' beside a request' if beside else ''}")


def unload(world: World, r: random.Random) -> str | None:
    if not world.loaded:
        return None
    name = some(r, sorted(world.loaded))
    handle, _ = world.loaded[name]
    rest = {other: scale for other, scale in world.active.items() if other != name}
    if name in world.active:
        with changing(world, rest, "keep"):
            handle.unload()
    else:
        handle.unload()
    del world.loaded[name]
    expect(UnknownAdapterError, handle.apply)
    world.say(f"  {name}")
    return name


def reload(world: World, r: random.Random) -> None:
    """Other bytes under the same name, while requests may still run with the old ones."""
    if (name := unload(world, r)) is not None:
        which = some(r, sorted(world.pool))
        adapter = world.pool[which]
        world.loaded[name] = (world.model.load_adapter(adapter, name), adapter.digest)
        world.say(f"  {which} as {name}")


def changing(world: World, active: dict[str, float], kv: str):
    """The change of a set; streams that have seen too many are ended first."""
    for flight in [f for f in world.flights if len(f.changes) >= MOST_CHANGES and not f.exact]:
        world.land(flight)
    world.say(f"  {active} {kv}")
    return world.changing(active, kv)


def apply_one(world: World, r: random.Random) -> None:
    if world.loaded:
        name, kv, scale = some(r, sorted(world.loaded)), policy(r), r.choice(SCALES)
        with changing(world, {**world.active, name: scale}, kv):
            world.loaded[name][0].apply(scale, kv=kv)


def apply_set(world: World, r: random.Random) -> None:
    chosen, kv = scales(world, r), policy(r)
    with changing(world, chosen, kv):
        world.model.apply(chosen, kv=kv)


def rescale(world: World, r: random.Random) -> None:
    if world.active:
        name, scale = some(r, sorted(world.active)), r.choice((*SCALES, 0.0))
        with changing(world, {**world.active, name: scale}, "keep"):
            world.loaded[name][0].scale = scale


def there_and_back(world: World, r: random.Random) -> None:
    before, kv = dict(world.active), policy(r)
    apply_set(world, r)
    with changing(world, before, kv):
        world.model.apply(before, kv=kv)


def remove(world: World, r: random.Random) -> None:
    if world.active:
        name, kv = some(r, sorted(world.active)), policy(r)
        rest = {other: scale for other, scale in world.active.items() if other != name}
        with changing(world, rest, kv):
            world.loaded[name][0].remove(kv=kv)


def clear(world: World, r: random.Random) -> None:
    kv = policy(r)
    with changing(world, {}, kv):
        world.model.clear_adapters(kv=kv)


# Requests.


def complete(world: World, r: random.Random) -> None:
    ids, params, own = prompt(world, r), sampling(world, r), own_or_live(world, r)
    label = f"complete {len(ids)} tokens, {params.max_tokens} more, adapters {own}"
    world.say(f"  {label}")
    question = world.question(ids, params, own)
    found = world.model.complete(ids, adapters=own, sampling=params)
    world.check(label, question, found)
    world.answers = [*world.answers[-5:], (*ids, *(choice.token for choice in found.tokens))]


def batch(world: World, r: random.Random) -> None:
    requests = [
        Request(
            prompt=prompt(world, r), adapters=own_or_live(world, r), sampling=sampling(world, r)
        )
        for _ in range(r.randrange(2, 5))
    ]
    questions = [world.question(q.prompt, q.sampling, q.adapters) for q in requests]
    for at, (question, found) in enumerate(
        zip(questions, world.model.batch(requests), strict=True)
    ):
        world.check(f"entry {at} of a batch", question, found)


def chat(world: World, r: random.Random) -> None:
    messages = [{"role": "user", "content": r.choice(("hi", "lights off", "two apples"))}]
    own, params = own_or_live(world, r), sampling(world, r)
    try:
        ids = world.model.chat_prompt(messages)
    except BaseModelError:  # no template in this file
        return
    if len(ids) < world.model.capabilities.context - world.longest:
        found = world.model.chat(messages, adapters=own, sampling=params)
        world.check("a chat", world.question(ids, params, own), found.completion)


def session(world: World, r: random.Random) -> None:
    """Two turns, and another answer to the second."""
    params = SamplingParams(max_tokens=min(3, world.longest), ignore_eos=True, logprobs=0)
    own = own_or_live(world, r)
    talk = world.model.session(adapters=own, sampling=params)
    for words in ("hi", r.choice(("and?", "more"))):
        messages = [*talk.messages, {"role": "user", "content": words}]
        try:
            ids = world.model.chat_prompt(messages)
        except BaseModelError:
            return
        if len(ids) >= world.model.capabilities.context - world.longest:
            return
        question = world.question(ids, params, own)
        world.check("a turn of a session", question, talk.send(words).completion)
    world.check("a turn again", question, talk.regenerate().completion)


def take_off(world: World, r: random.Random) -> None:
    """A new stream, unread: exact, or running ahead of its reader."""
    if len(world.flights) >= MOST_FLIGHTS:
        world.land(some(r, world.flights))
    ids, params = prompt(world, r), sampling(world, r)
    own = own_or_live(world, r) if r.random() < 0.5 else None
    ahead = r.choice((0, 0, 0, 1, 2, None))
    question = world.question(ids, params, own)
    late = {"timeout": r.choice((0.001, 0.01, 0.1))} if r.random() < 0.05 else {}
    stream = world.model.stream(ids, adapters=own, sampling=params, lookahead=ahead, **late)
    flight = Flight(
        label=f"stream {world.number()} ({len(ids)} tokens, {params.max_tokens} more, "
        f"adapters {own}, ahead {ahead})",
        stream=stream,
        question=question,
        live=own is None,
        exact=ahead == 0,
        deadline=bool(late),
    )
    world.say(f"  {flight.label}")
    world.flights.append(flight)


def read(world: World, r: random.Random) -> None:
    """Some pieces of one stream, which the others wait through."""
    if not world.flights:
        take_off(world, r)
    flight = some(r, world.flights)
    for _ in range(r.choice((1, 1, 2, 3))):
        try:
            piece = next(flight.stream, None)
        except DeadlineError:
            if not flight.deadline:
                raise
            piece = None
        if piece is None:
            world.say(f"  {flight.label} to its end")
            world.land(flight)
            return
        flight.taken.append(piece)
    world.say(f"  {flight.label}, {len(flight.taken)} pieces now")


def peek(world: World, r: random.Random) -> None:
    """Wait for a piece in a coroutine, and not for long: it may leave a prompt half computed."""
    if not world.flights:
        take_off(world, r)
    flight, patience = some(r, world.flights), r.choice((0.0, 1e-4, 1e-3, 1e-2))
    flight.exact = False  # a step that runs when the reader leaves may still give a piece
    try:
        piece = asyncio.run(_soon(flight, patience))
    except TimeoutError as error:
        if isinstance(error, DeadlineError) and not flight.deadline:
            raise
        world.say(f"  {flight.label}, in vain")
    else:
        flight.taken += piece
        world.say(f"  {flight.label}, {len(flight.taken)} pieces now")


async def _soon(flight: Flight, patience: float) -> list[str]:
    try:
        return [await asyncio.wait_for(anext(flight.stream), patience)]
    except StopAsyncIteration:
        return []


def land(world: World, r: random.Random) -> None:
    if world.flights:
        flight = some(r, world.flights)
        world.say(f"  {flight.label}")
        world.land(flight)


def cancel(world: World, r: random.Random) -> None:
    if world.flights:
        flight = some(r, world.flights)
        world.say(f"  {flight.label}")
        world.flights.remove(flight)
        flight.stream.cancel()
        _gone(world, flight, flight.stream._generation)


def drop(world: World, r: random.Random) -> None:
    """Forget a stream without a word."""
    if world.flights:
        flight = some(r, world.flights)
        world.say(f"  {flight.label}")
        world.flights.remove(flight)
        generation, alive = flight.stream._generation, weakref.ref(flight.stream)
        flight.stream = None
        if alive() is not None:  # a coroutine that gave up on it is part of a cycle
            gc.collect()
        _gone(world, flight, generation)


def _gone(world: World, flight: Flight, generation: Generation) -> None:
    if not generation._done.wait(LONGEST_WAIT):
        raise DifferenceError(f"{flight.label} does not end")
    world.end_early(flight)


def deadline(world: World, r: random.Random) -> None:
    """A request that may or may not be in time."""
    ids, params, own = prompt(world, r), sampling(world, r), own_or_live(world, r)
    question = world.question(ids, params, own)
    try:
        found = world.model.complete(
            ids, adapters=own, sampling=params, timeout=r.choice((1e-5, 1e-3, 5e-3))
        )
    except DeadlineError:
        return
    world.check("a request with a deadline", question, found)


# What was computed.


def save_state(world: World, r: random.Random) -> None:
    ids, own = prompt(world, r), own_or_live(world, r)
    path = world.work / f"{world.number() % 8}.state"
    world.model.save_state(ids, path, adapters=own)
    world.states = [s for s in world.states if s[0] != path][-7:]
    world.states.append((path, tuple(ids), world.chosen(own)))
    world.say(f"  {path.name}, {len(ids)} tokens, adapters {own}")


def load_state(world: World, r: random.Random) -> None:
    """Saved KV into the cache; then a request that may use it, and one that may not."""
    if not world.states:
        return
    path, ids, chosen = some(r, world.states)
    world.model.load_state(path)
    names = {digest: name for name, (_, digest) in world.loaded.items()}
    world.say(f"  {path.name}")
    for own in ({names[d]: s for d, s in chosen if d in names}, scales(world, r)):
        params = sampling(world, r)
        more = [*ids, *(r.randrange(4, 400) for _ in range(r.randrange(0, 3)))]
        more = more[: world.model.capabilities.context - 1]
        question = world.question(more, params, own)
        found = world.model.complete(more, adapters=own, sampling=params)
        world.check(f"a request after {path.name}, adapters {own}", question, found)


def logits(world: World, r: random.Random) -> None:
    ids, own = prompt(world, r)[:60], own_or_live(world, r)
    _check_logits(world, ids, own, world.model.logits(ids, adapters=own))


def embed(world: World, r: random.Random) -> None:
    ids, own = prompt(world, r)[:40], own_or_live(world, r)
    if world.model.base.exported is not None:
        expect(CapabilityError, world.model.embed, ids, adapters=own)
        return
    _check_embedding(world, ids, own, world.model.embed(ids, adapters=own, pooling="last"))


def crowd(world: World, r: random.Random) -> None:
    """Threads that ask for different things at once, while streams are open: all of them queue."""
    model, asked = world.model, []
    vectors = "logits" if model.base.exported is not None else "embed"
    for kind in r.choices(("complete", "logits", vectors, "save"), k=r.randrange(2, 6)):
        asked.append((kind, prompt(world, r)[:60], own_or_live(world, r), sampling(world, r)))
    world.say(f"  {', '.join(kind for kind, *_ in asked)}")
    with ThreadPoolExecutor(len(asked)) as pool:
        calls = []
        for at, (kind, ids, own, params) in enumerate(asked):
            call = {
                "complete": partial(model.complete, ids, sampling=params),
                "logits": partial(model.logits, ids),
                "embed": partial(model.embed, ids, pooling="last"),
                "save": partial(model.save_state, ids, world.work / f"crowd {at}.state"),
            }[kind]
            calls.append(pool.submit(call, adapters=own))
        found = [call.result(LONGEST_WAIT) for call in calls]
    for (kind, ids, own, params), result in zip(asked, found, strict=True):
        if kind == "complete":
            world.check("one of a crowd", world.question(ids, params, own), result)
        elif kind != "save":
            {"logits": _check_logits, "embed": _check_embedding}[kind](world, ids, own, result)


def _check_logits(world: World, ids: list[int], own: dict[str, float] | None, found) -> None:
    off = float(np.abs(found - world.naive.logits(ids, world.chosen(own))).max())
    if not off <= world.noise:
        what = f"logits of {len(ids)} tokens, adapters {own}"
        raise DifferenceError(f"{what}, are off by {off:.2g}")
    world.tally["checked"] += 1


def _check_embedding(world: World, ids: list[int], own: dict[str, float] | None, found) -> None:
    wanted = world.naive.hidden(ids, world.chosen(own))[-1].astype(np.float64)
    off = float(np.abs(found - wanted / (np.linalg.norm(wanted) or 1.0)).max())
    if not off <= max(world.noise, 1e-6):
        what = f"the embedding of {len(ids)} tokens, adapters {own}"
        raise DifferenceError(f"{what}, is off by {off:.2g}")
    world.tally["checked"] += 1


def mistake(world: World, r: random.Random) -> None:
    """What is refused, and must change nothing."""
    model = world.model
    context = model.capabilities.context
    faults = [
        partial(expect, ContextFullError, model.complete, [5] * context),
        partial(expect, UnknownAdapterError, model.apply, {"nobody": 1.0}),
        partial(expect, UnknownAdapterError, model.complete, [5], adapters={"nobody": 1.0}),
        partial(expect, ParameterError, model.complete, [5], temperature=-1.0),
        partial(expect, ParameterError, model.apply, {}, kv="forget"),
    ]
    if world.loaded:
        name = some(r, sorted(world.loaded))
        adapter = world.pool[sorted(world.pool)[0]]
        faults.append(partial(expect, NameTakenError, model.load_adapter, adapter, name))
    r.choice(faults)()


TABLE: dict[str, tuple[float, Callable[[World, random.Random], object]]] = {
    "load": (3, load),
    "unload": (0.7, unload),
    "reload": (1, reload),
    "apply_one": (2, apply_one),
    "apply_set": (1.5, apply_set),
    "rescale": (1.5, rescale),
    "there_and_back": (0.5, there_and_back),
    "remove": (0.7, remove),
    "clear": (0.7, clear),
    "complete": (3, complete),
    "batch": (1, batch),
    "chat": (0.4, chat),
    "session": (0.3, session),
    "take_off": (4, take_off),
    "read": (6, read),
    "peek": (1, peek),
    "land": (1, land),
    "cancel": (0.6, cancel),
    "drop": (0.4, drop),
    "deadline": (0.4, deadline),
    "save_state": (0.4, save_state),
    "load_state": (0.4, load_state),
    "logits": (0.4, logits),
    "embed": (0.2, embed),
    "crowd": (0.4, crowd),
    "mistake": (0.5, mistake),
}
