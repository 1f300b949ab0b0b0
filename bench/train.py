"""Training steps beside TRL + PEFT, at FunctionGemma's shape with random weights.

    python -m venv PEER && PEER/bin/pip install torch==2.13.0 trl==1.16 peft transformers
    python bench/train.py --peer-python PEER/bin/python [--rounds 5] [--batch 8] [--case ...]

Each program is a process of its own, and they take turns step by step: a step of ours, one of the
peer's, and so on, so that a busy machine slows both. Seconds are CPU seconds of one thread; ratios
are of steps that follow each other. Rank 16 on every linear layer, AdamW, no checkpointing on
either side; examples of 512 tokens of which the last 48 are learnt, 384 shared by all or none.

Peers: `trl` is SFTTrainer as it comes; `patched` has its skipping of prompt rows in the head
switched on, which it does by itself only where Triton is. bf16 is their autocast, and ours.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TOKENS, ANSWER, SHARED, VOCABULARY = 512, 48, 384, 262144
RANK, ALPHA, RATE = 16, 32, 1e-4
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES = {  # name: (shared tokens, dtype)
    "shared bf16": (SHARED, "bfloat16"),
    "shared fp32": (SHARED, "float32"),
    "alone bf16": (0, "bfloat16"),
    "alone fp32": (0, "float32"),
}


def examples(count: int, shared: int, seed: int) -> list[list[int]]:
    """Token ids."""
    draw = random.Random(seed)
    common = [draw.randrange(3, VOCABULARY) for _ in range(shared)]
    return [
        common + [draw.randrange(3, VOCABULARY) for _ in range(TOKENS - shared)]
        for _ in range(count)
    ]


def work_ours(folder: str, shared: int, dtype: str, batch: int) -> None:
    """A step for every line that comes in."""
    import torch

    from lorakit.base.folder import Base
    from lorakit.training.core.model import load_model
    from lorakit.training.core.numerics import choose
    from lorakit.training.core.spec import LoraSpec
    from lorakit.training.render import Rendered

    torch.set_num_threads(1)
    base = Base.open(folder)
    numerics = choose(base.decoder, torch.device("cpu"), dtype)
    model = load_model(base, LoraSpec(rank=RANK, alpha=ALPHA), numerics=numerics)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE)
    answers = tuple(i >= TOKENS - ANSWER for i in range(TOKENS))
    for step, _ in enumerate(sys.stdin):
        rows = [Rendered(ids=tuple(r), answers=answers) for r in examples(batch, shared, step)]
        clock = Clock()
        loss, count = model.loss(rows)
        (loss / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        clock.say(numerics=str(numerics))


def work_trl(folder: str, shared: int, dtype: str, batch: int, steps: int, patched: bool) -> None:
    """As `work_ours`, by SFTTrainer."""
    import warnings

    warnings.filterwarnings("ignore")
    import datasets
    import torch
    import transformers
    import trl
    from peft import LoraConfig
    from trl.trainer import utils

    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    if patched:
        utils._use_triton = lambda device: True

    class Turns(transformers.TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            sys.stdin.readline()
            self.clock = Clock()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.clock.say()

    rows = [
        {"input_ids": ids, "labels": [-100] * (TOKENS - ANSWER) + ids[-ANSWER:]}
        for step in range(steps)
        for ids in examples(batch, shared, step)
    ]
    with tempfile.TemporaryDirectory() as output:
        settings = trl.SFTConfig(
            output_dir=output,
            per_device_train_batch_size=batch,
            max_steps=steps,
            learning_rate=RATE,
            bf16=dtype == "bfloat16",
            gradient_checkpointing=False,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trl.SFTTrainer(
            model=transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
            args=settings,
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=transformers.PreTrainedTokenizerFast.from_pretrained(
                ROOT / "src/lorakit/demo/base"
            ),
            peft_config=LoraConfig(
                task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, target_modules=LINEARS
            ),
            callbacks=[Turns()],
        ).train()


class Clock:
    """CPU and wall seconds since it was made."""

    def __init__(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def say(self, **more: str) -> None:
        cpu, wall = time.process_time() - self._cpu, time.perf_counter() - self._wall
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"cpu": cpu, "wall": wall, "peak": peak, **more}), flush=True)


class Worker:
    """A program that takes steps when told to."""

    def __init__(self, python: str, *arguments: str) -> None:
        one = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._process = subprocess.Popen(
            [python, __file__, "--worker", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | one,
        )
        self.found: list[dict[str, Any]] = []

    def step(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line.startswith("{"):
            sys.exit(f"a worker failed: {line}")
        self.found.append(json.loads(line))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def compare(case: str, peer: str, options: argparse.Namespace) -> str:
    """A row of the table; the first step of each is not counted."""
    shared, dtype = CASES[case]
    theirs = 1 if peer == "trl" else options.batch  # its logits of a batch would not fit
    steps = options.rounds + 1
    common = [str(options.base), str(shared), dtype]
    workers = [
        Worker(sys.executable, "ours", *common, str(options.batch), str(steps)),
        Worker(options.peer_python, peer, *common, str(theirs), str(steps)),
    ]
    try:
        for _ in range(steps):
            for worker in workers:
                worker.step()
    finally:
        for worker in workers:
            worker.close()
    per = [[f["cpu"] / n for f in w.found[1:]] for w, n in zip(workers, (options.batch, theirs),
                                                              strict=True)]  # fmt: skip
    ratios = [b / a for a, b in zip(*per, strict=True)]
    peaks = [max(f["peak"] for f in w.found) for w in workers]
    return (
        f"| {case} | {peer}, batch {theirs} | {_spread(per[0])} | {_spread(per[1])} "
        f"| **{_spread(ratios)}** | {peaks[0]:.0f} | {peaks[1]:.0f} |"
    )


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        kind, folder, shared, dtype, batch, steps = sys.argv[2:]
        if kind == "ours":
            work_ours(folder, int(shared), dtype, int(batch))
        else:
            work_trl(folder, int(shared), dtype, int(batch), int(steps), kind == "patched")
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer-python", required=True, help="of an environment with TRL and PEFT")
    parser.add_argument("--base", type=Path, default=ROOT / "build/bench/base")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--peer", nargs="+", choices=("patched", "trl"), default=["patched"])
    options = parser.parse_args()
    from make_base import make_base

    make_base(options.base)
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print("| case | peer | ours, CPU s / example | peer | x faster, paired | peak MiB | peer |")
    print("|---|---|---|---|---|---|---|")
    for case in options.case:
        for peer in options.peer:
            print(compare(case, peer, options), flush=True)
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
