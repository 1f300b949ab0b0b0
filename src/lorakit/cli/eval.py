"""lorakit eval: how many answers are right, with which adapters, on which engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from lorakit.cli.downloads import downloads
from lorakit.cli.output import patience, print_json, print_table, say, say_folded
from lorakit.cli.outputs import OverwriteOption, require_free
from lorakit.cli.progress import counted_bar
from lorakit.cli.reading import Reading
from lorakit.cli.references import (
    AdapterOption,
    BaseArgument,
    JsonOption,
)
from lorakit.cli.running import OPENING, Running
from lorakit.cli.signature import option
from lorakit.errors import ParameterError, WriteError
from lorakit.files.atomic import write_atomic
from lorakit.training.data import Example, read_examples
from lorakit.training.evaluate.comparing import Opening, compare
from lorakit.training.evaluate.comparison import Comparison, Learnt, Side
from lorakit.training.evaluate.contestants import (
    contestants,
    first_contestant,
    parse_scales,
    sweep,
)
from lorakit.training.evaluate.evaluating import OnDone
from lorakit.training.evaluate.evaluation import Evaluation, file_of, perplexity_text
from lorakit.training.evaluate.judging import Judge
from lorakit.training.evaluate.page import page
from lorakit.training.evaluate.scorers import load_scorer, matches
from lorakit.training.evaluate.statistics import Share, p_text
from lorakit.training.evaluate.work import BATCH, Rules, to_answer

ALONE = 8  # examples that run one by one, for the time of a single answer
WORST = 8  # phrasings and confusions that are listed


def command(
    base: BaseArgument,
    data: Annotated[
        list[Path],
        option("--data", metavar="FILE", help="Examples with their answers; may be repeated."),
    ],
    adapter: AdapterOption = None,
    compare_with: Annotated[
        list[str] | None,
        option(
            "--compare",
            metavar="WORD,...",
            help="What is evaluated beside it: base, an adapter's REF[:SCALE], merged, fp16, int8, "
            "int4, onnx, torch, llama, constrained (calls kept to the tools), required (each "
            "answer calls), free, on:BASE (the same on another file of the base), model:BASE; "
            "joined by + as in merged+int8.",
        ),
    ] = None,
    scales: Annotated[
        str | None,
        option(metavar="FROM:TO:STEP", help="The adapters at each of these scales, or of 0.5,1."),
    ] = None,
    declare: Annotated[
        bool, option("--declare", help="Put the declarations of the tools into the prompt.")
    ] = False,
    constrained: Annotated[
        bool,
        option(
            "--constrained",
            help="Keep calls to the tools, as a chat does, and compare with free answers.",
        ),
    ] = False,
    tools: Annotated[
        Path | None,
        option(metavar="FILE", help="Declarations for examples without [default: tools.json]."),
    ] = None,
    train: Annotated[
        Path | None,
        option(metavar="FILE", help="What it was trained on: new phrasings are counted apart."),
    ] = None,
    ordered: Annotated[
        bool, option("--ordered", help="Calls of one turn have to come in the given order.")
    ] = False,
    regex: Annotated[
        str | None, option(metavar="PATTERN", help="An answer is right that holds this.")
    ] = None,
    scorer: Annotated[
        str | None,
        option(
            metavar="FILE.py:FUNCTION",
            help="A function of yours says whether an answer is right; it is run.",
        ),
    ] = None,
    at_least: Annotated[
        float | None,
        option("--min", metavar="SHARE", least=0, most=1, help="Exit with 1 below this share."),
    ] = None,
    max_perplexity: Annotated[
        float | None, option(least=1, help="Exit with 1 above this perplexity.")
    ] = None,
    limit: Annotated[
        int | None, option(least=1, help="So many examples, spread over the data.")
    ] = None,
    max_tokens: Annotated[
        int | None,
        option(least=1, help="Tokens of an answer [default: twice the longest that is right]."),
    ] = None,
    batch: Annotated[int, option(least=1, most=1024, help="Answers at a time.")] = BATCH,
    failures: Annotated[int, option(least=0, help="Wrong answers that are shown.")] = 5,
    html: Annotated[
        Path | None, option(metavar="FILE", help="Write a page with all of it, in one file.")
    ] = None,
    *,
    running: Running,
    reading: Reading,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Say how many answers of a model are right, and how sure that is."""
    rules = Rules(
        declare=declare,
        batch=batch,
        max_tokens=max_tokens,
        judge=_judge(regex, scorer, ordered),
        scored=f"regex {regex}" if regex is not None else f"scorer {scorer}" if scorer else "text",
        alone=ALONE,
    )
    first = first_contestant(
        base,
        adapter or (),
        engine=running.engine,
        quantize=running.quantize,
        constrained=constrained,
    )
    steps = parse_scales(scales) if scales else []
    words = [*(["free"] if constrained else []), *(compare_with or ())]
    sides = [first, *contestants(first, words), *sweep(first, steps)]
    examples = _spread(_read(data, tools), limit)
    learnt = Learnt.of(_read([train], tools)) if train else None
    _require_goal(examples, rules, at_least, max_perplexity)
    if html is not None:
        require_free(html, "file", overwrite=overwrite, inputs=data)
        _require_place(html)
    opening = Opening(
        threads=running.threads,
        context=running.context,
        device=running.device,
        gpu_layers=running.gpu_layers,
        allow_private=running.allow_private,
        waiting=_waiting,
        progress=downloads,
        reading=reading.given,
    )
    with ExitStack() as stack:
        found = compare(
            sides, examples, rules, opening,
            learnt=learnt, progress=_bar(stack),
        )  # fmt: skip
    if html is not None:
        names = dict.fromkeys(file_of(each.example) for each in found.first.evaluation.outcomes)
        _write(html, page(found, title=" and ".join(names)))
    if json:
        print_json(found.to_dict())
    else:
        show(found, failures)
    raise SystemExit(0 if _reaches(found.first.evaluation, at_least, max_perplexity, json) else 1)


