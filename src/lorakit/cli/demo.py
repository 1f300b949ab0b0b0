"""lorakit demo: the story of the package, offline, from live runs."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any

from lorakit import demo
from lorakit.cli.bars import bar
from lorakit.cli.output import command_line, console, print_json, say, say_folded, size
from lorakit.cli.outputs import OverwriteOption, written
from lorakit.cli.progress import counted_bar
from lorakit.cli.references import JsonOption
from lorakit.cli.signature import option
from lorakit.cli.usage import require_used
from lorakit.demo import story
from lorakit.errors import ParameterError
from lorakit.model.model import Model
from lorakit.model.open import open as open_model

FULL = 54  # columns of the widest line but answers
NARROW = 65  # columns below which an answer stands below who gives it
BAR = 24  # characters of a full bar
PORT = 8760
EXAMPLES = 40  # of each kind at each scale


def command(
    export: Annotated[
        Path | None,
        option(
            metavar="DIR",
            help="Write the base, adapters and data as folders, unless they are there, and stop.",
        ),
    ] = None,
    train: Annotated[
        bool, option("--train", help="Train an adapter, in front of you: a car's five tools.")
    ] = False,
    output: Annotated[
        Path | None,
        option(
            "--output",
            "-o",
            metavar="OUT",
            help="With --train: keep the adapter there. With --browser: write the site there.",
        ),
    ] = None,
    browser: Annotated[
        bool, option("--browser", help="Serve a page that runs the demo, and open it.")
    ] = False,
    serve: Annotated[
        list[Path] | None,
        option(
            metavar="FOLDER",
            help="With --browser: an export or an adapter of yours, or a folder of them, to be "
            "opened in the page; may be repeated.",
        ),
    ] = None,
    port: Annotated[
        int | None,
        option(least=0, most=65535, help="Of the page; 0: any free one [default: 8760]."),
    ] = None,
    show: Annotated[
        bool | None, option("--open/--no-open", help="With --browser: open it in the browser.")
    ] = None,
    examples: Annotated[
        int | None,
        option(least=1, most=100, help="Examples of each kind at each scale [default: 40]."),
    ] = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Show what lorakit does: adapters mixed, rescaled and swapped on a tiny real model."""
    _refuse_contradictions(export=export, train=train, browser=browser, output=output, serve=serve)
    page, told = browser and output is None, not (export or browser or train)
    used = {
        "--port": (port, page),
        "--open, --no-open": (show, page),
        "--examples": (examples, told),
    }
    require_used(used | {"--json": (json, told or train)}, "this demo")
    if export is not None:
        _export(export, overwrite=overwrite)
        return
    if browser:
        from lorakit.cli import demo_browser  # exporting is slow to import

        own = serve or []
        if output is not None:
            demo_browser.write(output, own, overwrite=overwrite)
        else:
            demo_browser.serve(PORT if port is None else port, own, show=show is not False)
        return
    if train:
        from lorakit.cli.demo_training import tell_training  # slow, as torch is

        tell_training(output, overwrite=overwrite, json=json)
        return
    begin = time.perf_counter()
    with open_model(demo.base_path()) as model:
        for name in demo.ADAPTERS:
            model.load_adapter(demo.adapter_path(name))
        opened = time.perf_counter() - begin
        if json:
            print_json({"open_seconds": opened, **_run(model, examples or EXAMPLES)})
        else:
            _tell(model, opened, examples or EXAMPLES)


def _export(folder: Path, *, overwrite: bool) -> None:
    """Write the demo, or say that it is there already: pages begin with that, each of them."""
    try:
        with written(folder, "demo", overwrite=overwrite) as place:
            files = [path.relative_to(place) for path in demo.export(place)]
    except ParameterError as error:
        if overwrite or not folder.is_dir():
            raise
        if different := demo.difference(folder):
            error.message = f"{folder} exists and is not this demo: {different}"
            raise
        say(f"{folder} is here already")
    else:
        for path in files:
            say((str(folder / path), "dim"))
    words = [str(folder / "base"), "-a", str(folder / "adapters/home"), "turn the lights off"]
    say("try: ", command_line("lorakit", "run", *words))


