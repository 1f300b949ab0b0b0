"""lorakit quantize: a GGUF model in a smaller type."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

from lorakit.cli.output import print_json, say, size
from lorakit.cli.outputs import OverwriteOption, written
from lorakit.cli.progress import counted_bar
from lorakit.cli.references import JsonOption
from lorakit.cli.signature import argument, option
from lorakit.engines.llama.quantize import Quantized, quantize


def command(
    source: Annotated[Path, argument(metavar="IN.gguf", help="A GGUF model, best F16.")],
    output: Annotated[Path, argument(metavar="OUT.gguf", help="A new file.")],
    type: Annotated[str, option("--type", "-t", help="Q8_0, Q6_K, Q5_K_M, Q4_K_M, ...")],
    threads: Annotated[int | None, option(least=1, help="Threads; all cores if not given.")] = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Quantize a GGUF model, so that it needs less memory and answers faster."""
    with (
        written(output, "file", overwrite=overwrite, inputs=[source]) as place,
        counted_bar("reading") as progress,
    ):
        done = quantize(source, place, type=type, threads=threads, progress=progress)
    if json:
        print_json(_report(done, output))
        return
    ratio = done.bytes_after / done.bytes_before
    say(f"wrote {output}: {done.type}, {size(done.bytes_after)} ({ratio:.0%})")
    for (wanted, taken), count in _fallbacks(done).items():
        say(f"  {count} tensors took {taken}, as {wanted} does not divide their rows")


def _fallbacks(done: Quantized) -> Counter[tuple[str, str]]:
    return Counter((wanted, taken) for _, _, wanted, taken in done.fallbacks)


def _report(done: Quantized, output: Path) -> dict[str, object]:
    return {
        "output": str(output),
        "type": done.type,
        "bytes_before": done.bytes_before,
        "bytes_after": done.bytes_after,
        "fallbacks": [
            {"tensor": name, "row": row, "wanted": wanted, "taken": taken}
            for name, row, wanted, taken in done.fallbacks
        ],
    }
