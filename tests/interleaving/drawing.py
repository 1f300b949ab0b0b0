"""What an operation asks for: prompts that begin alike, sampling, adapters with scales."""

from __future__ import annotations

import random
from dataclasses import replace

from bases import INVOCATION
from world import Policy, World

from lorakit.runtime.params import SamplingParams

SCALES = (1.0, 0.5, 2.0, -1.0)
CUTS = (5, 12, 17, 24, 33, 40)  # where prompts part from each other
LONG = (150, 190, 253)  # tokens; longer than a step and any sliding window; nearly the context


def prompt(world: World, r: random.Random) -> list[int]:
    """A prompt that begins like others, or goes on where an answer ended."""
    if world.answers and r.random() < 0.25:
        before = list(r.choice(world.answers))[:60]
        return before + [r.randrange(4, 400) for _ in range(r.randrange(1, 4))]
    stem = random.Random(f"stem {r.randrange(3)}")
    length = r.choice(LONG) if r.random() < 0.06 else r.choice(CUTS)
    ids = [stem.randrange(4, 400) for _ in range(length)]
    if r.random() < 0.25:
        ids += INVOCATION
    ending = random.Random(f"ending {r.randrange(6)}")
    ids += [ending.randrange(4, 400) for _ in range(ending.randrange(0, 5))]
    return ids[: world.model.capabilities.context - 1]


def sampling(world: World, r: random.Random) -> SamplingParams:
    params = SamplingParams(
        max_tokens=r.randrange(1, world.longest + 1),
        ignore_eos=r.random() < 0.8,
        logprobs=r.choice((None, 0, 0, 3)),
    )
    if r.random() < 0.3:
        filters = r.choice(({"top_k": 20}, {"top_p": 0.9}, {"min_p": 0.05}, {}))
        params = replace(params, temperature=0.8, seed=r.randrange(100), **filters)
    if r.random() < 0.1:
        params = replace(params, repetition_penalty=1.3, frequency_penalty=0.2)
    if r.random() < 0.1:
        params = replace(params, stop=(r.choice("aeio st"),))
    return replace(params, lookup=r.random() < 0.4)


def scales(world: World, r: random.Random) -> dict[str, float]:
    names = r.sample(sorted(world.loaded), r.randrange(0, min(3, len(world.loaded)) + 1))
    return {name: 0.0 if r.random() < 0.1 else r.choice(SCALES) for name in names}


def own_or_live(world: World, r: random.Random) -> dict[str, float] | None:
    return scales(world, r) if r.random() < 0.5 else None


def policy(r: random.Random) -> Policy:
    return r.choice(("keep", "keep", "recompute"))
