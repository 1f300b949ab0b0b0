"""Requests to a scheduler on the fake engine, and the naive reading: token after token."""

import numpy as np
from automaton import END, Plain

from lorakit.engines.fake import FakeEngine
from lorakit.engines.protocol import Row
from lorakit.runtime.generation import Generation
from lorakit.runtime.job import Job
from lorakit.runtime.params import SamplingParams
from lorakit.runtime.sampling import Sampler
from lorakit.runtime.scheduler import Scheduler
from lorakit.runtime.stopping import StopText
from runtime_cases import Numbers

VOCABULARY = 6  # so few that proposals are often right


def engine(**options):
    return FakeEngine(**{"vocabulary": VOCABULARY, "prefill_chunk": 8, **options})


def add(scheduler, prompt, constraint=None, adapters=(), *, lookahead=None, **options):
    generation = Generation(
        tuple(prompt),
        SamplingParams(**{"max_tokens": 12, **options}),
        adapters=adapters,
        lookahead=lookahead,
    )
    job = Job(generation, Numbers(), frozenset({END}), constraint)
    scheduler.add(job)
    return job


def drain(scheduler):
    while scheduler.step():
        pass


def answer(prompt, constraint=None, made=None, **options):
    """Its completion, the engine's steps, and the job."""
    scheduler = Scheduler(made or engine())
    job = add(scheduler, prompt, constraint, **options)
    drain(scheduler)
    assert not scheduler.running
    return job.generation.result(), scheduler.engine.steps


def naive(prompt, automaton=None, context=256, **options):
    """Token after token: (choices, text, reason), from logits of the whole history."""
    params = SamplingParams(**{"max_tokens": 12, **options})
    constraint = None if automaton is None else Plain(automaton)
    sampler, stop = Sampler(params, prompt, constraint, {END}), StopText(params.stop)
    tokens, choices, text = list(prompt), [], ""
    while True:
        if constraint is not None and constraint.ended:
            return choices, text + stop.flush(), "stop"
        if choices and (len(choices) >= params.max_tokens or len(tokens) > context):
            return choices, text + stop.flush(), "length"
        own = engine(context=1000)
        row = Row(sequence=own.open_sequence(), tokens=np.array(tokens, np.int64))
        choices.append(sampler.choose(own.forward([row])[0][0]))
        if choices[-1].token == END:
            return choices, text + stop.flush(), "stop"
        tokens.append(choices[-1].token)
        piece = f"{tokens[-1]} "
        text += piece if len(choices) <= params.min_tokens else stop.push(piece)
        if stop.stopped:
            return choices, text, "stop"


def same(found, expected):
    assert (list(found.tokens), found.text, found.finish_reason) == expected
