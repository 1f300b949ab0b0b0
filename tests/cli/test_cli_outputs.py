"""One rule for all that is written: nothing is overwritten without --overwrite."""

import json
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from commands import invoke
from folders import link
from lorakit import demo
from lorakit.cli.outputs import KINDS, written
from lorakit.cli.table import functions
from lorakit.errors import ParameterError

BASE, HOME, SHOP = demo.base_path(), demo.adapter_path("home"), demo.adapter_path("shop")
FORTY = demo.training_path("forty")

# Paths that commands read, by the name of the parameter.
READS = {"calibration", "tools", "grammar", "image", "init", "file", "data", "prompts", "tokens",
         "evaluation", "held_out", "serve", "source", "eval", "keep", "replay", "start",
         "companion", "folder", "prompt_file", "settings", "config", "load",
         "json_schema"}  # fmt: skip
# Those that are read in one command and written in another.
READ_IN = {("data validate", "train"), ("data stats", "train"), ("eval", "train")}
# The log of a run and the transcript of a chat are added to, not written anew.
ADDED = {("train", "tensorboard")}


def gguf(folder):
    """A GGUF model without a quantised tensor, as `quantize` reads."""
    from gguf_files import model_file

    return model_file(folder / "in.gguf")


# (command, parameter): its words before OUT's place, and the name of OUT
WRITES = {
    ("convert", "output"): (["convert", HOME, "{}", "--to", "mlx"], "out"),
    ("repair", "output"): (["repair", HOME, "-o", "{}"], "out"),
    ("combine", "output"): (["combine", HOME, SHOP, "-o", "{}"], "out"),
    ("resize", "output"): (["resize", HOME, "--rank", "2", "-o", "{}"], "out"),
    ("merge", "output"): (["merge", BASE, "-a", HOME, "-o", "{}"], "out"),
    ("unmerge", "output"): (["unmerge", "{merged}", "-a", HOME, "-o", "{}"], "out"),
    ("extract", "output"): (["extract", BASE, "{merged}", "--rank", "2", "-o", "{}"], "out"),
    ("logits", "output"): (["logits", BASE, "--ids", "1,2", "-o", "{}"], "out.npz"),
    ("inspect", "picture"): (["inspect", HOME, "--plot", "{}"], "out.svg"),
    ("sweep", "output"): (
        ["sweep", BASE, "-a", HOME, "--prompts", "{prompts}", "--max-tokens", "2",
         "--scales", "0,1", "-o", "{}"], "out.svg"),
    ("diff", "output"): (["diff", BASE, "hi", "-a", HOME, "--max-tokens", "2", "-o", "{}"],
                         "out.svg"),
    ("data split", "train"): (["data", "split", FORTY, "--train", "{}", "--test", "{other}",
                               "--overwrite"], "out.jsonl"),
    ("data split", "test"): (["data", "split", FORTY, "--test", "{}", "--train", "{other}"],
                             "out.jsonl"),
    ("data expand", "output"): (["data", "expand", FORTY, "-n", "3", "-o", "{}"], "out.jsonl"),
    ("demo", "export"): (["demo", "--export", "{}"], "out"),
    ("export", "output"): (["export", BASE, "--to", "safetensors", "--no-proof", "-o", "{}"],
                           "out"),
}  # fmt: skip
# Slow ones: that they refuse, before anything slow.
REFUSES = {
    ("train", "output"): (["train", BASE, "--data", FORTY, "-o", "{}"], "out"),
    ("demo", "output"): (["demo", "--train", "-o", "{}"], "out"),
    ("eval", "html"): (["eval", BASE, "--data", FORTY, "--html", "{}"], "out.html"),
    ("quantize", "output"): (["quantize", FORTY, "{}", "--type", "F16"], "out.gguf"),
    ("data expand", "test"): (["data", "expand", FORTY, "-o", "{other}", "--test", "{}"],
                              "out.jsonl"),
}  # fmt: skip


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    place = tmp_path_factory.mktemp("merged") / "merged"
    assert invoke("merge", BASE, "-a", HOME, "-o", place).code == 0
    return place


def words(row, out, merged, folder):
    (folder / "prompts.txt").write_text("hi\n")
    places = {"merged": merged, "prompts": folder / "prompts.txt", "other": folder / "other.jsonl"}
    return [str(word).format(out, **places) for word in row]


def contents(path):
    if path.is_file():
        return path.read_bytes()
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_every_path_of_a_command_is_in_a_table():
    """A new option with a path is read, or has a row here."""
    unknown = []
    for name, function in functions():
        for parameter, kind in get_type_hints(function).items():
            kinds = {kind, *get_args(kind), *(k for a in get_args(kind) for k in get_args(a))}
            row = (name, parameter)
            known = row in WRITES or row in REFUSES or row in READ_IN or row in ADDED
            if Path in kinds and parameter not in READS and not known:
                unknown.append(row)
    assert not unknown


