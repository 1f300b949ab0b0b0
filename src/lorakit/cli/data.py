"""lorakit data: check data to learn from, count it, divide it, multiply it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from lorakit.cli.output import print_json, print_table, say
from lorakit.cli.outputs import OverwriteOption, require_free
from lorakit.cli.references import JsonOption, PrivateOption, ToolsOption, open_base
from lorakit.cli.signature import argument, option
from lorakit.cli.usage import require_used
from lorakit.errors import ParameterError
from lorakit.training.data import (
    Example,
    Fault,
    Stats,
    expand_examples,
    leaks,
    overlong,
    read_examples,
    read_templates,
    repeats,
    split_examples,
    stats_of,
    write_examples,
)
from lorakit.training.data.review import about_words, worded_calls
from lorakit.training.data.split import SplitBy
from lorakit.training.data.templates import is_templates

if TYPE_CHECKING:
    from lorakit.training.render import Renderer

FileArgument = Annotated[Path, argument(metavar="FILE", help="JSON lines, a JSON list or CSV.")]
BaseOption = Annotated[
    str | None,
    option("--base", "-b", help="A base, by whose tokenizer and template lengths are counted."),
]
DeclareOption = Annotated[
    bool, option("--declare", help="Count the tools' declarations as part of each prompt.")
]
SeedOption = Annotated[int, option(least=0, help="The same seed gives the same result.")]

TESTS = 200  # examples of templates to test with
ABOUT = "Check, count, split and expand data to train on."


def validate(
    file: FileArgument,
    tools: ToolsOption = None,
    train: Annotated[
        Path | None,
        option(metavar="FILE", help="Training data, none of which may be in the file."),
    ] = None,
    unseen_phrasings: Annotated[
        bool,
        option("--unseen-phrasings", help="With --train: no phrasing may be in both, either."),
    ] = False,
    base: BaseOption = None,
    max_tokens: Annotated[
        int | None,
        option(least=1, help="With --base: the most tokens of an example [default: its context]"),
    ] = None,
    declare: DeclareOption = False,
    allow_private: PrivateOption = False,
    json: JsonOption = False,
) -> None:
    """List every bad line with its reason; exits 1 if there is one."""
    require_used(
        {"--unseen-phrasings": (unseen_phrasings, train is not None)}, "a run without --train"
    )
    counted = {"--max-tokens": (max_tokens, base is not None)}
    require_used(counted | {"--declare": (declare, base is not None)}, "a run without --base")
    data = read_examples(file, tools=tools)
    faults = [*data.faults, *repeats(data.examples)]
    if train is not None:
        known = read_examples(train, tools=tools)
        faults += leaks(data.examples, known.examples, phrasings=unseen_phrasings)
    worded = [each for each in data.examples if any(True for _ in worded_calls(each))]
    if base is not None:
        renderer, context = _renderer(base, allow_private)
        faults += overlong(data.examples, _measure(renderer, declare), max_tokens or context)
        broken = {fault.place for fault in faults if fault.code == "unrenderable"}
        worded = [each for each in worded if each.place not in broken]
        worded = [each for each in worded if renderer.loses_words(each, declare)]
    warnings = about_words([each.place for each in worded], lost=base is not None)
    if not data.examples and not faults:
        faults.append(Fault(place=file.name, reason="it holds no example", code="empty"))
    if json:
        listed = [asdict(fault) for fault in faults]
        ignored = dict(data.ignored)
        print_json(
            {"examples": len(data.examples), "faults": listed, "ignored": ignored}
            | {"warnings": warnings}
        )
    else:
        for warning in warnings:
            say(("warning: ", "yellow"), warning)
        _tell_faults(faults, len(data.examples), data.ignored)
    raise SystemExit(1 if faults else 0)


def stats(
    file: FileArgument,
    tools: ToolsOption = None,
    base: BaseOption = None,
    declare: DeclareOption = False,
    allow_private: PrivateOption = False,
    json: JsonOption = False,
) -> None:
    """Count tools, phrasings, values and lengths, and say what is scarce."""
    require_used({"--declare": (declare, base is not None)}, "a run without --base")
    measure = None if base is None else _measure(_renderer(base, allow_private)[0], declare)
    found = stats_of(read_examples(file, tools=tools).require(), measure)
    if json:
        print_json(found.to_dict())
    else:
        _tell_stats(found)


def split(
    file: FileArgument,
    share: Annotated[float, option(help="How much of it is to test with.")] = 0.1,
    by: Annotated[
        SplitBy, option(help="What stays together: all examples of a phrasing, or a line.")
    ] = "phrasing",
    train: Annotated[
        Path | None, option(metavar="OUT", help="Where to [default: FILE's name.train.jsonl].")
    ] = None,
    test: Annotated[
        Path | None, option(metavar="OUT", help="Where to [default: FILE's name.eval.jsonl].")
    ] = None,
    tools: ToolsOption = None,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Divide data to train on and to test with, phrasings kept apart."""
    outputs = (
        train or file.with_name(f"{file.stem}.train.jsonl"),
        test or file.with_name(f"{file.stem}.eval.jsonl"),
    )
    _require_new(outputs, overwrite)
    examples = read_examples(file, tools=tools).require()
    halves = split_examples(examples, share, by=by, seed=seed)
    _write(outputs, halves, json)