def _refuse_contradictions(
    *,
    export: Path | None,
    train: bool,
    browser: bool,
    output: Path | None,
    serve: list[Path] | None,
) -> None:
    chosen = {"--export": export is not None, "--train": train, "--browser": browser}
    demos = [name for name, is_chosen in chosen.items() if is_chosen]
    if len(demos) > 1:
        raise ParameterError(f"{' and '.join(demos)} are different demos", hint="choose one")
    if output is not None and not (train or browser):
        raise ParameterError(
            "--output is for what --train or --browser makes", hint="add --train or --browser"
        )
    if serve is not None and not browser:
        raise ParameterError("--serve is for the page of --browser", hint="add --browser")


def _run(model: Model, count: int) -> dict[str, Any]:
    return {
        "requests": story.compare(model),
        "sweep": [dataclasses.asdict(step) for step in story.sweep(model, "home", count)],
        "mixed_batch": dataclasses.asdict(story.mixed_batch(model, rows=16)),
        "swap": dataclasses.asdict(story.swap(model, "hello", "style", after=3)),
    }


def _tell(model: Model, opened: float, count: int) -> None:
    bytes_loaded = sum(info.nbytes for info in model.adapters)
    say_folded(
        f"A {size(model.base.nbytes)} base that calls tools, and {len(model.adapters)} adapters "
        f"({size(bytes_loaded)}), opened in {opened:.1f} s. All below runs live."
    )
    say()
    _tell_comparison(story.compare(model))
    title("2. One adapter, many scales", " (exact match on held-out requests)")
    with counted_bar("answering") as bar_:
        steps = story.sweep(model, "home", count, lambda n, total: bar_(n, total, "answering"))
    _tell_sweep(steps)
    _tell_batch(story.mixed_batch(model, rows=16))
    _tell_swap(story.swap(model, "hello", "style", after=3))


def title(text: str, rest: str = "") -> None:
    """The head of a part, what is said beside it below it where there is no room."""
    if len(text + rest) > console().width:
        say_folded(text, "bold")
        if rest:
            say_folded(f" {rest}")
    else:
        say((text, "bold"), rest)


def _tell_comparison(table: dict[str, dict[str, str]]) -> None:
    title("1. The same requests, other adapters", " (one batch, mixed rows)")
    for request, answers in table.items():
        say(f"  “{request}”")
        for setting, answer in answers.items():
            if console().width < NARROW:
                say((f"    {setting}", "cyan"))
                say("      ", shown(answer))
            else:
                say((f"    {setting:<14}", "cyan"), shown(answer))
    say()


def _tell_sweep(steps: list[story.SweepStep]) -> None:
    room = min(max((console().width - 9 - 2 * 7) // 2, 3), BAR)
    say(f" home at {'home requests':<{room + 7}}base's tools")
    for step in steps:
        say(
            f"{step.scale:>8g} ",
            *bar(step.own, room, "green"),
            f" {step.own:4.0%}  ",
            *bar(step.base, room, "blue"),
            f" {step.base:4.0%}",
        )
    say()


def _tell_batch(result: story.MixedBatch) -> None:
    together = result.tokens / result.together_seconds
    single = result.tokens / result.one_by_one_seconds
    title(f"3. One batch, {result.adapter_sets} different adapter sets")
    say(f"  together         {together:7.0f} tokens/s")
    slower = f"({together / single:.1f}x slower)"
    narrow = console().width < FULL
    say(f"  one after another{single:7.0f} tokens/s", "" if narrow else f"   {slower}")
    if narrow:
        say(f"    {slower}")
    say(f"  same text: {'yes' if result.same_text else 'NO'}")
    say()


def _tell_swap(result: story.Swap) -> None:
    title("4. A swap in mid-stream", f": “{result.request}”")
    if console().width < FULL:
        for name, text in result.parts:
            say("  ", (f"[{name}] ", "cyan"), (text, "yellow" if name != "base" else ""))
        say(("  without the swap:", "dim"))
        say((f"    {result.unswapped}", "dim"))
        return
    parts = [
        part
        for name, text in result.parts
        for part in ((f"[{name}] ", "cyan"), (text + " ", "yellow" if name != "base" else ""))
    ]
    say("  ", *parts)
    say((f"  without the swap: {result.unswapped}", "dim"))


def shown(answer: str) -> str:
    """A tool call without its control tokens, for reading."""
    for token in ("<start_function_call>", "<end_function_call>"):
        answer = answer.replace(token, " ")
    return answer.replace("<escape>", "'").strip()
