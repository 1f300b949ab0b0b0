"""What each form of the weights costs in fidelity, on a real model: KL, top-1, perplexity, greedy
texts, and whether the same request gives the same text again.

    python bench/fidelity.py                                     every form, as a table
    python bench/fidelity.py --forms int8,Q8_0 --tokens 3000 --threads 2
    python bench/fidelity.py --forms int8 --adapter no --repeats 500
    python bench/fidelity.py --noise 0.01                        weights off the 4-bit grid

The reference is float32 in the ONNX engine: SmolLM2-135M (real_model.py) on rows of 512 tokens of
English, code, French and Spanish (real_text.py), and the same with an adapter trained on the spot
(train_adapter.py). Forms: none, fp16, int8 and int4 of the ONNX engine; F32, F16, Q8_0, Q4_K_M and
Q4_0 of llama.cpp, made by `lorakit quantize` of the same float32 weights and run with a float32 KV
cache and no flash attention; torch, as a cross-check.

KL: of the form from float32, in nats, the mean over all positions and its 99th percentile. top-1:
how often the likeliest token is float32's. ppl: the perplexity of the text. bits: of the files per
weight. greedy: of 8 answers of 32 tokens, how many are float32's to the end, and where those that
are not first differ. again: of so many requests made again, alone or in batches, with the prefix
cache in whatever state that left it, how many answers differ from that of a model without one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from real_model import RealModel, real_model
from real_text import rows
from train_adapter import QUESTIONS, train

import lorakit
from lorakit import Completion, LlamaOptions, Model, Request
from lorakit.base.folder import Base
from lorakit.text.tokenizer import Tokenizer

ONNX = ("none", "fp16", "int8", "int4")
LLAMA = ("F32", "F16", "Q8_0", "Q4_K_M", "Q4_0")
FORMS = (*ONNX, *LLAMA, "torch")
USUAL = ("none", "fp16", "int8", "int4", "Q8_0", "Q4_K_M", "Q4_0", "torch")
NEW = 32  # tokens of an answer
BLOCK = 64  # positions worked on at a time
CONTEXT = 1024
SIZES = (1, 1, 2, 4, 8)  # requests at a time when they are made again
Floats = npt.NDArray[np.float32]
Texts = Sequence[tuple[str, list[int]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Of one form, with or without the adapter."""

    form: str
    adapter: bool
    bits: float
    kl: float
    p99: float
    top1: float
    ppl: float
    by_text: dict[str, float]  # KL by kind
    same: int
    differs_at: float  # mean token at which the other answers first differ
    again: int
    repeats: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What float32 says: log probabilities of every row (on disk), and its answers."""

    logprobs: Floats  # [rows, tokens, vocabulary]
    answers: list[list[int]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--forms", default=",".join(USUAL), help=f"of {', '.join(FORMS)}")
    parser.add_argument("--adapter", choices=("no", "yes", "both"), default="both")
    parser.add_argument("--tokens", type=int, default=3000)
    parser.add_argument("--repeats", type=int, default=64, help="requests made again, for each")
    parser.add_argument("--noise", type=float, default=0.0, help="see real_model.py")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    forms = arguments.forms.split(",")
    if unknown := set(forms) - set(FORMS):
        parser.error(f"unknown forms: {', '.join(sorted(unknown))}")
    model = real_model(arguments.noise)
    results = []
    print(HEAD, flush=True)
    for with_adapter in {"no": [False], "yes": [True], "both": [False, True]}[arguments.adapter]:
        adapter = train(model.folder, arguments.threads) if with_adapter else None
        bench = Bench(model, adapter, arguments.threads, arguments.repeats)
        for result in bench.run(forms, arguments.tokens):
            results.append(result)
            print(line(result), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(result) for result in results], indent=1))


HEAD = """| form | adapter | bits | KL | KL 99% | top-1 | ppl | KL by text | greedy | again | s |
|---|---|---|---|---|---|---|---|---|---|---|"""


def line(r: Result) -> str:
    """A row of the table."""
    texts = ", ".join(f"{kind} {small(kl)}" for kind, kl in r.by_text.items())
    greedy = f"{r.same}/{len(QUESTIONS)}"
    if r.same < len(QUESTIONS):
        greedy += f" (others at {r.differs_at:.0f})"
    cells = (
        r.form,
        "yes" if r.adapter else "no",
        f"{r.bits:.2f}",
        small(r.kl),
        small(r.p99),
        f"{r.top1:.4f}",
        f"{r.ppl:.3f}",
        texts,
        greedy,
        f"{r.again}/{r.repeats}",
        f"{r.seconds:.0f}",
    )
    return f"| {' | '.join(cells)} |"


def small(value: float) -> str:
    """Five digits behind the point, or what is left where those are zeros."""
    return f"{value:.5f}" if abs(value) >= 1e-4 else f"{value:.0e}"


@dataclass(frozen=True, slots=True)
class Bench:
    """One base, with an adapter or without."""

    model: RealModel
    adapter: Path | None
    threads: int
    repeats: int

    def run(self, forms: Sequence[str], tokens: int) -> Iterator[Result]:
        with tempfile.TemporaryDirectory(dir=self.model.folder.parent) as temporary:
            encode = partial(Tokenizer.open(self.model.folder).encode, special=False)
            texts = rows(tokens, encode)
            with self.opened("none", cached_sequences=0) as opened:
                reference = Reference(
                    logprobs=_logprobs(opened, texts, Path(temporary) / "reference"),
                    answers=self.answers(opened),
                )
            for form in forms:
                yield self.measure(form, texts, reference)
            del reference

    def measure(self, form: str, texts: Texts, reference: Reference) -> Result:
        began = time.perf_counter()
        with self.opened(form, cached_sequences=0) as opened:
            kl, best, nll = self.compare(opened, texts, reference.logprobs)
            answers = self.answers(opened)
        kinds = [kind for kind, _ in texts]
        by_text = {
            kind: float(np.mean([row for name, row in zip(kinds, kl, strict=True) if name == kind]))
            for kind in dict.fromkeys(kinds)
        }
        first = [
            _first_difference(*pair) for pair in zip(answers, reference.answers, strict=True)
        ]  # fmt: skip
        others = [at for at in first if at is not None]
        return Result(
            form=form,
            adapter=self.adapter is not None,
            bits=self.bits(form),
            kl=float(kl.mean()),
            p99=float(np.quantile(kl, 0.99)),
            top1=float(best.mean()),
            ppl=math.exp(float(nll.mean())),
            by_text=by_text,
            same=len(first) - len(others),
            differs_at=float(np.mean(others)) if others else NEW,
            again=self.again(form, answers),
            repeats=self.repeats,
            seconds=time.perf_counter() - began,
        )

    @contextmanager
    def opened(self, form: str, **options: Any) -> Iterator[Model]:
        common = {"threads": self.threads, "context": CONTEXT, "max_batch": 8, **options}
        chosen = [self.adapter] if self.adapter is not None else []
        if form in LLAMA:
            path = self.model.floats if form == "F32" else self.model.quantised(form)
            native = LlamaOptions(kv_type="f32", flash_attention="off")
            with lorakit.open(path, adapter=chosen, llama=native, **common) as opened:
                yield opened
        elif form == "torch":
            with lorakit.open(
                self.model.folder, adapter=chosen, engine="torch", **common
            ) as opened:
                yield opened
        else:
            os.environ["LORAKIT_CACHE"] = str(self.cache(form))  # so that its size is known
            with lorakit.open(self.model.folder, adapter=chosen, quantize=form, **common) as opened:
                yield opened

    def compare(
        self, opened: Model, texts: Texts, logprobs: Floats
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
        """By row and position: KL, whether the likeliest token is the same, -log p of the next."""
        kl = np.zeros(logprobs.shape[:2])
        best = np.zeros(logprobs.shape[:2], bool)
        nll = np.zeros((len(texts), logprobs.shape[1] - 1))
        for row, (_, ids) in enumerate(texts):
            found = opened.logits(ids)
            for at in range(0, len(ids), BLOCK):
                ours, theirs = _log_softmax(found[at : at + BLOCK]), logprobs[row, at : at + BLOCK]
                difference = theirs.astype(np.float64) - ours
                kl[row, at : at + BLOCK] = (np.exp(theirs.astype(np.float64)) * difference).sum(-1)
                best[row, at : at + BLOCK] = ours.argmax(-1) == theirs.argmax(-1)
                following = ids[at + 1 : at + 1 + len(ours)]
                nll[row, at : at + len(following)] = -ours[np.arange(len(following)), following]
        return kl, best, nll

    def answers(self, opened: Model) -> list[list[int]]:
        """Greedy answers to the questions, one after the other."""
        return [
            _ids(opened.complete(prompt, max_tokens=NEW, temperature=0))
            for prompt in _prompts(opened)
        ]

    def again(self, form: str, answers: Sequence[list[int]]) -> int:
        """How many requests made again get another answer: alone, and in batches of any mix."""
        rng, differ, done = np.random.default_rng(0), 0, 0
        with self.opened(form) as opened:
            prompts = _prompts(opened)
            while done < self.repeats:
                size = min(int(rng.choice(SIZES)), self.repeats - done)
                chosen = [int(which) for which in rng.choice(len(prompts), size, replace=False)]
                sampling = lorakit.SamplingParams(max_tokens=NEW, temperature=0)
                requests = [Request(prompt=prompts[at], sampling=sampling) for at in chosen]
                for at, completion in zip(chosen, opened.batch(requests), strict=True):
                    differ += _ids(completion) != answers[at]
                done += size
        return differ

    def bits(self, form: str) -> float:
        """Of the files per weight: of the GGUF file, or of the graph with its weights."""
        base = Base.open(self.model.folder)
        weights = sum(math.prod(shape) for shape in base.decoder.parameters().values())
        if form in LLAMA:
            path = self.model.floats if form == "F32" else self.model.quantised(form)
            return path.stat().st_size * 8 / weights
        if form == "torch":
            return 32.0
        graphs = (self.cache(form) / "graphs").iterdir()
        latest = max(graphs, key=lambda folder: folder.stat().st_mtime)
        return sum(file.stat().st_size for file in latest.iterdir()) * 8 / weights

    def cache(self, form: str) -> Path:
        """Where the graphs of a form are kept, beside the model."""
        return self.model.folder.with_name(f"graphs-{form}")


def _prompts(opened: Model) -> list[list[int]]:
    return [opened.chat_prompt([{"role": "user", "content": asked}]) for asked in QUESTIONS]


def _ids(completion: Completion) -> list[int]:
    return [choice.token for choice in completion.tokens]


def _logprobs(opened: Model, texts: Texts, path: Path) -> Floats:
    found: Floats | None = None
    for row, (_, ids) in enumerate(texts):
        logits = opened.logits(ids)
        if found is None:
            shape = (len(texts), *logits.shape)
            found = np.memmap(path, np.float32, mode="w+", shape=shape)
        for at in range(0, len(ids), BLOCK):
            found[row, at : at + BLOCK] = _log_softmax(logits[at : at + BLOCK])
    assert found is not None
    return found


def _log_softmax(logits: Any) -> npt.NDArray[np.float64]:
    values = np.asarray(logits, np.float64)
    values = values - values.max(-1, keepdims=True)
    return values - np.log(np.exp(values).sum(-1, keepdims=True))


def _first_difference(ours: Sequence[int], theirs: Sequence[int]) -> int | None:
    for at, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        if one != other:
            return at
    return None if len(ours) == len(theirs) else min(len(ours), len(theirs))


if __name__ == "__main__":
    main()