@pytest.mark.parametrize("row", WRITES, ids=" ".join)
def test_what_is_there_is_replaced_on_request_only(row, merged, tmp_path):
    given, name = WRITES[row]
    out = tmp_path / name
    command = [w for w in words(given, out, merged, tmp_path) if w != "--overwrite"]
    assert invoke(*command).code == 0
    (tmp_path / "other.jsonl").unlink(missing_ok=True)
    if row == ("demo", "export"):  # where nothing differs it is no error
        (out / "mine.txt").write_text("mine")
    before = contents(out)
    again = invoke(*command)
    assert (again.code, again.error.code) == (1, "parameter_invalid")
    assert str(out) in str(again.error)
    assert "--overwrite" in again.error.hint
    assert contents(out) == before
    if out.is_file():
        out.write_bytes(b"old")
    assert invoke(*command, "--overwrite").code == 0
    if out.is_dir():
        before.pop("mine.txt", None)
    assert contents(out).keys() == before.keys() if out.is_dir() else contents(out) != b"old"
    left = {p.name for p in tmp_path.iterdir()} - {name, "prompts.txt", "other.jsonl"}
    assert not left


@pytest.mark.parametrize("row", REFUSES, ids=" ".join)
def test_slow_commands_refuse_before_they_begin(row, merged, tmp_path):
    for package in ("torch", "transformers") if row[0] == "train" else ():
        pytest.importorskip(package, reason="training needs the extra train")
    given, name = REFUSES[row]
    out = tmp_path / name
    if "." in name:
        out.write_bytes(b"mine")
    else:
        out.mkdir()
        (out / "mine.txt").write_bytes(b"mine")
    command = words(given, out, merged, tmp_path)
    refused = invoke(*command)
    assert refused.code == 1
    assert str(out) in str(refused.error)
    assert "--overwrite" in refused.error.hint
    assert b"mine" in str(contents(out)).encode()


@pytest.mark.parametrize("kind", KINDS)
def test_folders_of_something_else_are_not_replaced(kind, tmp_path):
    out = tmp_path / "out"
    (out / KINDS[kind].mark).parent.mkdir(parents=True)
    (out / KINDS[kind].mark).write_text("{}")
    with written(out, kind, overwrite=True) as place:
        (place / KINDS[kind].mark).parent.mkdir(parents=True)
        (place / KINDS[kind].mark).write_text("new")
    assert (out / KINDS[kind].mark).read_text() == "new"
    (out / "diary.doc").write_text("mine")
    with pytest.raises(ParameterError) as refused, written(out, kind, overwrite=True):
        pass
    assert refused.value.items == ("diary.doc",)
    (out / "diary.doc").unlink()
    (out / "photos").mkdir()
    with pytest.raises(ParameterError, match="something else"), written(out, kind, overwrite=True):
        pass
    (out / "photos").rmdir()
    (out / KINDS[kind].mark).rename(out / "notes.md")
    with pytest.raises(ParameterError, match="something else"), written(out, kind, overwrite=True):
        pass


def test_what_is_read_is_not_replaced(tmp_path):
    assert invoke("resize", HOME, "--rank", "2", "-o", tmp_path / "a").code == 0
    before = contents(tmp_path / "a")
    for command in (["resize", tmp_path / "a", "--rank", "1", "-o", tmp_path / "a"],
                    ["repair", tmp_path / "a", "-o", tmp_path / "a"],
                    ["combine", f"{tmp_path / 'a'}:0.5", HOME, "-o", tmp_path / "a"]):  # fmt: skip
        refused = invoke(*command, "--overwrite")
        assert "is what is read" in str(refused.error)
    assert contents(tmp_path / "a") == before


def failing(out):
    """Write half of a file, and fail."""
    try:
        with written(out, "adapter", overwrite=True) as place:
            place.write_bytes(b"half")
            raise RuntimeError("broken off")
    except RuntimeError as error:
        return str(error)


def test_a_failure_leaves_what_was_there(tmp_path):
    out = tmp_path / "a.onnx_adapter"
    assert invoke("convert", HOME, out).code == 0
    before = out.read_bytes()
    assert failing(out) == "broken off"
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx_adapter"]


def test_files_and_folders_do_not_replace_each_other(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x").write_text("mine")
    assert "is a file" in str(invoke("merge", BASE, "-a", HOME, "-o", tmp_path / "file",
                                     "--overwrite").error)  # fmt: skip
    assert "is a folder" in str(invoke("logits", BASE, "--ids", "1", "-o", tmp_path / "folder",
                                       "--overwrite").error)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "format"), [("a.onnx_adapter", "ort"), ("a.safetensors", "web"), ("A.GGUF", "gguf")]
)
def test_the_name_says_the_format(name, format, tmp_path):
    done = invoke("convert", HOME, tmp_path / name, "-b", BASE, "--json")
    assert json.loads(done.stdout)["format"] == format


def test_a_name_that_says_none_or_another_format_is_refused(tmp_path):
    refused = invoke("convert", HOME, tmp_path / "x")
    assert "in which format" in str(refused.error)
    assert "--to peft" in refused.error.hint
    refused = invoke("convert", HOME, tmp_path / "x.gguf", "--to", "peft")
    assert "x.gguf is the name of a file in the format gguf" in str(refused.error)
    done = invoke("convert", HOME, tmp_path / "x", "--to", "onnx")
    assert done.code == 2
    assert "ort writes the adapter for ONNX Runtime" in done.stderr
    assert "lorakit export BASE --to onnx" in done.stderr


def test_an_output_that_is_a_link_stays_one(tmp_path):
    target = tmp_path / "elsewhere" / "real.txt"
    target.parent.mkdir()
    target.write_text("old")
    link(tmp_path / "out.txt", target)
    with written(tmp_path / "out.txt", "file", overwrite=True) as place:
        place.write_text("new")
    assert (tmp_path / "out.txt").is_symlink()
    assert target.read_text() == "new"
