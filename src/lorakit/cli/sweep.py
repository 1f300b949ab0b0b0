"""lorakit sweep: what becomes of answers as the scale of adapters changes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from lorakit.chat.messages import Message
from lorakit.cli.bars import bar
from lorakit.cli.output import Styled, console, print_json, say
from lorakit.cli.outputs import OverwriteOption
from lorakit.cli.pictures import PictureOption, require_picture
from lorakit.cli.progress import counted_bar
from lorakit.cli.reading import Reading
from lorakit.cli.references import (
    AdapterOption,
    BaseArgument,
    JsonOption,
    read_tools,
)
from lorakit.cli.running import Running, open_with
from lorakit.cli.signature import argument, option
from lorakit.effect.pictures import names, plot_examples, plot_sweep, visible
from lorakit.effect.sweep import (
    MAX_TOKENS,
    SCALES,
    ExampleSweep,
    OnDone,
    ScaleAnswer,
    Sweep,
    sweep,
    sweep_examples,
)
from lorakit.errors import FormatError, ParameterError
from lorakit.files.bounded import read_text
from lorakit.training.data import Example, read_examples
from lorakit.training.evaluate.contestants import parse_scales
from lorakit.training.evaluate.evaluation import perplexity_text
from lorakit.training.evaluate.outcome import asked
from lorakit.training.evaluate.statistics import Share

if TYPE_CHECKING:
    from lorakit.model.model import Model
    from lorakit.model.types import Prompt

SHOWN = 8  # prompts whose answers are shown
NARROW = 60  # columns below which an answer stands below its scales
DATA = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


def command(
    base: BaseArgument,
    texts: Annotated[
        list[str] | None,
        argument(metavar="PROMPT", help="What is asked, one or more; or --prompts, or --eval."),
    ] = None,
    adapter: AdapterOption = None,
    prompts: Annotated[
        Path | None,
        option(metavar="FILE", help="Prompts, one a line, or examples of any data file."),
    ] = None,
    data: Annotated[
        list[Path] | None,
        option("--eval", metavar="FILE", help="Examples with their answers; may be repeated."),
    ] = None,
    tools: Annotated[
        Path | None,
        option(
            metavar="FILE",
            help="Declarations: in the prompts, and for the calls of --eval "
            "[default: tools.json beside it].",
        ),
    ] = None,
    scales: Annotated[
        str | None,
        option(
            metavar="FROM:TO:STEP",
            help="Multiples of the adapters' scales, or some such as 0.5,1. [default: 0:2:0.25]",
        ),
    ] = None,
    max_tokens: Annotated[
        int, option(least=1, help="Tokens of an answer to a prompt.")
    ] = MAX_TOKENS,
    output: PictureOption = None,
    overwrite: OverwriteOption = False,
    *,
    running: Running,
    reading: Reading,
    json: JsonOption = False,
) -> None:
    """Run prompts or examples at many scales of the adapters at once, and chart the outcome."""
    if not adapter:
        raise ParameterError("there is no adapter whose scale could change", hint="name one: -a A")
    if [bool(texts), prompts is not None, data is not None].count(True) != 1:
        raise ParameterError(
            "say what is run at each scale: PROMPTs, --prompts FILE or --eval FILE, one of them"
        )
    steps = tuple(parse_scales(scales)) if scales else SCALES
    if output is not None:
        require_picture(output, overwrite=overwrite)
    schemas = read_tools(tools) if data is None else None
    said = _read(prompts) if prompts is not None else list[Asked](texts or ())
    examples = [each for path in data or () for each in read_examples(path, tools=tools).require()]
    with (
        open_with(base, adapter, running, reading) as model,
        ExitStack() as stack,
    ):
        progress = _bar(stack)
        found: Sweep | ExampleSweep
        if data is None:
            rendered = [_rendered(model, each, schemas) for each in said]
            found = sweep(model, rendered, scales=steps, max_tokens=max_tokens, progress=progress)
        else:
            found = sweep_examples(model, examples, scales=steps, progress=progress)
    if output is not None:
        drawn = plot_sweep(found) if isinstance(found, Sweep) else plot_examples(found)
        drawn.save(output, overwrite=overwrite)
    labels = [_label(each) for each in said]
    if json:
        print_json({"prompts": labels} | found.to_dict() if labels else found.to_dict())
        return
    if isinstance(found, Sweep):
        show_prompts(labels, found)
    else:
        show_examples(found)
    if output is not None:
        say(f"wrote {output}")


def _bar(stack: ExitStack) -> OnDone:
    move = stack.enter_context(counted_bar("sweeping"))
    return lambda done, total: move(done, total, "sweeping")


Asked = str | Example


def _read(path: Path) -> list[Asked]:
    """Lines of a text, or the examples of a data file. Raises FormatError where there is none."""
    if path.suffix.lower() in DATA:
        return list(read_examples(path).require())
    found: list[Asked] = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not found:
        raise FormatError(f"{path} holds no prompt", hint="write one a line")
    return found


def _rendered(model: Model, each: Asked, tools: list[dict[str, Any]] | None) -> Prompt:
    """Free of constraints: what the adapter makes of the model is measured."""
    if isinstance(each, str):
        messages: Sequence[Message] = [{"role": "user", "content": each}]
    elif each.messages:
        messages = each.messages[:-1]
    else:
        return each.prompt
    return model.chat_prompt(messages, tools=tools, tool_choice="free")


def _label(each: Asked) -> str:
    return each if isinstance(each, str) else asked(each)


# For people.


def show_prompts(texts: Sequence[str], found: Sweep) -> None:
    """KL by scale as bars, then each prompt with its answers, equal neighbours together."""
    most = max(value for p in found.points for value in (p.kl_base, p.kl_full))
    room = max((console().width - 8 - 2 * 8) // 2, 3)
    say((f"{names(found.adapters)} over scales, KL in nats", "bold"))
    say((f"{'scale':>6}  {'from the base':<{room + 8}}from scale 1", "dim"))
    for point in found.points:
        cells: list[str | Styled] = []
        for value, style in ((point.kl_base, "blue"), (point.kl_full, "yellow")):
            cells += [*bar(value / most if most else 0.0, room, style), f" {value:5.2f}", "  "]
        say(f"{point.scale:>6g}  ", *cells[:-1])
    for number, text in enumerate(texts[:SHOWN]):
        say()
        say((f"“{text}”", "bold"))
        answers = [(point.scale, point.answers[number]) for point in found.points]
        for _, group in groupby(answers, key=lambda pair: pair[1].text):
            together = list(group)
            _answer([scale for scale, _ in together], together[0][1])
    if len(texts) > SHOWN:
        say()
        say((f"and {len(texts) - SHOWN} more prompts (all of it: --json)", "dim"))


def _answer(scales: Sequence[float], answer: ScaleAnswer) -> None:
    span = f"{scales[0]:g}" + (f" to {scales[-1]:g}" if len(scales) > 1 else "")
    if console().width < NARROW:
        say((f"  {span}", "cyan"))
        indent = "    "
        say(indent, answer.text or "(nothing)")
    else:
        indent = " " * 15
        say((f"  {span:<13}", "cyan"), answer.text or "(nothing)")
    if answer.changed is not None:
        was, now = (visible(token) or "(the end)" for token in (answer.was, answer.now))
        say((f"{indent}from token {answer.changed + 1}: {was} -> {now}", "dim"))


def show_examples(found: ExampleSweep) -> None:
    """Right answers, or perplexity, by scale as bars, for each file; then the best scale."""
    first = found.points[0][1]
    best, evaluation = found.best
    if first.by_perplexity:
        _perplexities(found)
    else:
        files = [*first.by_file] if len(first.by_file) > 1 else [""]
        for file in files:
            shares = [(s, each.by_file[file] if file else each.exact) for s, each in found.points]
            _shares(f"{names(found.adapters)} over scales{': ' * bool(file)}{file}", shares, best)
            say()
    count, said = len(found.points), evaluation.headline
    if len({each.goal for _, each in found.points}) == 1:
        say((f"no scale of {count} is better than the others here ({said})", "bold"))
    else:
        say((f"best scale of {count} here: {best:g} ({said})", "bold"))
        say("chosen on these very examples it looks a little better than it is")


def _shares(title: str, shares: Sequence[tuple[float, Share]], best: float) -> None:
    say((title, "bold"))
    room = max(console().width - 8 - 18, 5)
    say((f"{'scale':>6}  {'right answers':<{room}}           95%", "dim"))
    for scale, share in shares:
        interval = f"{share.low * 100:.0f}-{share.high:.0%}"
        style = "green" if scale == best else "blue"
        cells = bar(share.share, room, style)
        say(f"{scale:>6g}  ", *cells, f" {share.share:>6.1%}", (f" {interval:>9}", "dim"))


def _perplexities(found: ExampleSweep) -> None:
    values = [(scale, each.perplexity) for scale, each in found.points]
    most = max(value or 0.0 for _, value in values)
    room = max(console().width - 8 - 8, 5)
    say((f"{names(found.adapters)} over scales: perplexity, lower is better", "bold"))
    for scale, value in values:
        cells = bar((value or 0.0) / most if most else 0.0, room, "blue")
        say(f"{scale:>6g}  ", *cells, f" {perplexity_text(value):>7}")
