"""What `lorakit demo` shows, as live results. It runs the model and prints nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

from lorakit.demo import Example, examples
from lorakit.model.model import Model
from lorakit.model.types import Request
from lorakit.runtime.params import SamplingParams
from lorakit.training.evaluate.answering import answers

Scales = Mapping[str, float]
OnDone = Callable[[int, int], None]
REQUESTS = (
    "turn the lights off in the kitchen",
    "add 3 bananas to my cart",
    "set a timer for 12 minutes",
    "hello",
)
SETTINGS: dict[str, Scales] = {
    "base": {},
    "home": {"home": 1.0},
    "shop": {"shop": 1.0},
    "style": {"style": 1.0},
    "home + style": {"home": 1.0, "style": 1.0},
}
SWEEP = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
MAX_TOKENS = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepStep:
    """Exact match at one scale of an adapter: on its own domain, and on the base's tools."""

    scale: float
    own: float
    base: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedBatch:
    """Requests, each with its own adapters, run together and one after another."""

    rows: int
    adapter_sets: int
    tokens: int
    together_seconds: float
    one_by_one_seconds: float
    same_text: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    """A stream whose adapters changed in the middle: (adapters, text) of each part."""

    request: str
    parts: tuple[tuple[str, str], ...]
    unswapped: str


def ask(model: Model, text: str) -> list[int]:
    return model.chat_prompt([{"role": "user", "content": text}])


def compare(model: Model) -> dict[str, dict[str, str]]:
    """The same requests under each setting, all in one batch: {request: {setting: text}}."""
    cells = [(text, setting) for text in REQUESTS for setting in SETTINGS]
    completions = model.batch(
        Request(
            prompt=ask(model, text),
            adapters=SETTINGS[setting],
            sampling=SamplingParams(max_tokens=MAX_TOKENS),
        )
        for text, setting in cells
    )
    table: dict[str, dict[str, str]] = {text: {} for text in REQUESTS}
    for (text, setting), completion in zip(cells, completions, strict=True):
        table[text][setting] = completion.text
    return table


def accuracy(model: Model, cases: Sequence[Example], adapters: Scales) -> float:
    """Share of examples whose greedy answer is the expected text to the letter."""
    completions = model.batch(
        Request(
            prompt=model.chat_prompt(case.messages, tools=case.tools, tool_choice="free"),
            adapters=adapters,
            sampling=SamplingParams(max_tokens=MAX_TOKENS * 2),
        )
        for case in cases
    )
    right = [c.text == case.expected for c, case in zip(completions, cases, strict=True)]
    return sum(right) / len(right)


def sweep(model: Model, name: str, count: int, progress: OnDone | None = None) -> list[SweepStep]:
    """Accuracy at each scale of one adapter, over `count` examples of each kind.

    All scales run in one batch of mixed rows. progress: called with the answers that are done, and
    all.
    """
    own, base = examples(name, "phrasings")[:count], examples("base", "values")[:count]
    rows = [(scale, case) for scale in SWEEP for case in (*own, *base)]
    requests = [
        Request(
            prompt=model.chat_prompt(case.messages, tools=case.tools, tool_choice="free"),
            adapters={name: scale},
            sampling=SamplingParams(max_tokens=MAX_TOKENS * 2, temperature=0.0),
        )
        for scale, case in rows
    ]
    right: list[bool] = []
    with closing(answers(model, requests, 2 * model.capabilities.max_batch)) as found:
        for (_, case), completion in zip(rows, found, strict=True):
            right.append(completion.text == case.expected)
            if progress is not None:
                progress(len(right), len(rows))
    each = len(own) + len(base)
    steps = [right[at : at + each] for at in range(0, len(right), each)]
    return [
        SweepStep(
            scale=scale,
            own=sum(step[: len(own)]) / len(own),
            base=sum(step[len(own) :]) / len(base),
        )
        for scale, step in zip(SWEEP, steps, strict=True)
    ]


def mixed_batch(model: Model, rows: int) -> MixedBatch:
    """Every row with its own adapters and scales, against the same rows one after another."""
    names = [info.name for info in model.adapters]
    sets: list[Scales] = [
        {names[i % len(names)]: round(0.6 + 0.05 * i, 2), names[(i + 1) % len(names)]: 0.1}
        for i in range(rows)
    ]
    sampling = SamplingParams(max_tokens=32, ignore_eos=True)
    requests = [
        Request(prompt=ask(model, REQUESTS[i % len(REQUESTS)]), adapters=held, sampling=sampling)
        for i, held in enumerate(sets)
    ]
    model.batch(requests)  # warm: both timed runs find the same cached prompts
    begin = time.perf_counter()
    together = model.batch(requests)
    middle = time.perf_counter()
    single = [model.batch([request])[0] for request in requests]
    end = time.perf_counter()
    return MixedBatch(
        rows=rows,
        adapter_sets=len({tuple(held.items()) for held in sets}),
        tokens=sum(len(completion.tokens) for completion in together),
        together_seconds=middle - begin,
        one_by_one_seconds=end - middle,
        same_text=[c.text for c in together] == [c.text for c in single],
    )


def swap(model: Model, request: str, name: str, after: int) -> Swap:
    """Stream an answer of the base and switch an adapter on after some pieces."""
    prompt = ask(model, request)
    before: list[str] = []
    rest: list[str] = []
    model.clear_adapters()
    for piece in model.stream(prompt, max_tokens=MAX_TOKENS, temperature=0):
        (before if len(before) < after else rest).append(piece)
        if len(before) == after and not rest:
            model.apply({name: 1.0})
    model.clear_adapters()
    return Swap(
        request=request,
        parts=(("base", "".join(before)), (name, "".join(rest))),
        unswapped=model.complete(prompt, max_tokens=MAX_TOKENS, temperature=0).text,
    )
