"""Merging as whole processes: lorakit, PEFT, and `cp` with a flush of the same bytes.

    python bench/merge.py [--rounds 5] [--folder DIR] [--no-peft]

The base is make_base.py's (270M parameters, bfloat16, 536 MB), the adapter of rank 16 on all its
linears. PEFT loads base and adapter, merges, and saves. Every process ends with its bytes on the
disk: PEFT's and cp's by an `os.fsync`, which lorakit does itself. They take turns, the page cache
is warm, and ratios are of the same turn. PEFT needs torch, transformers and peft.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from make_base import make_adapter, make_base
from processes import Case, alternate, load, table

from lorakit.base.folder import Base
from lorakit.files.cache import cache_root
from lorakit.formats.peft import write_peft

SYNC = """
import os, sys
from pathlib import Path
for path in Path(sys.argv[-1]).iterdir():
    with path.open("rb") as file:
        os.fsync(file.fileno())
"""
PEFT = f"""
import sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base, adapter, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out)
{SYNC}"""
COPY = 'cp -r "$1" "$2" && sync "$2"/*'


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=cache_root() / "bench")
    parser.add_argument("--no-peft", action="store_true")
    chosen = parser.parse_args()
    base = make_base(chosen.folder / "functiongemma-shape")
    adapter, out = chosen.folder / "adapter-r16", chosen.folder / "merged"
    if not adapter.exists():
        write_peft(make_adapter(Base.open(base).decoder, seed=1), adapter)

    def clear() -> None:
        shutil.rmtree(out, ignore_errors=True)

    places = [str(base), str(adapter), str(out)]
    cli = [sys.executable, "-m", "lorakit", "merge", str(base), "-a", str(adapter), "-o", str(out)]
    cases = [
        Case(name="lorakit merge", command=cli, before=clear),
        Case(
            name="cp + fsync", command=["sh", "-c", COPY, "sh", str(base), str(out)], before=clear
        ),
    ]
    if not chosen.no_peft:
        cases.append(Case(name="PEFT", command=[sys.executable, "-c", PEFT, *places], before=clear))
    print(load())
    alternate(cases, chosen.rounds)
    clear()
    print("\n".join(table(cases, cases[0])))
    print(load())


if __name__ == "__main__":
    main()
