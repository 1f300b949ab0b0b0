"""What starting costs, as whole processes: the import, a help page, a large adapter's structure.

    python bench/startup.py [--rounds 10] [--gigabytes 1.0]

`python -c pass` is in the table so that its part can be taken off. The adapter is made once.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from make_base import CONFIG
from processes import Case, alternate, load, table

from lorakit.adapter import Adapter, Delta
from lorakit.architectures import describe
from lorakit.files.cache import cache_root
from lorakit.formats.peft import write_peft


def make_large(folder: Path, gigabytes: float) -> Path:
    """An adapter of so many bytes on every linear of the base's shape; values do not matter."""
    decoder = describe(CONFIG)
    shapes = {k: v for n in range(len(decoder.layers)) for k, v in decoder.linears(n).items()}
    width = sum(shape.in_features + shape.out_features for shape in shapes.values())
    rank = int(gigabytes * 1e9 / 4 / width)
    deltas = [
        Delta(
            module=name,
            a=np.full((rank, shape.in_features), 0.01, np.float32),
            b=np.full((shape.out_features, rank), 0.01, np.float32),
            scale=1.0,
        )
        for name, shape in shapes.items()
    ]
    write_peft(Adapter(deltas=tuple(deltas)), folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--folder", type=Path, default=cache_root() / "bench")
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--make", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    large = chosen.folder / f"adapter-{chosen.gigabytes:g}gb"
    if chosen.make:
        make_large(large, chosen.gigabytes)
        return
    if not large.exists():  # in a process of its own: children begin with their parent's peak
        subprocess.run([sys.executable, *sys.argv, "--make"], check=True)
    run = [sys.executable, "-m", "lorakit"]
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import lorakit": [sys.executable, "-c", "import lorakit"],
        "lorakit merge --help": [*run, "merge", "--help"],
        f"inspect --structure of {chosen.gigabytes:g} GB": [
            *(*run, "inspect", str(large), "--structure", "--json")
        ],
    }
    cases = [Case(name=name, command=command) for name, command in commands.items()]
    print(load())
    alternate(cases, chosen.rounds)
    print("\n".join(table(cases, cases[0])))
    print(load())


if __name__ == "__main__":
    main()