def expand(
    file: Annotated[
        Path, argument(metavar="FILE", help="Examples, or a JSON file of templates and slots.")
    ],
    output: Annotated[Path, option("--output", "-o", metavar="OUT", help="A new file.")],
    count: Annotated[int, option("--count", "-n", least=1, help="How many to write.")] = 900,
    held_out: Annotated[
        Path | None,
        option(metavar="FILE", help="Examples whose phrasings are to stay unseen."),
    ] = None,
    test: Annotated[
        Path | None,
        option(metavar="OUT", help="Of templates: where held-out wordings and values go."),
    ] = None,
    test_count: Annotated[
        int | None, option(least=1, help="How many of those [default: 200].")
    ] = None,
    tools: ToolsOption = None,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Write more examples, from templates or by changing examples."""
    require_used({"--test-count": (test_count, test is not None)}, "a run without --test")
    outputs = (output,) if test is None else (output, test)
    _require_new(outputs, overwrite)
    if is_templates(file):
        if held_out is not None:
            raise ParameterError(
                "--held-out is for examples", hint='mark templates with "held_out": true'
            )
        templates = read_templates(file, tools=tools)
        tested = () if test is None else templates.test(test_count or TESTS, seed)
        _write(outputs, (templates.train(count, seed), tested), json)
        return
    if test is not None:
        raise ParameterError("--test is for templates", hint="use `lorakit data split` first")
    examples = read_examples(file, tools=tools).require()
    unseen = () if held_out is None else read_examples(held_out, tools=tools).require()
    phrasings = {example.phrasing for example in unseen}
    made = tuple(expand_examples(examples, count, seed, held_out=phrasings))
    _write(outputs, (made,), json)


COMMANDS = {"validate": validate, "stats": stats, "split": split, "expand": expand}


def _renderer(base: str, allow_private: bool) -> tuple[Renderer, int]:
    """What renders as training does; and the base's context."""
    from lorakit.training.render import Renderer  # loads a tokenizer

    opened = open_base(base, allow_private=allow_private)
    return Renderer.of(opened), opened.decoder.context


def _measure(renderer: Renderer, declare: bool) -> Callable[[Example], int]:
    """Counts an example's tokens as training renders it."""
    return lambda example: max(len(row.ids) for row in renderer.render(example, declare))


def _require_new(outputs: Sequence[Path], overwrite: bool) -> None:
    if len(set(outputs)) < len(outputs):
        raise ParameterError(f"both files would be {outputs[0]}", hint="name two")
    for path in outputs:
        require_free(path, "file", overwrite=overwrite)


def _write(outputs: Sequence[Path], parts: Sequence[Sequence[Example]], json: bool) -> None:
    written = {
        str(path): write_examples(path, part) for path, part in zip(outputs, parts, strict=False)
    }
    if json:
        print_json({"written": written})
        return
    for path, count in written.items():
        say(f"{path}: {_examples(count)}")


def _examples(count: int) -> str:
    return f"{count} example{'s' * (count != 1)}"


def _tell_faults(faults: Sequence[Fault], count: int, ignored: object) -> None:
    for fault in faults:
        say((f"{fault.place}: ", "bold"), fault.reason, (f"  [{fault.code}]", "dim"))
    if isinstance(ignored, dict) and ignored:
        keys = ", ".join(f"{key} ({rows} lines)" for key, rows in ignored.items())
        say("not read: ", keys)
    bad = len({fault.place for fault in faults})
    say(f"{_examples(count)}, " + (f"{bad} bad line{'s' * (bad > 1)}" if bad else "nothing wrong"))


def _tell_stats(found: Stats) -> None:
    rows = [(kind.name, str(kind.examples), str(kind.phrasings)) for kind in found.kinds]
    total = ("in all", str(found.examples), str(sum(kind.phrasings for kind in found.kinds)))
    print_table(("answered by", "examples", "phrasings"), rows, left=("answered by",), total=total)
    if found.values:
        say()
        values = [(name, str(count)) for name, count in found.values.items()]
        print_table(("argument", "values"), values, left=("argument",))
    say()
    for name, spread in (("words of a request", found.words), ("tokens", found.tokens)):
        if spread is not None:
            least, middle, most = spread
            say((f"{name}: ", "bold"), f"{least} to {most}, half of them up to {middle}")
    for line in found.advice:
        say(("advice: ", "yellow"), line)
