"""References and the cache on the command line."""

import json

import pytest

from commands import invoke
from lorakit import demo

HOME = demo.adapter_path("home")
BASE = str(demo.base_path())


def run(*arguments, code=0, typed=""):
    done = invoke(*arguments, typed=typed)
    assert done.code == code, done
    return done.stdout


def test_every_command_takes_every_reference(web, tmp_path):
    home, base = web.put_folder("/home", HOME), web.put_folder("/base", demo.base_path())
    assert json.loads(run("inspect", home, "--json"))["format"] == "peft"
    assert json.loads(run("check", home, "--base", base, "--json"))["fits"]
    run("convert", home, tmp_path / "a.gguf", "--to", "gguf", "--base", base)
    run("combine", f"{home}:0.5", f"{HOME}:0.5", "-o", tmp_path / "both")
    run("resize", home, "-o", tmp_path / "small", "--rank", "1")
    run("extract", base, BASE, "-o", tmp_path / "none", "--rank", "1", code=1)
    run("logits", base, "-a", f"{home}:0.5", "--ids", "1,2", "-o", tmp_path / "o.npz")
    out = run("run", base, "-a", f"{home}:1", "turn the lights off in the kitchen", "--json")
    assert json.loads(out)["adapters"] == {"home": 1.0}


def test_the_cache_is_listed_pruned_and_cleared(web):
    run("inspect", web.put_folder("/home", HOME))
    listed = json.loads(run("cache", "list", "--json"))
    assert [entry["kind"] for entry in listed["entries"]] == ["downloads"]
    assert f"{web.url}/home/" in run("cache", "list")
    assert json.loads(run("cache", "prune", "--max-age", 1, "--yes", "--json"))["removed"] == []
    run("cache", "clear", typed="n\n", code=1)
    assert "removed 1 entries" in run("cache", "clear", typed="y\n")
    assert json.loads(run("cache", "list", "--json"))["size"] == 0
    run("cache", "prune", code=1)


COMMANDS = {
    "inspect": ["inspect", "{url}"],
    "check": ["check", "{url}", "--base", "{url}"],
    "convert": ["convert", "{url}", "{out}", "--to", "gguf", "--base", "{url}"],
    "combine": ["combine", "{url}", "-o", "{out}", "--base", "{url}"],
    "resize": ["resize", "{url}", "-o", "{out}", "--rank", "1"],
    "extract": ["extract", "{url}", "{url}", "-o", "{out}", "--rank", "1"],
    "merge": ["merge", "{url}", "-a", "{url}", "-o", "{out}"],
    "unmerge": ["unmerge", "{url}", "-a", "{url}", "-o", "{out}"],
    "logits": ["logits", "{url}", "-a", "{url}", "--ids", "1,2", "-o", "{out}"],
    "run": ["run", "{url}", "-a", "{url}", "hi"],
    "chat": ["chat", "{url}", "-a", "{url}"],
    "verify": ["verify", "{url}", "--against", "base", "-a", "{url}"],
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("said", [False, True])
def test_every_command_hands_on_that_a_private_machine_is_meant(
    monkeypatch, cache, tmp_path, name, said
):
    asked = []

    def fetch_url(reference, kind, *, allow_private, **options):
        asked.append(allow_private)
        return demo.base_path() if kind == "base" else HOME

    monkeypatch.setattr("lorakit.sources.web.fetch_url", fetch_url)
    words = [w.format(url="https://10.0.0.1/x", out=tmp_path / "out.npz") for w in COMMANDS[name]]
    invoke(*words, *["--allow-private"] * said)
    assert asked
    assert set(asked) == {said}


def test_a_private_machine_is_refused_with_a_word_on_how(cache):
    done = invoke("inspect", "https://10.0.0.1/home")
    assert done.code == 1
    assert "--allow-private" in done.error.hint
