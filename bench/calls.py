"""What a tool call costs, constrained and free, in one run; each figure is paired.

    python bench/calls.py                      all of it (about fifteen minutes on two cores)
    python bench/calls.py --only call          one call at batch 1: constrained, free, llama.cpp
    python bench/calls.py --only batch         8 rows, 8 adapters, 8 sets of tools
    python bench/calls.py --only joining       a prompt that joins 8 decoding rows
    python bench/calls.py --only mask          what masks cost beside steps, at 262,144 tokens
    python bench/calls.py --only lookup        prompt lookup on SmolLM2: copies, and other text

The base has FunctionGemma's shape, its format and vocabulary size (bench/call_base.py), and random
weights: what answers say is scripted (bench/scripted.py), the same for all that is compared. Cases
take turns; a figure is the median of the paired ratios with their quartiles. A prompt's KV is in
the prefix cache, and its template rendered, before a round is timed: figures are of answers alone.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from call_base import make_call_base, tools
from make_base import make_adapter
from real_model import real_model
from scripted import Script

import lorakit
from lorakit.base.folder import Base
from lorakit.chat.calls import ToolCall
from lorakit.engines.onnx.engine import OnnxEngine
from lorakit.engines.onnx.options import OnnxOptions
from lorakit.engines.onnx.plan import LONGEST, OPENING, SAVED
from lorakit.engines.protocol import Row
from lorakit.files.cache import cache_root
from lorakit.formats.peft import write_peft
from lorakit.runtime.params import SamplingParams

ARGUMENTS = {"level": 40, "on": True, "room": "living room", "title": "the kitchen is on"}
ASKED = "Send a message of level 40: the kitchen is on, in the living room."
SCRIPT = Script()
Case = Callable[[], float]  # runs once; seconds


def compared(cases: dict[str, Case], rounds: int) -> dict[str, list[float]]:
    """Seconds of each case, which take turns; the first round is not counted."""
    found: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds + 1):
        for name, case in cases.items():
            seconds = case()
            if number:
                found[name].append(seconds)
    return found


def line(title: str, some: Sequence[float], others: Sequence[float], goal: str) -> str:
    """A row of the table: the median of the paired ratios, and their quartiles."""
    ratios = [a / b for a, b in zip(some, others, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    first, second = (statistics.median(x) * 1e3 for x in (some, others))
    return (
        f"| {title} | {first:.1f} | {second:.1f} | {middle:.2f} ({low:.2f}-{high:.2f}) | {goal} |"
    )


HEADER = "| figure | ms | ms of the other | ratio (quartiles) | goal |\n|---|---|---|---|---|"


class Calls:
    """An open model whose answers are scripted."""

    def __init__(self, folder: Path, arguments: argparse.Namespace, rows: int) -> None:
        self.model = lorakit.open(
            folder,
            quantize="int8",
            threads=arguments.threads,
            max_batch=rows,
            cached_sequences=2 * rows,
            context=4096,
        )

    def prompt(self, seed: int, choice: str) -> lorakit.ChatPrompt:
        """Of a conversation with tools, of which a call is the scripted answer."""
        declared = tools(seed)
        self.name = "send_message" + (f"_{seed}" if seed else "")
        call = ToolCall(name=self.name, arguments=ARGUMENTS)
        text = self.model._dialogue.tool_format.render_call(call)
        self.answer = self.model.tokenizer.encode(text, special=False)
        prompt = self.model.chat_prompt(
            [{"role": "user", "content": ASKED}], tools=declared, tool_choice=choice
        )
        SCRIPT.say(prompt, [*self.answer, *self._end()])
        return prompt

    def _end(self) -> list[int]:
        return sorted(self.model._dialogue.stop_tokens)[:1]

    def call(self, seed: int, choice: str, **options: Any) -> Case:
        """Seconds of the answer to a prompt that is rendered already."""
        prompt = self.prompt(seed, choice)
        name, options = self.name, {"max_tokens": len(self.answer), **options}

        def case() -> float:
            begin = time.perf_counter()
            reply = self.model.parse_reply(self.model.complete(prompt, **options), prompt)
            seconds = time.perf_counter() - begin
            if [call.name for call in reply.tool_calls] != [name]:
                raise SystemExit(f"the answer is not what was scripted: {reply}")
            return seconds

        return case


def timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def one_call(folder: Path, arguments: argparse.Namespace) -> Iterator[str]:
    calls = Calls(folder, arguments, 4)
    cases: dict[str, Case] = {
        "constrained": calls.call(0, "required"),
        "plain": calls.call(0, "required", lookup=False),
        "free": calls.call(0, "free"),
    }
    if arguments.gguf:
        from calls_llama import LlamaCalls

        peer = LlamaCalls(arguments.gguf, calls.prompt(0, "free"), calls.answer, arguments.threads)
        cases |= {
            "llama free": peer.free, "llama grammar": peer.grammar, "llama mask": peer.mask,
        }  # fmt: skip
    found = compared(cases, arguments.rounds)
    free = found["free"]
    count = f"a call of {len(calls.answer)} tokens"
    yield line(f"{count}: constrained / free", found["constrained"], free, "<= 0.35")
    yield line(f"{count}: without lookup / free", found["plain"], free, "")
    if arguments.gguf:
        ours = found["constrained"]
        yield line("llama.cpp's grammar / constrained", found["llama grammar"], ours, ">= 3")
        yield line("llama.cpp's mask / constrained", found["llama mask"], ours, "")
        yield line("llama.cpp free / free", found["llama free"], free, "")
    calls.model.close()


def batch(folder: Path, arguments: argparse.Namespace) -> Iterator[str]:
    rows = 8
    calls = Calls(folder, arguments, rows)
    base = Base.open(folder)
    names = []
    for seed in range(rows):
        place = cache_root() / "bench" / f"calls-adapter-{seed}"
        if not place.exists():
            write_peft(make_adapter(base.decoder, seed), place)
        calls.model.load_adapter(place, name=f"a{seed}")
        names.append(f"a{seed}")

    def run(choice: str) -> Case:
        requests = [
            lorakit.Request(
                prompt=calls.prompt(seed, choice),
                adapters={name: 1.0},
                max_tokens=len(calls.answer),
            )
            for seed, name in enumerate(names, 1)
        ]
        return lambda: timed(lambda: calls.model.batch(requests))

    found = compared({"free": run("free"), "constrained": run("required")}, arguments.rounds)
    yield line(
        "8 rows, 8 adapters, 8 sets of tools: free / constrained",
        found["free"], found["constrained"], ">= 2",
    )  # fmt: skip
    calls.model.close()


def joining(folder: Path, arguments: argparse.Namespace) -> Iterator[str]:
    """One forward of 8 decoding rows and a part of a prompt, and the same in two.

    The engine packs a part of up to 64 tokens; it has what that needs once it has paid, so it does
    some before anything is timed. A longer one has a run of its own in either case.
    """
    rows, context = 8, 256
    options = OnnxOptions(
        quantize="int8", threads=arguments.threads, max_batch=rows + 1, cached_sequences=rows
    )
    engine = OnnxEngine.open(Base.open(folder), options)
    ids = np.random.default_rng(0).integers(0, engine.capabilities.vocabulary, context)
    sequences = [engine.open_sequence() for _ in range(rows)]
    for sequence in sequences:
        engine.forward([Row(sequence=sequence, tokens=ids, logits="none")])

    def run(together: bool, prompt: int) -> float:
        new = engine.open_sequence()
        decoding = [Row(sequence=sequence, tokens=ids[:1]) for sequence in sequences]
        joins = Row(sequence=new, tokens=ids[:prompt])
        groups = [[*decoding, joins]] if together else [decoding, [joins]]
        seconds = timed(lambda: [engine.forward(group) for group in groups])
        engine.close_sequence(new)
        for sequence in sequences:
            engine.truncate(sequence, context)
        return seconds

    for _ in range(math.ceil(OPENING / SAVED) + 1):
        run(True, LONGEST)
    for prompt in (128, LONGEST):
        cases: dict[str, Case] = {
            "one": partial(run, True, prompt), "two": partial(run, False, prompt)
        }  # fmt: skip
        found = compared(cases, arguments.rounds)
        title = f"{prompt} tokens of a prompt join 8 rows: one / two"
        yield line(title, found["one"], found["two"], "<= 0.8")
    engine.close()


def mask(folder: Path, arguments: argparse.Namespace) -> Iterator[str]:
    """Masks at 262,144 tokens, beside decode steps at batch 1 of the same run."""
    from calls_masks import JSON, SCHEMA, WORDS, Steps, costs, lines

    calls = Calls(folder, arguments, 1)
    model = calls.model
    options = OnnxOptions(quantize="int8", threads=arguments.threads, max_batch=1)
    engine = OnnxEngine.open(Base.open(folder), options)
    steps, ends = Steps(engine), calls._end()
    messages, declared = [{"role": "user", "content": ASKED}], tools(0)
    calls.prompt(0, "free")
    schema = {"type": "json_schema", "json_schema": {"schema": SCHEMA}}

    def made(choice: str | None, **sampling: Any) -> Callable[[], Any]:
        given = {} if choice is None else {"tools": declared, "tool_choice": choice}
        prompt = model.chat_prompt(messages, **given)
        params = SamplingParams(**sampling)
        return lambda: model._constraining.constraint(params, prompt, ends)

    def ids(text: str) -> list[int]:
        return model.tokenizer.encode(text, special=False)

    for name, make, answer in (
        ("a call", made("required"), calls.answer),
        ("JSON", made(None, response_format=schema), ids(JSON)),
        ("words under auto", made("auto"), ids(WORDS)),
    ):
        yield from lines(name, costs(make, answer, steps, arguments.rounds))
    engine.close()
    model.close()


COPY = (
    "Repeat this text exactly: The lighthouse keeper counted 17 ships on Tuesday, 23 on Wednesday "
    "and none on Thursday, since a thick fog had settled over the harbour before dawn."
)
OTHERS = (
    "Write a short story about a cat who learns to swim.",
    "Explain why the sky is blue.",
    "List ten animals with a sentence about each.",
)


def lookup(folder: Path, arguments: argparse.Namespace) -> Iterator[str]:
    """Greedy answers of a real model, of which one copies its prompt."""
    model = lorakit.open(real_model().folder, quantize="int8", threads=arguments.threads)

    def run(prompt: str, given: bool) -> Case:
        messages = [{"role": "user", "content": prompt}]
        return lambda: timed(lambda: model.chat(messages, max_tokens=96, lookup=given))

    for title, prompt, goal in (
        ("a copy", COPY, "<= 0.59"),
        *((f"{other[:24]}...", other, "<= 1.03") for other in OTHERS),
    ):
        both = {"on": run(prompt, True), "off": run(prompt, False)}
        found = compared(both, arguments.rounds)
        yield line(f"lookup, {title}: on / off", found["on"], found["off"], goal)
    model.close()


PARTS: dict[str, Callable[[Path, argparse.Namespace], Iterator[str]]] = {
    "call": one_call,
    "batch": batch,
    "joining": joining,
    "mask": mask,
    "lookup": lookup,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=sorted(PARTS), action="append")
    parser.add_argument("--threads", type=int, help="default: the engine's choice")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--gguf", type=Path, help="the same base in Q8_0, for llama.cpp beside it")
    arguments = parser.parse_args()
    folder = make_call_base(cache_root() / "bench" / "functiongemma-calls")
    SCRIPT.direct()
    print(HEADER)
    for name in arguments.only or PARTS:
        for row in PARTS[name](folder, arguments):
            print(row, flush=True)


if __name__ == "__main__":
    main()
