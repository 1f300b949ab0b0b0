"""Converting a PEFT adapter to GGUF as whole processes: lorakit and llama.cpp's script.

    python bench/convert.py --script convert_lora_to_gguf.py [--python PYTHON] [--rounds 5]

The adapter is of rank 16 on all linears of make_base.py's base (15 MB in float32). The script runs
under `--python`, which needs torch, transformers and gguf; without `--script` lorakit runs alone.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from make_base import make_adapter, make_base
from processes import Case, alternate, load, table

from lorakit.base.folder import Base
from lorakit.files.cache import cache_root
from lorakit.formats.peft import write_peft


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=cache_root() / "bench")
    parser.add_argument("--script", type=Path, help="llama.cpp's convert_lora_to_gguf.py")
    parser.add_argument("--python", default=sys.executable, help="what runs that script")
    chosen = parser.parse_args()
    base = make_base(chosen.folder / "functiongemma-shape")
    adapter, out = chosen.folder / "adapter-r16", chosen.folder / "adapter.gguf"
    if not adapter.exists():
        write_peft(make_adapter(Base.open(base).decoder, seed=1), adapter)

    def clear() -> None:
        out.unlink(missing_ok=True)

    ours = [sys.executable, "-m", "lorakit", "convert", str(adapter), str(out)]
    ours += ["--to", "gguf", "--base", str(base), "--dtype", "f32"]
    cases = [Case(name="lorakit convert", command=ours, before=clear)]
    if chosen.script:
        theirs = [chosen.python, str(chosen.script), "--outtype", "f32", "--outfile", str(out)]
        theirs += ["--base", str(base), str(adapter)]
        cases.append(Case(name="convert_lora_to_gguf.py", command=theirs, before=clear))
    print(load())
    alternate(cases, chosen.rounds)
    clear()
    print("\n".join(table(cases, cases[0])))
    print(load())


if __name__ == "__main__":
    main()
