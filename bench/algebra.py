"""extract, ties and dare on a real model, by the randomized SVD and by the full one, in one run.

    python bench/algebra.py                     all three; a table and the ratio
    python bench/algebra.py --only extract --rank 8

The model is SmolLM2-135M as float32 (real_model.py); its fine-tune is made once by a merge of a
random adapter of rank 8 on every linear module, in float32 and in bfloat16. Residuals stand beside
the times: a faster way that lost more would show. CPU seconds are of the whole process.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from real_model import real_model

from lorakit.adapter import Adapter, Delta
from lorakit.algebra import ResidualReport, extract, lowrank
from lorakit.algebra.combine import combine
from lorakit.base.folder import Base
from lorakit.merge import merge

EXTRACTED, COMBINED = "extract", ("ties", "dare")


def adapter(base: Base, rank: int, seed: int, size: float) -> Adapter:
    """A random one on every linear module."""
    rng = np.random.default_rng(seed)
    deltas = [
        Delta(
            module=module,
            a=rng.standard_normal((rank, shape.in_features), np.float32) * np.float32(size),
            b=rng.standard_normal((shape.out_features, rank), np.float32) * np.float32(size),
            scale=2.0,
        )
        for module, shape in base.decoder.modules().items()
        if not shape.embedding and module != "lm_head"
    ]
    return Adapter(deltas=tuple(deltas))


@contextmanager
def full_svd() -> Iterator[None]:
    """LAPACK's SVD of every matrix whose smaller side is at most 768, as it was."""
    before, lowrank.SMALL = lowrank.SMALL, lowrank.EXACT
    try:
        yield
    finally:
        lowrank.SMALL = before


def timed(run: Callable[[], tuple[Adapter, ResidualReport]]) -> tuple[float, float, float]:
    """Seconds, CPU seconds, the residual."""
    wall, cpu = time.perf_counter(), time.process_time()
    _, report = run()
    return time.perf_counter() - wall, time.process_time() - cpu, report.residual


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=[EXTRACTED, *COMBINED])
    parser.add_argument("--rank", type=int)
    arguments = parser.parse_args()
    base = Base.open(real_model().folder)
    one, two = adapter(base, 8, 1, 0.02), adapter(base, 16, 2, 0.01)
    with tempfile.TemporaryDirectory() as temporary:
        runs: dict[str, Callable[[], tuple[Adapter, ResidualReport]]] = {}
        if arguments.only in (None, EXTRACTED):
            for dtype in ("f32", "bf16"):
                folder = Path(temporary) / dtype
                merge(base, [(one, 1.0)], folder, dtype=dtype)
                tuned, rank = Base.open(folder), arguments.rank or 8
                runs[f"{EXTRACTED} {dtype}"] = lambda t=tuned, r=rank: extract(base, t, r)
        for method in COMBINED:
            if arguments.only in (None, method):
                rank = arguments.rank or 16
                pairs = [(one, 1.0), (two, 1.0)]
                runs[method] = lambda p=pairs, m=method, r=rank: combine(p, m, rank=r)
        print(
            f"{'':14}{'s':>7}{'CPU s':>8}{'residual':>10}{'full s':>9}{'residual':>10}{'ratio':>7}"
        )
        for name, run in runs.items():
            new = timed(run)
            with full_svd():
                old = timed(run)
            print(
                f"{name:14}{new[0]:7.1f}{new[1]:8.1f}{new[2]:10.4f}{old[0]:9.1f}{old[2]:10.4f}"
                f"{old[0] / new[0]:7.1f}",
                flush=True,
            )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"peak memory {peak / (1 << 20 if sys.platform == 'darwin' else 1 << 10):.0f} MB")


if __name__ == "__main__":
    main()
