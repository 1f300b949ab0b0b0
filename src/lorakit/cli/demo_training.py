"""lorakit demo --train: an adapter trained in front of the user."""

from __future__ import annotations

from pathlib import Path

from lorakit import demo
from lorakit.cli.demo import shown, title
from lorakit.cli.output import command_line, console, print_json, say
from lorakit.cli.outputs import require_free
from lorakit.cli.training_run import as_json, run, show_verdict, show_written
from lorakit.demo.lesson import SETTINGS, answers, requests
from lorakit.files.atomic import spare_folder

NARROW = 100  # columns below which an answer stands below its request


def tell_training(output: Path | None, *, overwrite: bool, json: bool) -> None:
    """Train, and show the same requests before and after. output: where the adapter stays."""
    if output is not None:
        require_free(output, "adapter", overwrite=overwrite)
    with spare_folder() as temporary:
        target = temporary / "car" if output is None else output
        asked = requests()
        before = answers(asked)
        if not json:
            _tell_before(before)
        result = run(
            str(demo.base_path()),
            demo.training_path("train"),
            target,
            eval=demo.training_path("eval"),
            overwrite=overwrite,
            **SETTINGS,
        )
        after = answers(asked, result.path)
        if json:
            told = {text: {"base": before[text], "car": after[text]} for text in asked}
            print_json({**as_json(result, {}), "requests": told})
            return
        show_verdict(result)
        _tell_after(after)
        if output is not None:
            show_written(result, str(demo.base_path()), output, {})
        else:
            say("keep it next time: ", command_line("lorakit", "demo", "--train", "-o", "car"))


def _tell_before(answered: dict[str, str]) -> None:
    title("1. A base that has never heard of a car's tools")
    _tell_answers(answered)
    say()
    title("2. It learns five of them from 900 examples", " (on this machine, live)")


def _tell_after(answered: dict[str, str]) -> None:
    say()
    title("3. The same requests with the adapter", " (no tool declared in the prompt)")
    _tell_answers(answered)
    say()


def _tell_answers(answered: dict[str, str]) -> None:
    width = max(map(len, answered))
    for request, answer in answered.items():
        if console().width < NARROW:
            say((f"  {request}", "cyan"))
            say("    ", shown(answer))
        else:
            say((f"  {request:<{width}}  ", "cyan"), shown(answer))