@contextmanager
def _waiting() -> Iterator[None]:
    with downloads, patience(OPENING):
        yield


def _bar(stack: ExitStack) -> OnDone:
    """A bar that comes with the first answer: until then there may be those of downloads."""
    moves: list[Callable[[int, int, str], None]] = []

    def progress(done: int, total: int) -> None:
        if not moves:
            moves.append(stack.enter_context(counted_bar("evaluating")))
        moves[0](done, total, "evaluating")

    return progress


def _judge(regex: str | None, scorer: str | None, ordered: bool) -> Judge:
    if regex is not None and scorer is not None:
        raise ParameterError("a regex and a scorer exclude each other", hint="give one of them")
    chosen = matches(regex) if regex is not None else load_scorer(scorer) if scorer else None
    return Judge(scorer=chosen, ordered=ordered)


def _read(files: Sequence[Path], tools: Path | None) -> list[Example]:
    """All examples; where files have the same name, their places say which."""
    names = [path.name for path in files]
    found: list[Example] = []
    for path in files:
        examples = read_examples(path, tools=tools).require()
        if names.count(path.name) > 1:
            front = str(path.parent / "")
            examples = tuple(replace(e, place=f"{front}/{e.place}") for e in examples)
        found += examples
    return found


def _spread(examples: Sequence[Example], limit: int | None) -> Sequence[Example]:
    count = len(examples)
    if limit is None or limit >= count:
        return examples
    return [examples[n * count // limit] for n in range(limit)]


def _require_goal(
    examples: Sequence[Example], rules: Rules, at_least: float | None, most: float | None
) -> None:
    """Whether there will be what is to be judged by, before anything runs."""
    answered = len(to_answer(examples, rules))
    if at_least is not None and not answered:
        raise ParameterError(
            "these examples have no right answers to count, only texts to find likely",
            hint="--max-perplexity, or a --regex or --scorer that says what is right",
        )
    if most is not None and answered == len(examples):
        raise ParameterError(
            "the perplexity of these examples is not measured: their answers are right or wrong",
            hint="--min",
        )


def _reaches(found: Evaluation, at_least: float | None, most: float | None, quiet: bool) -> bool:
    """Whether the goals are reached; says which are not."""
    missed = []
    if at_least is not None and not found.score >= at_least:
        missed.append(f"{found.score:.1%} is below the {at_least:.1%} that were asked for")
    if most is not None and not (found.perplexity or 0.0) <= most:
        missed.append(f"a perplexity of {found.perplexity:.3g} is above {most:g}")
    if not quiet:
        for text in missed:
            say_folded(text, "red")
    return not missed


def _require_place(path: Path) -> None:
    """Whether a page can be written there, before it is made. Raises WriteError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        reason = "it is a folder" if path.is_dir() else "its folder cannot be written to"
        raise WriteError(f"cannot write {path}: {reason}", hint="name another file")


def _write(path: Path, content: str) -> None:
    try:
        write_atomic(path, content.encode())
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from error


# For people.


def show(found: Comparison, failures: int) -> None:
    """The sides, then what the first gets wrong, then the verdict."""
    files = [*found.first.evaluation.by_file]
    columns = [*COLUMNS, *((name, _in_file(name)) for name in files if len(files) > 1)]
    shown = [column for column in columns if any(column[1](side) for side in found.sides)]
    rows = [[side.name, *(cell(side) for _, cell in shown)] for side in found.sides]
    print_table(("", *(title for title, _ in shown)), rows, left=("",))
    first = found.first.evaluation
    _shares("trained on", found.by_novelty)
    _shares("tool", first.by_tool)
    _shares("phrasing", dict([*first.by_phrasing.items()][:WORST]))
    if len(files) > 1:
        _shares("file", first.by_file)
    _failures(first, failures)
    say()
    for line in found.verdict:
        say_folded(line, "bold")


def _shares(title: str, shares: dict[str, Share]) -> None:
    if shares:
        say()
        rows = [[name, *_share(share)] for name, share in shares.items()]
        print_table((title, "right", "of", "share", "95%"), rows, left=(title,))


def _share(share: Share) -> tuple[str, str, str, str]:
    interval = f"{share.low * 100:.0f}-{share.high:.0%}"
    return str(share.count), str(share.total), f"{share.share:.1%}", interval


def _failures(found: Evaluation, count: int) -> None:
    wrong = [each for each in found.outcomes if each.score is not None and not each.exact]
    if not wrong or not count:
        return
    say()
    number = f"{len(wrong)} wrong answer{'s' * (len(wrong) > 1)}"
    say((number + f", {count} of them:" * (len(wrong) > count), "bold"))
    for each in wrong[:count]:
        say_folded(f"{each.example.place}  {each.request}")
        say_folded(f"  wanted  {each.wanted}", "green")
        say_folded(f"  got     {each.answered}", "red")
        for fault in each.invalid[:2]:
            say_folded(f"          {fault}", "dim")


def _of(name: str) -> Callable[[Side], str]:
    def cell(side: Side) -> str:
        share: Share = getattr(side.evaluation, name)
        return f"{share.share:.1%}" if share.total else ""

    return cell


def _right(side: Side) -> str:
    return str(side.evaluation.exact) if side.evaluation.exact.total else ""


def _in_file(name: str) -> Callable[[Side], str]:
    return lambda side: f"{side.evaluation.by_file[name].share:.1%}"


def _perplexity(side: Side) -> str:
    return perplexity_text(side.evaluation.perplexity)


def _tokens(side: Side) -> str:
    return f"{side.evaluation.tokens:.1f}" if side.evaluation.exact.total else ""


def _alone(side: Side) -> str:
    seconds = side.evaluation.alone_seconds
    return "" if seconds is None else f"{seconds * 1000:.0f} ms"


def _against(side: Side) -> str:
    if side.against is None:
        return ""
    return f"+{side.against.better} -{side.against.worse}, {p_text(side.against.p)}"


COLUMNS: tuple[tuple[str, Callable[[Side], str]], ...] = (
    ("right", _right),
    ("perplexity", _perplexity),
    ("names", _of("names")),
    ("arguments", _of("arguments")),
    ("invalid", _of("invalid")),
    ("silent", _of("silent")),
    ("abstains", _of("abstained")),
    ("parallel", _of("parallel")),
    ("tokens", _tokens),
    ("alone", _alone),
    ("against the first", _against),
)
