"""lorakit push: an export, an adapter or a model onto the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from lorakit.cli.downloads import Downloads
from lorakit.cli.output import note, patience, print_json, say, size
from lorakit.cli.references import JsonOption
from lorakit.cli.signature import argument, option
from lorakit.exporting.push import PushResult, push

SHOWN = 8  # names of a list


def command(
    folder: Annotated[
        Path, argument(metavar="FOLDER", help="What export, train or merge wrote; an adapter.")
    ],
    to: Annotated[
        str, argument(metavar="TO", help="hf:org/repo[@branch][/subfolder]; made where need be.")
    ],
    public: Annotated[
        bool, option("--public", help="Let all see a new repository [default: it is private].")
    ] = False,
    message: Annotated[str | None, option("--message", "-m", help="Of the commit.")] = None,
    base_model: Annotated[
        str | None,
        option(metavar="ORG/REPO", help="Where others find the base, if it is a path here."),
    ] = None,
    delete: Annotated[
        bool, option("--delete", help="Remove what is there and not in the folder.")
    ] = False,
    force: Annotated[
        bool,
        option(
            "--force",
            help="Also where files changed after they were measured, or seem to hold a secret.",
        ),
    ] = False,
    dry_run: Annotated[bool, option("--dry-run", help="Only say what would change.")] = False,
    json: JsonOption = False,
) -> None:
    """Publish a folder on the Hugging Face Hub: one commit, private unless you say otherwise.

    The token is that of HF_TOKEN or `hf auth login`. What breaks off changes nothing and goes on
    when it is pushed again.
    """
    sending = Downloads(tells=False)  # what was sent is said below
    with sending, patience("reading the files and asking the Hub ..."):
        result = push(
            folder,
            to,
            private=not public,
            message=message,
            base_model=base_model,
            delete=delete,
            force=force,
            dry_run=dry_run,
            planned=None if json else _plan,
            progress=sending,
        )
    if json:
        print_json({**result.to_dict(), "dry_run": dry_run})
        return
    if result.empty:
        say(f"{result.url} has all of it: nothing was sent")
    elif dry_run:
        say(f"{result.url}: nothing was sent, {size(result.nbytes)} would be")
    else:
        say(f"{result.url}: {size(result.nbytes)} sent, commit {result.commit}")


def _plan(plan: PushResult) -> None:
    """What is going to change, before it does."""
    seen = "private" if plan.private else "public"
    say(f"{plan.to}: {'a new repository' if plan.commit is None else 'it is there'}, {seen}")
    for mark, names in (("+", plan.added), ("~", plan.changed), ("-", plan.removed)):
        for name in names:
            say(f"  {mark} {name}")
    for what, names in (
        ("unchanged", plan.unchanged),
        ("there and not in the folder", plan.kept),
        ("not published", plan.left),
    ):
        if names:
            say(f"  {what}: {_some(names)}")
    for each in plan.notes:
        note(each.replace("delete=True", "--delete"))


def _some(names: tuple[str, ...]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
