"""Parameters read off signatures."""

import re
from pathlib import Path
from typing import Annotated, Literal

import pytest

from commands import invoke
from lorakit.cli.hints import in_flags
from lorakit.cli.signature import argument, call, option, parser_of
from lorakit.cli.table import functions
from lorakit.errors import LorakitError


def parsed(*words):
    found = {}

    def command(
        sources: Annotated[list[str], argument(metavar="REF[:WEIGHT]", help="50% of it.")],
        output: Annotated[Path, option("--output", "-o", metavar="OUT")],
        rank: int | None = None,
        share: Annotated[float, option(least=0, most=1, bare=1.0)] = 0.5,
        kind: Annotated[Literal["a", "b"] | None, option()] = None,
        names: Annotated[list[str] | None, option("--name", "-n")] = None,
        values: Annotated[bool | None, option("--values/--structure")] = None,
        as_json: Annotated[bool, option("--json", group="output")] = False,
    ) -> None:
        """Do it."""
        found.update(locals())

    call(command, "lorakit it", words)
    found.pop("found")
    return command, found


def test_words_become_values():
    _, found = parsed("x", "-oout", "--rank=3", "y:-0.5", "-n", "1", "--name", "2", "--json")
    assert found == {
        "sources": ["x", "y:-0.5"], "output": Path("out"), "rank": 3, "share": 0.5, "kind": None,
        "names": ["1", "2"], "values": None, "as_json": True,
    }  # fmt: skip
    assert parsed("x", "-o", "out", "--structure", "--kind", "b")[1]["values"] is False
    assert parsed("-o", "out", "--", "-x")[1]["sources"] == ["-x"]


def test_an_option_may_stand_without_its_value():
    command, found = parsed("x", "--share", "-o", "out")
    assert found["share"] == 1.0
    assert parsed("x", "-o", "out", "--share", "0.25")[1]["share"] == 0.25
    assert "--share [FLOAT]" in parser_of(command, "lorakit it").format_help()


def test_the_help_has_a_heading_for_each_group():
    command, _ = parsed("x", "-o", "out")
    before, _, after = parser_of(command, "lorakit it").format_help().partition("\noutput:\n")
    assert "--json" in after
    assert "--json" not in before
    assert "--share" in before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["x"], "-o"),
        (["-o", "out"], "REF[:WEIGHT]"),
        (["x", "-o", "out", "--rank", "1.5"], "'1.5' is not a whole number"),
        (["x", "-o", "out", "--share", "2"], "2 is not from 0 to 1"),
        (["x", "-o", "out", "--kind", "c"], "invalid choice: 'c'"),
        (["x", "-o", "out", "--ran", "1"], "unrecognized arguments: --ran"),
    ],
)
def test_wrong_words_end_with_2(words, said, capsys):
    with pytest.raises(SystemExit) as end:
        parsed(*words)
    assert end.value.code == 2
    assert said in capsys.readouterr().err


def test_help_names_what_is_required_and_the_defaults():
    command, _ = parsed("x", "-o", "out")
    text = parser_of(command, "lorakit it").format_help()
    for part in ("usage: lorakit it [OPTIONS] REF[:WEIGHT] ...", "50% of it.", "[required]",
                 "-o, --output OUT", "[default: 0.5]", "--kind a|b", "Do it."):  # fmt: skip
        assert part in text


def without_words(parser):
    """Options whose help is none, or a default and a range alone."""
    actions = parser._actions
    return [a.dest for a in actions if not re.sub(r"\[.*?\]", "", a.help or "").strip()]


@pytest.mark.parametrize(("words", "command"), list(functions()))
def test_every_option_has_words(words, command):
    assert without_words(parser_of(command, f"lorakit {words}")) == []


def test_an_option_without_words_would_be_found():
    command, _ = parsed("x", "-o", "out")
    assert "share" in without_words(parser_of(command, "lorakit it"))
    assert "sources" not in without_words(parser_of(command, "lorakit it"))


def test_commands_that_are_not_there():
    done = invoke("convrt")
    assert done.code == 2
    assert "did you mean convert" in done.stderr
    assert "did you mean" not in invoke("x").stderr
    assert invoke("cache", "lst").code == 2
    assert invoke("--nothing").code == 2
    for words in ([], ["cache"]):
        done = invoke(*words)
        assert done.code == 2
        assert "commands:" in done.stdout
    assert invoke("--version").stdout.strip()


@pytest.mark.parametrize(("hint", "expected"), [
    ("use rank=16, or more", "use --rank 16, or more"),
    ('leave it, or kind="a"', "leave it, or --kind a"),
    ("open it with rank=", "open it with --rank"),
    ("ask with as_json=True", "ask with --json"),
    ("as_json=False shows it", "no --json shows it"),
    ('engine="torch" has it', "--engine torch has it"),  # a flag of other commands
    ("max_batch=8 takes them", "max_batch=8 takes them"),  # a flag of none
    ("load it with load_adapter", "load it with -a"),
    ("give with_json=False, or no_values=True", "give with_json=False, or no_values=True"),
    ("--rank 8 is a=b", "--rank 8 is a=b"),
    ("choose one: rank='8'", "choose one: --rank 8"),
    ("choose one: base_model='a b'", "choose one: --base-model a b"),
    ("", ""),
])  # fmt: skip
def test_hints_speak_the_flags_of_the_command(hint, expected):
    command, _ = parsed("x", "-o", "out")

    def fails(
        rank: int | None = None,
        kind: Annotated[Literal["a", "b"] | None, option()] = None,
        as_json: Annotated[bool, option("--json", group="output")] = False,
    ) -> None:
        """Fail."""
        raise LorakitError("no", hint=hint)

    assert in_flags(hint, parser_of(command, "lorakit it")) == expected
    with pytest.raises(LorakitError) as caught:
        call(fails, "lorakit fails", [])
    assert caught.value.hint == expected


def test_brackets_are_text(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "[bold]x[/y]"))
    assert "[bold]x[/y]" in invoke("doctor").stdout
    assert "[v2]" in invoke("demo", "--export", tmp_path / "my [v2]").stdout
