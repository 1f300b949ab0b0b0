"""lorakit diff and sweep, and what inspect shows, through the command line: wide, narrow, piped."""

import json
import re
import sys
from xml.etree import ElementTree

import pytest
from rich.cells import cell_len

from commands import in_colour, invoke
from laid_out import texts
from lorakit import demo
from lorakit.cli import output
from lorakit.cli.bars import bar
from lorakit.errors import FormatError, MissingExtraError, ParameterError, SourceError

BASE, HOME, SHOP = demo.base_path(), demo.adapter_path("home"), demo.adapter_path("shop")
LIGHTS = "turn the lights off in the kitchen"
TABLE = re.compile(r"^.{12,24} +[<>]?[\d.]+% +[<>]?[\d.]+% +[\d.]+  [█▏▎▍▌▋▊▉·]+", re.MULTILINE)


@pytest.fixture(params=[40, 80])
def width(request, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(request.param))
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    output.console.cache_clear()
    yield request.param
    output.console.cache_clear()


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text(f"{LIGHTS}\n\nhello\n")
    return path


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "eval.jsonl"
    rows = [
        {"messages": [*case.messages, {"role": "assistant", "content": "Sorry"}]}
        for case in demo.examples("home", "phrasings")[:4]
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def lorakit(*arguments, code=0, typed=""):
    done = invoke(*arguments, typed=typed)
    assert done.code == code, done
    return done.stdout


def bars_of(text):
    return [line for line in text.splitlines() if "·" in line or "█" in line]


def test_a_diff_is_legible_without_colour(width):
    said = lorakit("diff", BASE, "-a", HOME, LIGHTS)
    assert "\x1b" not in said
    assert said.startswith(f"“{LIGHTS}”\nbase  Sorry, I have no tool for that.\nhome  <start_fun")
    assert "<end_of_turn>" not in said.partition("token ")[0], "as the base's answer is shown"
    assert lorakit("diff", BASE, "-a", HOME, "-", typed=LIGHTS) == said
    rows = TABLE.findall(said)
    assert len(rows) == 24
    assert all(cell_len(row) <= width for row in rows)
    (lights,) = (line for line in said.splitlines() if line.startswith("lights "))
    assert ("<1%" if width == 40 else "<0.1%") in lights
    assert "█" in lights
    assert ("alarm" in lights) == (width == 80)
    assert "KL(home || base): 7.0" in said
    assert said.rstrip().endswith("their favourites part at token 1")


def test_colour_follows_the_terminal_and_no_color(monkeypatch, width):
    in_colour(monkeypatch)
    output.console.cache_clear()
    coloured = lorakit("diff", BASE, "-a", HOME, LIGHTS, "--max-tokens", "3")
    assert "\x1b[38;2" in coloured
    assert "48;2;170;30;70m" in coloured  # the token of the largest KL
    monkeypatch.setenv("NO_COLOR", "1")
    output.console.cache_clear()
    plain = lorakit("diff", BASE, "-a", HOME, LIGHTS, "--max-tokens", "3")
    assert "48;2" not in plain
    assert "Sorry" in plain


def test_several_prompts_and_json():
    said = json.loads(lorakit("diff", BASE, "-a", f"{HOME}:0.5", LIGHTS, "hello", "--json"))
    first, second = said["diffs"]
    assert first["prompt"] == LIGHTS
    assert first["adapters"] == {"home": 0.5}
    assert second["kl"] < 0.1 < first["kl"]
    assert len(second["tokens"][0]["base_best"]) == 2


def test_a_sweep_of_prompts(width, prompts):
    said = lorakit("sweep", BASE, "-a", HOME, "--prompts", prompts)
    assert "\x1b" not in said
    rows = bars_of(said)
    assert [float(row.split()[0]) for row in rows] == [n / 4 for n in range(9)]
    assert all(cell_len(row) <= width for row in rows)
    assert rows[0].split()[-1] == "3.96"
    assert f"“{LIGHTS}”" in said
    assert re.search(r"\n  0 to 0.25 *\s+Sorry, I have no tool for that.\n", said)
    assert "from token 1: Sorry -> <start_function_call>" in said
    assert "“hello”" in said


def test_prompts_as_words_are_those_of_a_file_and_a_pipe(prompts):
    few = ("-a", HOME, "--max-tokens", 4, "--json")
    sweep = ("sweep", BASE, "--scales", "0,1", *few)
    assert lorakit(*sweep, LIGHTS, "hello") == lorakit(*sweep, "--prompts", prompts)
    said = lorakit("diff", BASE, *few[:-1], typed="hello\n")
    assert said == lorakit("diff", BASE, *few[:-1], "hello")
    assert said.startswith("“hello”\n")
    assert "no PROMPT" in invoke("diff", BASE, *few).error.message


def test_a_sweep_of_examples(width, data):
    said = lorakit("sweep", BASE, "-a", HOME, "--eval", data, "--scales", "0:1:0.5")
    rows = bars_of(said)
    assert [row.split()[0] for row in rows] == ["0", "0.5", "1"]
    assert all(cell_len(row) <= width for row in rows)
    assert "no scale of 3 is better than the others here (0.0% of " in said
    data.write_text(data.read_text().replace('"Sorry"', '"Sorry, I have no tool for that."'))
    said = lorakit("sweep", BASE, "-a", HOME, "--eval", data, "--scales", "0:1:0.5")
    assert "best scale of 3 here: 0.5 (100.0% of 4" in said


def test_a_sweep_reads_data_files_and_says_json(data):
    said = json.loads(
        lorakit("sweep", BASE, "-a", HOME, "--prompts", data, "--scales", "0,1", "--json",
                "--max-tokens", "4")
    )  # fmt: skip
    assert len(said["prompts"]) == 4
    assert [p["scale"] for p in said["points"]] == [0, 1]
    assert said["points"][0]["kl_base"] == 0
    said = json.loads(
        lorakit("sweep", BASE, "-a", HOME, "--eval", data, "--scales", "0,1", "--json")
    )
    assert {"best_scale", "points", "adapters"} == set(said)


def test_tools_are_declared_for_calls_and_in_prompts(tmp_path, prompts):
    called = {"name": "set_lights", "arguments": {"room": "kitchen", "state": "off"}}
    kinds = {"room": {"type": "string"}, "state": {"type": "string"}}
    tool = {"name": "set_lights", "parameters": {"type": "object", "properties": kinds}}
    (tmp_path / "calls.jsonl").write_text(json.dumps({"request": LIGHTS, "call": called}))
    (tmp_path / "declared.json").write_text(json.dumps([{"type": "function", "function": tool}]))
    words = ("sweep", BASE, "-a", HOME, "--scales", "0,1", "--json")
    asked = ("--eval", tmp_path / "calls.jsonl")
    assert isinstance(invoke(*words, *asked).error, FormatError)
    given = ("--tools", tmp_path / "declared.json")
    found = json.loads(lorakit(*words, *asked, *given))
    assert [point["score"] for point in found["points"]] == [0, 1]
    bare, declared = (
        json.loads(lorakit(*words, "--prompts", prompts, *more))["points"][1]["kl_base"]
        for more in ((), given)
    )
    assert bare != pytest.approx(declared, rel=0.01)  # the prompt is another


def test_charts_are_drawn(tmp_path, prompts, data):
    for name, words in (
        ("diff", ("diff", BASE, "-a", HOME, LIGHTS)),
        ("prompts", ("sweep", BASE, "-a", HOME, "--prompts", prompts, "--scales", "0,1")),
        ("eval", ("sweep", BASE, "-a", HOME, "--eval", data, "--scales", "0,1")),
        ("ranks", ("inspect", HOME, "--ranks")),
        ("overlap", ("inspect", HOME, "--overlap", SHOP)),
        ("report", ("inspect", HOME, "-b", BASE)),
    ):
        path = tmp_path / f"{name}.svg"
        option = "--plot" if words[0] == "inspect" else "-o"
        assert f"wrote {path}" in lorakit(*words, option, path)
        assert texts(path.read_text("utf-8"))
        assert isinstance(invoke(*words, option, path).error, ParameterError)
        lorakit(*words, option, path, "--overwrite")
    ElementTree.parse(tmp_path / "diff.svg")


def test_what_is_wrong_is_said_before_a_model_is_opened(tmp_path, prompts, data, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a model was opened")

    monkeypatch.setattr("lorakit.model.open.open", refuse)
    empty = tmp_path / "empty.txt"
    empty.write_text("\n \n")
    sweep = ("sweep", BASE, "-a", HOME)
    for words, error in (
        (("diff", BASE, LIGHTS), ParameterError),
        (("diff", BASE, "-a", HOME, LIGHTS, "-o", tmp_path / "x.pdf"), ParameterError),
        (("diff", BASE, "-a", HOME, LIGHTS, "hello", "-o", tmp_path / "x.svg"), ParameterError),
        (sweep, ParameterError),
        ((*sweep, "--prompts", prompts, "--eval", data), ParameterError),
        ((*sweep, LIGHTS, "--prompts", prompts), ParameterError),
        ((*sweep, LIGHTS, "--eval", data), ParameterError),
        ((*sweep, "--prompts", prompts, "--scales", "x"), ParameterError),
        ((*sweep, "--prompts", empty), FormatError),
        ((*sweep, "--prompts", tmp_path / "none.txt"), SourceError),
        (("sweep", BASE, "--prompts", prompts), ParameterError),
    ):
        assert isinstance(invoke(*words).error, error), words


def test_inspect_shows_the_summary_and_the_strength_first(width):
    lines = lorakit("inspect", HOME, "-b", BASE).splitlines()
    heads = [line.split()[0] for line in lines if line.strip()]
    assert heads[:4] == ["format", "base", "modules", "ranks"]
    assert heads.index("layer") < heads.index("metadata") == len(heads) - 1
    assert not any(line.startswith("model.layers.") for line in lines)
    assert any(line.startswith("strength") and "%" in line for line in lines)
    tables = lorakit("inspect", HOME, "-b", BASE, "--modules")
    assert tables.count("\nmodel.layers.") == 42
    assert "of W" in tables
    assert "of W" not in lorakit("inspect", HOME, "--modules")


def test_inspect_shows_ranks(width):
    said = lorakit("inspect", HOME, "--ranks")
    rows = bars_of(said)
    assert [row.split()[0] for row in rows] == [str(n) for n in range(1, 9)]
    assert all(cell_len(row) <= width for row in rows)
    assert "0.9 of the squares: rank 4" in said
    found = json.loads(lorakit("inspect", HOME, "--ranks", "--json"))
    assert found["points"][0]["residual"] == pytest.approx(0.6745, abs=1e-4)


def test_inspect_shows_overlap():
    said = lorakit("inspect", HOME, "--overlap", SHOP)
    assert "cosine      +0.023  nearly orthogonal" in said
    assert "0.114 by chance" in said
    assert "and 34 more modules" in said
    found = json.loads(lorakit("inspect", HOME, "--overlap", HOME, "--json"))
    assert found["cosine"] == pytest.approx(1)
    assert len(found["modules"][0]["angles_inputs"]) == 8
    for words in (("--ranks",), ("--spectrum",), ("--structure",)):
        error = invoke("inspect", HOME, "--overlap", SHOP, *words).error
        assert isinstance(error, ParameterError)


def test_png_needs_what_draws_it_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for words in (
        ("inspect", tmp_path / "none", "--ranks", "--plot", tmp_path / "x.png"),
        ("diff", tmp_path / "none", "-a", HOME, LIGHTS, "-o", tmp_path / "x.png"),
    ):
        error = invoke(*words).error
        assert isinstance(error, MissingExtraError)
        assert "lorakit[plot]" in error.hint


@pytest.mark.parametrize(
    ("share", "filled"),
    [(0, ""), (1e-6, ""), (0.1, "▊"), (0.5, "████"), (1, "████████"), (7, "████████"), (-1, ""),
     (float("nan"), ""), (float("inf"), "")],
)  # fmt: skip
def test_a_bar_has_its_width(share, filled):
    (text, style), (track, _) = bar(share, 8, "blue")
    assert (text, style) == (filled, "blue")
    assert len(text + track) == 8
