"""The commands of docs/train.md run, in fewer steps, on the files that the page shows."""

import re
import shlex
from pathlib import Path

import pytest

from commands import invoke
from lorakit.training.facts import read_facts

pytest.importorskip("torch", reason="training needs the extra train")
pytest.importorskip("transformers", reason="training needs the extra train")

PAGE = (Path(__file__).parents[3] / "docs/train.md").read_text("utf-8")
BLOCK = re.compile(r"^```(?P<kind>json|sh|console)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"`(garden/\w+\.jsonl?)`")
FEW = ("--steps", "3", "--no-sweep")
TYPED = "water the lilies for 7 minutes\n/exit\n"


def commands():
    """The page's commands in their order; its files are written on the way."""
    for block in BLOCK.finditer(PAGE):
        if block["kind"] != "json":
            lines = block["text"].splitlines()
            shown = block["kind"] == "console"
            yield from (ln.removeprefix("$ ") for ln in lines if ln.startswith("$ ") or not shown)
            continue
        (name,) = FILE.findall(PAGE[PAGE.rindex("\n\n", 0, block.start() - 1) : block.start()])
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(block["text"])


def test_every_command_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = []
    for line in commands():
        program, name, *words = shlex.split(line, comments=True)
        assert program == "lorakit"
        done = invoke(name, *words, *(FEW if name == "train" else ()), typed=TYPED)
        assert (done.code, done.error) == (0, None), (line, done)
        ran.append((name, done.stdout))
    assert [name for name, _ in ran] == ["demo", "data", "data", "train", "run", "chat", "eval"]
    assert ran[1][1] == "10 examples, nothing wrong\n"
    facts = read_facts(Path("adapters/garden"))
    assert facts["evaluation"]["after"]["examples"] == 8
    assert {tool["function"]["name"] for tool in facts["prompt"]["tools"]} == {
        "water_bed", "open_vent",
    }  # fmt: skip
    assert facts["evaluation"]["kept"]["examples"] > 20
