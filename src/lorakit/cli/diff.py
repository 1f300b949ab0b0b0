"""lorakit diff: base against adapter, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Annotated

from lorakit.cli.answering import prompt_or_input
from lorakit.cli.bars import bar
from lorakit.cli.output import Styled, console, plain, print_json, say
from lorakit.cli.outputs import OverwriteOption
from lorakit.cli.pictures import PictureOption, require_picture
from lorakit.cli.progress import counted_bar
from lorakit.cli.reading import Reading
from lorakit.cli.references import (
    AdapterOption,
    BaseArgument,
    JsonOption,
    ToolsOption,
    read_tools,
)
from lorakit.cli.running import Running, open_with
from lorakit.cli.signature import argument, option
from lorakit.drawing.theme import mixed, on
from lorakit.effect.diff import MAX_TOKENS, Diff, DiffToken, diff
from lorakit.effect.pictures import names, percent, plot_diff, visible
from lorakit.errors import ParameterError

FAVOURITE = 72  # columns from which on there is room for what the base would have said
SHADE = 0.02  # share of the largest KL from which on a token is coloured


def command(
    base: BaseArgument,
    prompts: Annotated[
        list[str] | None,
        argument(
            metavar="PROMPT",
            help="What is asked, one or more; - reads standard input, and so does none in a pipe.",
        ),
    ] = None,
    adapter: AdapterOption = None,
    answer: Annotated[
        str | None,
        option(metavar="TEXT", help="Compare on this answer [default: what the adapters say]."),
    ] = None,
    raw: Annotated[
        bool, option("--raw", help="Continue the prompt itself, without the chat template.")
    ] = False,
    tools: ToolsOption = None,
    max_tokens: Annotated[int, option(least=1, help="Tokens of the answer.")] = MAX_TOKENS,
    output: PictureOption = None,
    overwrite: OverwriteOption = False,
    *,
    running: Running,
    reading: Reading,
    json: JsonOption = False,
) -> None:
    """Show what adapters change in an answer: probabilities and KL of every token."""
    if not adapter:
        raise ParameterError("there is no adapter to compare the base with", hint="name one: -a A")
    if raw and tools:
        raise ParameterError("--raw uses no chat template, which --tools needs")
    if output is not None and len(prompts or ()) > 1:
        raise ParameterError("--output draws the answer to one prompt", hint="give one prompt")
    if output is not None:
        require_picture(output, overwrite=overwrite)
    first = "the first word is the base, the next the prompt"
    prompts = [prompt_or_input(each, hint=first) for each in prompts or (None,)]
    schemas = read_tools(tools)
    with open_with(base, adapter, running, reading) as model:
        found = []
        with counted_bar("comparing") if len(prompts) > 1 else nullcontext() as progress:
            for number, prompt in enumerate(prompts):
                asked = model.encode(prompt) if raw else model.chat_prompt(
                    [{"role": "user", "content": prompt}], tools=schemas, tool_choice="free"
                )  # fmt: skip
                found.append(diff(model, asked, answer=answer, max_tokens=max_tokens))
                if progress is not None:
                    progress(number + 1, len(prompts), "comparing")
    if output is not None:
        plot_diff(found[0], title=f"“{prompts[0]}”").save(output, overwrite=overwrite)
    if json:
        pairs = zip(prompts, found, strict=True)
        print_json({"diffs": [{"prompt": text} | each.to_dict() for text, each in pairs]})
        return
    for number, (prompt, each) in enumerate(zip(prompts, found, strict=True)):
        if number:
            say()
        show(prompt, each)
    if output is not None:
        say(f"wrote {output}")


def show(prompt: str, found: Diff) -> None:
    """The two answers, then a row for each token of the compared one."""
    who = names(found.adapters)
    label = min(max(len("base"), len(plain(who))), 16) + 2
    say((f"“{prompt.strip()}”", "bold"))
    say((_cut("base", label - 1).ljust(label), "cyan"), found.base_answer or "(nothing)")
    if found.answer != found.adapted_answer:
        say((_cut(who, label - 1).ljust(label), "cyan"), found.adapted_answer or "(nothing)")
        say(("compared on  ", "cyan"), *_shaded(found.tokens))
    else:
        shaded = _shaded(_without_end(found)) or [("(nothing)", "")]
        say((_cut(who, label - 1).ljust(label), "cyan"), *shaded)
    say()
    _table(found.tokens, who, console().width)
    first = found.first_change
    apart = "" if first is None else f"; their favourites part at token {first + 1}"
    say(f"KL({who} || base): {found.kl:.3g} nats per token{apart}")


def _without_end(found: Diff) -> Sequence[DiffToken]:
    """The tokens of its text: the one that ended it is in the table alone, as of the base."""
    *said, _ = found.tokens
    return said if "".join(each.text for each in said) == found.answer else found.tokens


def _shaded(tokens: Sequence[DiffToken]) -> list[Styled]:
    """The answer itself, each token the redder the more it was changed."""
    most = max((each.kl for each in tokens), default=0.0)
    return [(each.text, _style(each.kl / most if most else 0.0)) for each in tokens]


def _style(share: float) -> str:
    if share < SHADE:
        return ""
    colour = mixed((250, 225, 230), (170, 30, 70), share)
    return f"{on(colour)} on rgb({colour[0]},{colour[1]},{colour[2]})"


def _table(tokens: Sequence[DiffToken], who: str, width: int) -> None:
    from rich.cells import cell_len, set_cell_size

    wide = width >= FAVOURITE
    texts = [visible(each.text) for each in tokens]
    token = min(max(map(cell_len, [*texts, "token"])), 22 if wide else 14)
    places, column = (1, 6) if wide else (0, 4)
    room = max(width - token - 2 * (column + 1) - 8 - 24 * wide, 3)
    most = max(each.kl for each in tokens)
    heads = f"{'token':<{token}} {'base':>{column}} {_cut(who, column):>{column}}  KL, nats"
    say((heads + f"{'':<{room - 1}}base's favourite" * wide, "bold"))
    for each, text in zip(tokens, texts, strict=True):
        share = each.kl / most if most else 0.0
        shares = [f" {percent(value, places):>{column}}" for value in (each.base, each.adapted)]
        token_, chance = each.base_best
        favourite = f" {_cut(visible(token_), 15):<15} {percent(chance):>6}"
        say(
            (set_cell_size(_cut(text, token), token), _style(share)),
            *shares,
            f" {each.kl:>5.2f}  ",
            *bar(share, room, "magenta"),
            (favourite * (wide and each.base_best_token != each.token), "dim"),
        )


def _cut(text: str, room: int) -> str:
    text = plain(text)
    return text if len(text) <= room else text[: room - 1] + "…"
