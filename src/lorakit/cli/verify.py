"""lorakit verify: do two things give the same logits?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

from lorakit.cli.hints import did_you_mean
from lorakit.cli.output import note, print_json, print_table, say
from lorakit.cli.reading import Reading
from lorakit.cli.references import (
    AdapterOption,
    BaseArgument,
    CalibrationOption,
    EngineOption,
    JsonOption,
    PrivateOption,
    QuantizeOption,
    ThreadsOption,
    ToleranceOption,
    open_base,
    read_reference,
    scaled,
)
from lorakit.cli.running import open_shown
from lorakit.cli.signature import option
from lorakit.errors import SourceError
from lorakit.files.nearby import or_nearby
from lorakit.merge.record import read_record
from lorakit.sources import Local, parse
from lorakit.verify import AnswerReport, ParityReport, PromptParity
from lorakit.verify.answers import NEW, REPEATS
from lorakit.verify.forms import MOST
from lorakit.verify.opening import OPENED, Opening, parse_other
from lorakit.verify.other import verify_against
from lorakit.verify.prompts import PromptChoice

DIFFERENCES = {
    "prompt": "name",
    "tokens": "tokens",
    "max diff": "max_difference",
    "mean diff": "mean_difference",
    "KL": "kl",
    "top-1": "top1",
    "differs at": "first_difference",
    "effect": "effect",
}
COSTS = {
    "prompt": "name",
    "tokens": "tokens",
    "KL": "kl",
    "top-1": "top1",
    "perplexity": "perplexity",
    "of other": "other_perplexity",
    "effect": "effect",
}
WORDS = ("base", "peft", *(f"{word}:" for word in OPENED))
SAID = {"cold": "cold", "hit": "on a prefix hit", "batch": "in batches"}

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
MaxKlOption = Annotated[
    float | None,
    option(
        metavar="KL",
        least=0,
        help="The largest mean KL, in nats, that passes [default: what a form of the weights that "
        f"works stays below: {', '.join(f'{name} {most:g}' for name, most in MOST.items())}].",
    ),
]
MinTop1Option = Annotated[
    float | None,
    option(
        "--min-top1",
        metavar="SHARE",
        least=0,
        most=1,
        help="The smallest share of positions with the same best token that passes.",
    ),
]
RepeatsOption = Annotated[
    int,
    option(
        least=0,
        help="How many greedy requests are made again of another form: cold, on a hit of the "
        "prefix cache, in batches.",
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
    max_kl: MaxKlOption = None,
    min_top1: MinTop1Option = None,
    repeats: RepeatsOption = REPEATS,
    engine: EngineOption = None,
    quantize: QuantizeOption = "none",
    calibration: CalibrationOption = None,
    threads: ThreadsOption = None,
    *,
    reading: Reading,
    allow_private: PrivateOption = False,
    json: JsonOption = False,
) -> None:
    """Compare the logits of a base with adapters with those of something else; exits 1 if they
    differ by more than rounding explains, or than the tolerance. Another form of the weights
    (quantize:HOW, a quantised GGUF file) is measured instead: KL, top-1, perplexity, greedy
    answers, repeats; that exits 1 where a value is NaN, or beyond --max-kl or --min-top1."""
    opening = Opening(
        base,
        tuple(adapter or ()),
        engine,
        quantize,
        threads,
        allow_private,
        open_shown,
        calibration,
        reading.given,
    )
    _require_there(against)
    for text in _held_already(opening, against):
        note(text)
    report = verify_against(
        opening,
        against,
        prompts=PromptChoice(texts=prompt or (), file=prompts, ids=ids),
        tolerance=tolerance,
        max_kl=max_kl,
        min_top1=min_top1,
        repeats=repeats,
    )
    if json:
        print_json(report.to_dict())
    else:
        show(report)
    raise SystemExit(0 if report.agrees else 1)


def _require_there(against: Sequence[str]) -> None:
    """What is no word is a model or an adapter, and has to be there before anything is opened."""
    if parse_other(against).kind != "adapters":
        return
    for each in against:
        path = scaled(each).path
        place = parse(path)
        if isinstance(place, Local) and not place.path.exists():
            raise SourceError(
                f"there is no model and no adapter at {path}",
                hint="--against takes a path, or base, peft, engine:NAME, quantize:HOW, "
                f"model:BASE, on:BASE{did_you_mean(path, WORDS) or or_nearby(place.path)}",
            )


def _held_already(opening: Opening, against: Sequence[str]) -> Iterator[str]:
    """Which adapters a merge that is named by on:, which adds them to it, has in it already."""
    other = parse_other(against)
    place = parse(other.value) if other.kind == "on" and opening.adapters else None
    record = read_record(place.path) if isinstance(place, Local) else None
    if record is None:
        return
    base = open_base(opening.base, allow_private=opening.allow_private)
    for path in (scaled(each).path for each in opening.adapters):
        adapter = read_reference(
            path, base.decoder, allow_private=opening.allow_private, **opening.reading
        )
        if adapter.digest in record.adapters:
            yield (
                f"{other.value} is a merge that holds {path} already, and on: adds it once more; "
                f"--against {other.value} is the merge as it is"
            )


def show(report: ParityReport) -> None:
    """The table, the answers, the warnings, the verdict."""
    say(f"one    {report.one}")
    say(f"other  {report.other}")
    columns, total = DIFFERENCES if report.limits is None else COSTS, report.total
    shown = {title: name for title, name in columns.items() if title != "effect" or total.effect}
    rows = [_row(shown, row) for row in report.prompts]
    print_table(list(shown), rows, left=("prompt",), total=_row(shown, total))
    if report.answers is not None:
        _show_answers(report.answers)
    for warning in report.warnings:
        say((f"warning: {warning}", "yellow"))
    say((report.verdict, "green" if report.agrees else "red"))


def _show_answers(answers: AnswerReport) -> None:
    count, at = len(answers.differs_at), answers.mean_differs_at
    rest = "" if at is None else f", others to token {at:.0f} (mean)"
    say(f"greedy   {answers.same} of {count} answers of {NEW} tokens are the same{rest}")
    if answers.repeats:
        each = ", ".join(f"{a.differ} of {a.asked} {SAID[a.how]}" for a in answers.repeats)
        say(f"repeats  differ: {each}")


def _row(columns: Mapping[str, str], parity: PromptParity) -> list[str]:
    return [_cell(name, getattr(parity, name)) for name in columns.values()]


def _cell(name: str, value: str | float | None) -> str:
    """A figure as wide as it needs to be; nothing where there is none."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, int):
        return str(value)
    if name.endswith("perplexity"):
        return f"{value:.2f}" if value < 1000 else f"{value:.0f}"
    return f"{value:.1%}" if name == "top1" else f"{value:.3g}"
