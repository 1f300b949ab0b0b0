"""lorakit verify: do two things give the same logits?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from lorakit.cli.output import print_json, print_table, say
from lorakit.cli.references import (
    AdapterOption,
    BaseArgument,
    EngineOption,
    JsonOption,
    PrivateOption,
    QuantizeOption,
    ThreadsOption,
    ToleranceOption,
    open_with,
)
from lorakit.cli.signature import option
from lorakit.verify import ParityReport, PromptParity
from lorakit.verify.other import Opening, verify_against
from lorakit.verify.prompts import PromptChoice

AgainstOption = Annotated[
    list[str],
    option(
        "--against",
        metavar="OTHER",
        help="An adapter REF[:SCALE] (may be repeated), a merged model's folder, FILE.npz[#KIND], "
        "or base, peft, engine:NAME, quantize:HOW; model:BASE is another model without adapters, "
        "on:BASE the same adapters on another file of the base, its GGUF say.",
    ),
]


def command(
    base: BaseArgument,
    against: AgainstOption,
    adapter: AdapterOption = None,
    prompt: Annotated[
        list[str] | None, option("--prompt", "-p", help="A text; may be repeated.")
    ] = None,
    prompts: Annotated[
        Path | None,
        option(help='A file of texts, one per line, or .jsonl with "prompt" or "ids".'),
    ] = None,
    ids: Annotated[
        str | None, option(help="Token ids: 1,2,3 or a .npz file with ids0, ids1, ...")
    ] = None,
    tolerance: ToleranceOption = None,
    engine: EngineOption = None,
    quantize: QuantizeOption = "none",
    threads: ThreadsOption = None,
    allow_private: PrivateOption = False,
    json: JsonOption = False,
) -> None:
    """Compare the logits of a base with adapters with those of something else; exits 1 if they
    differ by more than rounding explains, or than the tolerance."""
    report = verify_against(
        Opening(base, tuple(adapter or ()), engine, quantize, threads, allow_private, open_with),
        against,
        prompts=PromptChoice(texts=prompt or (), file=prompts, ids=ids),
        tolerance=tolerance,
    )
    if json:
        print_json(report.to_dict())
    else:
        show(report)
    raise SystemExit(0 if report.agrees else 1)


def show(report: ParityReport) -> None:
    """The table, the warnings, the verdict."""
    say(f"one    {report.one}")
    say(f"other  {report.other}")
    titles = ("prompt", "tokens", "max diff", "mean diff", "KL", "top-1", "differs at", "effect")
    rows = [_row(row) for row in report.prompts]
    print_table(titles, rows, left=("prompt",), total=_row(report.total))
    for warning in report.warnings:
        say((f"warning: {warning}", "yellow"))
    say((report.verdict, "green" if report.agrees else "red"))


def _row(parity: PromptParity) -> list[str]:
    at, effect = parity.first_difference, parity.effect
    return [
        parity.name,
        str(parity.tokens),
        f"{parity.max_difference:.3g}",
        f"{parity.mean_difference:.3g}",
        f"{parity.kl:.3g}",
        f"{parity.top1:.1%}",
        "" if at is None else str(at),
        "" if effect is None else f"{effect:.3g}",
    ]
