"""Whatever a value holds, a command prints it as it is: brackets, emoji codes, long paths.

Every command prints paths, names and errors that hold what rich would take for markup, into a
narrow pipe and onto a terminal of eighty columns; each value must stand there whole, to be copied.
"""

import ast
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.progress import Progress

from commands import in_colour, invoke
from folders import DATA
from lorakit import demo, read_adapter
from lorakit.adapter import Replacement
from lorakit.cli import COMMANDS, output
from lorakit.cli.progress import bars, counted_bar
from lorakit.errors import LorakitError
from lorakit.formats.peft import write_peft

CLI = Path(output.__file__).parent
VALUE = "[x] [bold]b" + ("" if os.name == "nt" else " :smile:")  # no colon in names there
CLOSING = "[" + os.sep + "x]"  # on POSIX a closing tag, over two folders
LONG = "long" * (5 if os.name == "nt" else 20)  # a path has 260 characters there
LIGHTS = "turn the lights off [x] [/x] [bold]b"
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture(params=["pipe", "terminal"])
def shown(request, monkeypatch):
    """Runs a command line; its output and its error as one text, without colours."""
    monkeypatch.setenv("COLUMNS", "80" if request.param == "terminal" else "20")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    if request.param == "terminal":
        in_colour(monkeypatch)
    output.console.cache_clear()

    def run(*arguments, typed=""):
        done = invoke(*arguments, typed=typed)
        if request.param == "pipe":
            assert "\x1b" not in done.stdout
        error = output.error_line(done.error) if done.error else ""
        return ANSI.sub("", f"{done.stdout}\n{done.stderr}\n{error}")

    yield run
    output.console.cache_clear()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A base and adapters in a folder of a long name that looks like markup."""
    folder = tmp_path_factory.mktemp("place") / LONG / f"{VALUE} {CLOSING}"
    shutil.copytree(demo.base_path(), folder / f"base {VALUE}")
    shutil.copytree(demo.adapter_path("home"), folder / f"home {VALUE}")
    home = read_adapter(demo.adapter_path("home"))
    named = [replace(d, module=f"{d.module}.{VALUE}") for d in home.deltas[:1]]
    in_layer = [replace(d, module=f"{d.module}{VALUE}") for d in home.deltas[1:2]]
    norm = Replacement(name="model.norm.weight", value=np.ones(96, np.float32))
    write_peft(replace(home, deltas=(*named, *in_layer, *home.deltas[2:])), folder / f"odd {VALUE}")
    write_peft(replace(home, replacements=(norm,)), folder / f"norm {VALUE}")
    return folder


def odd_modules(path):
    return [module for module in read_adapter(path).modules if VALUE in module]


@pytest.fixture
def base(place):
    return place / f"base {VALUE}"


@pytest.fixture
def home(place):
    return place / f"home {VALUE}"


@pytest.fixture
def odd(place):
    return place / f"odd {VALUE}"


@pytest.fixture
def out(tmp_path):
    """A new place to write to, in a folder that is there."""
    folder = tmp_path / LONG / f"{VALUE} {CLOSING}"
    folder.mkdir(parents=True)
    return folder / f"out {VALUE}"


def test_demo(shown, out):
    said = shown("demo", "--export", out)
    for name in ("base", "adapters/home/adapter_config.json"):
        assert str(out / name) in said
    assert str(out) in shown("demo", "--export", out)  # there already: an error


def test_run(shown, base, home, place):
    assert "calendar" not in shown("run", base, "-a", home, LIGHTS, "--max-tokens", "4")
    missing = place / f"none {VALUE}"
    assert str(missing) in shown("run", missing, LIGHTS)
    assert str(missing) in shown("run", base, LIGHTS, "-a", missing)
    assert repr(VALUE) in shown("run", base, LIGHTS, "--engine", VALUE)


def test_chat(shown, base, home, place, tmp_path):
    missing = place / f"none {VALUE}"
    tools = tmp_path / "tools.json"
    tools.write_text(json.dumps([{"type": "function", "function": {"name": VALUE}}]))
    picture = place / f"{VALUE}.png"
    typed = "\n".join(
        [f"/load '{home}' '{VALUE}'", f"/load '{missing}'", f"/tools {tools}", f"/{VALUE}",
         f"/image '{picture}'", f"/adapter '{VALUE}' {VALUE.replace(' ', '')}", f"/load '{VALUE}"]
    )  # fmt: skip
    said = shown("chat", base, typed=typed)
    assert base.name in said
    assert f"  {VALUE} at 1 (rank 8)" in said
    assert str(missing) in said
    assert f"tools: {VALUE}" in said
    assert f"there is no command /{VALUE.split()[0]}" in said
    assert repr(VALUE.replace(" ", "")) in said
    assert repr(f"'{VALUE}") in said


def test_inspect(shown, odd, out):
    picture = out.with_suffix(".svg")
    said = shown("inspect", odd, "--modules", "--spectrum", "--plot", picture)
    one, other = odd_modules(odd)
    assert said.count(f"\n{one}  ") == said.count(f"\n{other}  ") == 2  # in both tables
    assert f"\n{other.rpartition('.')[2]}  " in said  # the row of the heat map
    assert f'"{other}"' in said  # in the metadata
    assert f"wrote {picture}" in said
    assert str(out) in shown("inspect", out)


def test_check(shown, odd, base, out):
    said = shown("check", odd, "--base", base)
    assert all(module in said for module in odd_modules(odd))
    assert str(out) in shown("check", odd, "--base", out)


def test_repair(shown, home, place, out):
    assert f"wrote {out}: peft" in shown("repair", home, "-o", out)
    assert str(out) in shown("repair", home, "-o", out)
    assert str(place) in shown("repair", place / f"none {VALUE}", "-o", place / "else")


def test_convert(shown, home, odd, base, out):
    assert f"wrote {out}: mlx" in shown("convert", home, out, "--to", "mlx")
    assert str(out) in shown("convert", home, out, "--to", "mlx")
    said = shown("convert", odd, out.with_suffix(".gguf"), "--to", "gguf", "-b", base)
    assert odd_modules(odd)[0] in said
    said = shown("convert", home, out.with_suffix(".new"), "--to", "mlx", "-b", base, "--verify")
    assert all(str(path) in said for path in (home, out))


def test_what_convert_leaves_out(shown, place, out):
    adapter = place / f"norm {VALUE}"
    said = shown("convert", adapter, out.with_suffix(".onnx_adapter"), "--to", "ort", "--lossy")
    assert str(out) in said
    assert "left out" in said


@pytest.mark.parametrize("command", ["combine", "resize"])
def test_combine_and_resize(command, shown, odd, out):
    said = shown(command, odd, "-o", out, *(("--rank", "2") if command == "resize" else ()))
    assert all(module in said for module in odd_modules(odd))
    assert f"\n{out}: " in said
    assert f"{out} exists" in shown(command, odd, "-o", out, "--rank", "2")


def test_merge_unmerge_and_extract(shown, base, home, out):
    merged, back = out / "merged", out / "back"
    out.mkdir()
    assert f"{merged}: " in shown("merge", base, "-a", home, "-o", merged)
    assert f"{back}: " in shown("unmerge", merged, "-a", home, "-o", back)
    said = shown("extract", base, merged, "--rank", "2", "-m", "q_proj", "-o", out / "found")
    assert f"{out / 'found'}: " in said
    assert "changed, but not asked for: model.layers.0" in said
    said = shown("extract", base, base, "--rank", "2", "-o", out / "none")
    assert f"{base} has the weights of {base}" in said
    assert f"{merged} exists" in shown("merge", base, "-a", home, "-o", merged)


def test_quantize(shown, place, out):
    missing = place / f"none {VALUE}.gguf"
    assert str(missing) in shown("quantize", missing, out, "--type", "Q8_0")
    source, target = place / f"base {VALUE}.gguf", out.with_suffix(".gguf")
    shutil.copy(DATA / "truth/llama_cpp/phi3/base.f32.gguf", source)
    assert f"wrote {target}: F16, " in shown("quantize", source, target, "--type", "F16")
    assert f"{target} exists" in shown("quantize", source, target, "--type", "F16")
    assert repr(VALUE) in shown("quantize", source, out, "--type", VALUE)


def test_verify(shown, base, home):
    said = shown("verify", base, "-a", home, "--against", home, "--prompt", VALUE)
    assert said.count(str(home)) == 2
    said = shown("verify", base, "-a", home, "--against", f"engine:{VALUE}", "--prompt", VALUE)
    assert repr(VALUE) in said


def test_logits(shown, base, out):
    target = out.with_suffix(".npz")
    assert f"wrote {target}: logits0 [3, 1024]" in shown(
        "logits", base, "--ids", "1,2,3", "-o", target
    )
    assert str(out) in shown("logits", base, "--ids", "1", "-o", out / "folder" / "file.npz")


def test_data(shown, place):
    data = place / f"data {VALUE}.jsonl"
    data.write_text('{"prompt": "a"}\n')
    said = shown("data", "validate", data)
    assert f"{data.name}:1: " in said
    assert str(place / f"none {VALUE}") in shown("data", "stats", place / f"none {VALUE}")


def test_train(shown, base, place, out):
    for package in ("torch", "transformers"):
        pytest.importorskip(package, reason="training needs the extra train")
    data = place / f"pairs {VALUE}.jsonl"
    data.write_text(json.dumps({"prompt": LIGHTS, "completion": VALUE}) + "\n")
    words = ("train", base, "--data", data, "-o", out, "--steps", "1", "--format", "gguf")
    said = shown(*words, "--eval", data)
    assert f"\nwrote {out}: rank 8" in said
    assert f"\nwrote {out}.gguf: gguf\n" in said
    assert str(out) in shown(*words)
    assert str(out / VALUE) in shown("train", base, "--data", out / VALUE, "-o", out / "x")


def test_eval(shown, base, home, place, out):
    data = place / f"asked {VALUE}.jsonl"
    data.write_text(json.dumps({"prompt": LIGHTS, "completion": VALUE}) + "\n")
    page = out.with_suffix(".html")
    said = shown("eval", base, "-a", home, "--data", data, "--html", page)
    assert VALUE in said
    assert VALUE in page.read_text("utf-8")


def test_export(shown, base, home, out):
    said = shown("export", base, "-a", home, "--to", "onnx", "-o", out, "--no-proof")
    assert f"{out}: " in said
    assert "exists" in shown("export", base, "--to", "onnx", "-o", out)
    assert repr(VALUE) in shown("export", base, "--to", "onnx", "-o", out, "--quantize", VALUE)


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_push(shown, home, hub, out):
    (home / f"left {VALUE}").write_text("x")
    said = shown("push", home, "hf:org/repo", "--message", VALUE)
    assert f"  not published: left {VALUE}\n" in said
    assert hub.repositories["org/repo"].titles[-1] == VALUE
    assert str(out) in shown("push", out, "hf:org/repo")
    assert VALUE in shown("push", home, f"hf:{VALUE}")
    assert f"called {VALUE}" not in shown("push", home, "hf:org/repo", "--base-model", VALUE)


def test_sweep(shown, base, home, place, out):
    asked, picture = place / f"asked {VALUE}.txt", out.with_suffix(".svg")
    asked.write_text(f"{LIGHTS}\n")
    words = ("sweep", base, "-a", home, "--prompts", asked, "--scales", "0,1")
    said = shown(*words, "-o", picture, "--max-tokens", "8")
    assert f"“{LIGHTS}”" in said
    assert f"{home.name} over scales" in said
    assert f"wrote {picture}" in said
    assert f"{picture} exists" in shown(*words, "-o", picture)
    assert str(out) in shown("sweep", base, "-a", home, "--prompts", out)


def test_diff(shown, base, home, out):
    picture = out.with_suffix(".svg")
    said = shown("diff", base, "-a", home, LIGHTS, "-o", picture, "--answer", VALUE)
    assert f"“{LIGHTS}”" in said
    assert f"\nKL({home.name} || base): " in said
    assert f"wrote {picture}" in said
    assert f"compared on  {VALUE}" in said
    assert str(out) in shown("diff", base, "-a", out, LIGHTS)


def test_doctor_and_cache(shown, out, monkeypatch):
    monkeypatch.setenv("LORAKIT_CACHE", str(out))
    assert f"{out}\n" in shown("doctor")
    (out / "graphs" / VALUE).mkdir(parents=True)
    (out / "graphs" / VALUE / "graph.onnx").write_bytes(b"x")
    said = shown("cache", "list")
    assert f"  {VALUE}\n" in said
    assert f"\n{out}: " in said
    assert f"Remove everything in {out}? [y/N]: " in shown("cache", "clear")
    assert repr(VALUE) in shown("cache", "prune", "--max-size", VALUE)
    assert repr(VALUE) in shown("cache", VALUE)


def test_completion(shown):
    assert repr(VALUE) in shown("completion", VALUE)
    assert VALUE not in shown("completion", "bash")


def test_every_command_is_here():
    tested = {word for name in globals() if name.startswith("test_") for word in name.split("_")}
    assert set(COMMANDS) <= tested
    assert repr(VALUE) in invoke(VALUE).stderr


def test_a_hint_an_item_and_spaces_are_in_the_line_of_an_error():
    error = LorakitError(f"a  {VALUE}", items=[f"{VALUE}\x1b"], hint="pip install 'lorakit[torch]'")
    assert output.error_line(error) == (
        f"error [error]: a  {VALUE}: {VALUE}\\x1b (hint: pip install 'lorakit[torch]')"
    )


FAMILY = "\N{MAN}\N{ZERO WIDTH JOINER}\N{WOMAN}\N{NO-BREAK SPACE}?"
ANSWER = f"{VALUE}\n[/x]\t\x1b[31m\r :smile:\r\n{FAMILY}"
SHOWN = f"{VALUE}\n[/x]\t\\x1b[31m\\r :smile:\r\n{FAMILY}"


@pytest.mark.parametrize(("terminal", "expected"), [(False, ANSWER), (True, SHOWN)])
def test_an_answer_is_as_the_model_wrote_it(terminal, expected, monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(file, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr("sys.stdout", file)
    output.say_piece(ANSWER)
    assert file.getvalue() == expected


def drawn(make, capsys, monkeypatch, label):
    """What a bar with a label writes to a terminal."""
    in_colour(monkeypatch)
    monkeypatch.setenv("COLUMNS", "200")
    with make() as bar:
        bar.add_task(label, total=3)
        bar.refresh()
    return ANSI.sub("", capsys.readouterr().err)


def test_the_label_of_a_bar(capsys, monkeypatch):
    label = f"{VALUE} [/y] :smile:"
    assert label in drawn(bars, capsys, monkeypatch, label)

    def broken():
        return Progress(console=Console(stderr=True), transient=True)

    assert label.replace("[/y] ", "") not in drawn(
        broken, capsys, monkeypatch, label.replace("[/y] ", "")
    )


def test_a_counted_bar_is_silent_in_a_pipe(capsys):
    with counted_bar("reading") as progress:
        progress(1, 2, VALUE)
    assert capsys.readouterr() == ("", "")


# Who may print.

PRINTERS = ("output.py", "progress.py")
PLAIN = (
    "rich.cells",
    "rich.text",
    "rich.style",
    "rich.table",
    "rich.progress",
)  # bars() takes columns without text


def faults(tree: ast.AST) -> Iterator[str]:
    """Ways around `say`: print, consoles and markup of a file's own."""
    typing = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) and node not in typing:
            of = isinstance(node, ast.ImportFrom)
            names = [node.module or ""] if of else [alias.name for alias in node.names]
            yield from (name for name in names if name.startswith("rich") and name not in PLAIN)
        if isinstance(node, ast.alias) and node.name == "TextColumn":  # it reads markup
            yield node.name
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("print", "input") or called.endswith(("from_markup", "stdout.write")):
                yield called


@pytest.mark.parametrize(
    "file", sorted(set(CLI.rglob("*.py")) - {CLI / name for name in PRINTERS}), ids=lambda f: f.stem
)
def test_only_one_place_prints(file):
    assert list(faults(ast.parse(file.read_text("utf-8")))) == []


@pytest.mark.parametrize(
    "line",
    [
        "print(path)",
        "from rich.console import Console",
        "import rich",
        "from rich import print as say",
        "from rich.panel import Panel",
        "from rich.progress import BarColumn, TextColumn",
        "Text.from_markup(name)",
        "sys.stdout.write(name)",
    ],
)
def test_another_way_to_print_would_be_found(line):
    assert list(faults(ast.parse(line)))


def test_markup_would_be_seen(shown, out, monkeypatch):
    monkeypatch.setenv("LORAKIT_CACHE", str(out))
    assert f"\n{out}: 0 entries" in "\n" + shown("cache", "list")
    monkeypatch.setattr("builtins.print", lambda *parts, **_: Console().print(*parts))
    assert str(out) not in shown("cache", "list").replace("\n", "")
