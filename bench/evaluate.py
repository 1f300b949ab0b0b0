"""`evaluate` beside transformers' generate(): 200 prompts on the demo's base with its adapter home.

    python bench/evaluate.py [--rounds 7] [--threads 2] [--json FILE]

The peer is a transformers model with the adapter through PEFT, as it comes and merged into the
weights (its fastest), on left-padded batches of the very same token ids, greedy, ended by the same
tokens and limited to as many; its times hold generate() and the decoding of the texts. Ours are
those of `evaluate` as a whole: rendering, running, parsing, judging. In turns, all in one process;
loading is not in it. Both sides must have the same number of right answers. The ratios are the
medians of those of each round, of wall and of CPU time; on a busy machine trust the latter, at one
thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

import lorakit
from lorakit import demo
from lorakit.chat.dialogue import Dialogue
from lorakit.chat.tools import get_format
from lorakit.training.data import Example
from lorakit.training.evaluate import evaluate

COUNT = 200
MAX_TOKENS = 64
PEER_BATCHES = (8, 32, 200)
OUR_BATCHES = (8, 32)


def examples() -> list[Example]:
    """The demo's evaluation set of the domain home, its unseen values and unseen phrasings."""
    found = []
    for each in [*demo.examples("home", "values"), *demo.examples("home", "phrasings")][:COUNT]:
        reply = get_format("functiongemma").parse(each.expected)
        calls = [
            {"type": "function", "function": {"name": c.name, "arguments": dict(c.arguments)}}
            for c in reply.tool_calls
        ]
        answer = {"role": "assistant", "content": reply.text, "tool_calls": calls}
        found.append(Example(task="calls", place=each.id, messages=(*each.messages, answer)))
    return found


class Peer:
    """transformers with PEFT."""

    def __init__(self, prompts: Sequence[Sequence[int]], stops: Sequence[int], decode: Any) -> None:
        base = AutoModelForCausalLM.from_pretrained(demo.base_path(), dtype=torch.float32)
        self.adapted = PeftModel.from_pretrained(base, str(demo.adapter_path("home"))).eval()
        other = AutoModelForCausalLM.from_pretrained(demo.base_path(), dtype=torch.float32)
        adapted = PeftModel.from_pretrained(other, str(demo.adapter_path("home")))
        self.merged = adapted.merge_and_unload().eval()
        self.prompts, self.stops, self.decode = prompts, list(stops), decode

    def texts(self, model: Any, batch: int) -> list[str]:
        """Answers to all prompts, the shortest first: batches then need the least padding."""
        order = sorted(range(len(self.prompts)), key=lambda place: len(self.prompts[place]))
        found: dict[int, str] = {}
        for begin in range(0, len(order), batch):
            places = order[begin : begin + batch]
            width = max(len(self.prompts[place]) for place in places)
            gaps = [width - len(self.prompts[place]) for place in places]
            ids = torch.tensor(
                [[0] * gap + list(self.prompts[p]) for p, gap in zip(places, gaps, strict=True)]
            )
            mask = torch.tensor([[0] * gap + [1] * (width - gap) for gap in gaps])
            with torch.inference_mode():
                out = model.generate(
                    input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=MAX_TOKENS,
                    eos_token_id=self.stops, pad_token_id=0,
                )  # fmt: skip
            for place, row in zip(places, out[:, width:].tolist(), strict=True):
                ends = [n for n, token in enumerate(row) if token in self.stops]
                found[place] = self.decode(row[: ends[0]] if ends else row)
        return [found[place] for place in range(len(self.prompts))]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    warnings.simplefilter("ignore")
    cases = examples()
    expected = [each.expected for each in demo.examples("home", "values")]
    expected += [each.expected for each in demo.examples("home", "phrasings")]
    models = {n: lorakit.open(demo.base_path(), threads=chosen.threads, max_batch=n)
              for n in OUR_BATCHES}  # fmt: skip
    for model in models.values():
        model.load_adapter(demo.adapter_path("home"))
    any_model = models[OUR_BATCHES[0]]
    prompts = [list(any_model.chat_prompt(each.messages[:-1])) for each in cases]
    stops = sorted(Dialogue(demo.base_path(), any_model.tokenizer).stop_tokens)
    peer = Peer(prompts, stops, lambda ids: any_model.tokenizer.decode(ids, continuing=True))

    def ours(model: lorakit.Model, batch: int) -> int:
        adapters = {"home": 1.0}
        found = evaluate(model, cases, adapters=adapters, batch=batch, max_tokens=MAX_TOKENS)
        return found.exact.count

    def theirs(model: Any, batch: int) -> int:
        texts = peer.texts(model, batch)
        return sum(a == b for a, b in zip(texts, expected, strict=False))

    runs: dict[str, Callable[[], int]] = {}
    for n, model in models.items():
        runs[f"lorakit, batch {n}"] = lambda model=model, n=n: ours(model, n)
    for n in PEER_BATCHES:
        runs[f"generate(), PEFT, batch {n}"] = lambda n=n: theirs(peer.adapted, n)
        runs[f"generate(), merged, batch {n}"] = lambda n=n: theirs(peer.merged, n)
    report(*measure(runs, chosen.rounds), chosen.json)


Times = dict[str, list[tuple[float, float]]]  # of each run in each round: wall and CPU seconds


def measure(runs: dict[str, Callable[[], int]], rounds: int) -> tuple[Times, dict[str, int]]:
    """The times, after one round to warm up; and the right answers."""
    right = {name: run() for name, run in runs.items()}
    seconds: Times = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            begin, cpu = time.perf_counter(), time.process_time()
            run()
            seconds[name].append((time.perf_counter() - begin, time.process_time() - cpu))
    return seconds, right


def report(seconds: Times, right: dict[str, int], path: Path | None) -> None:
    print("| run | right | s (range) | cpu s | x ours at 32 | x ours, cpu |")
    print("|---|---|---|---|---|---|")
    ours = seconds[f"lorakit, batch {OUR_BATCHES[-1]}"]
    for name, found in seconds.items():
        walls, cpus = zip(*found, strict=True)
        pairs = list(zip(found, ours, strict=True))
        wall, cpu = (statistics.median(a[n] / b[n] for a, b in pairs) for n in (0, 1))
        spread = f"{statistics.median(walls):.2f} ({min(walls):.2f}-{max(walls):.2f})"
        cpu_seconds = f"{statistics.median(cpus):.2f}"
        print(f"| {name} | {right[name]} | {spread} | {cpu_seconds} | {wall:.2f} | {cpu:.2f} |")
    if path:
        path.write_text(json.dumps({"seconds": seconds, "right": right}, indent=1), "utf-8")
    if len(set(right.values())) != 1:
        raise SystemExit("the sides do not answer alike")


if __name__ == "__main__":
    main()
