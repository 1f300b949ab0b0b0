"""What a newcomer types in the first hour, and what is said then."""

import json
import os
import re
import shutil
import threading
from pathlib import Path

import pytest

from commands import invoke
from lorakit import demo
from lorakit import open as open_model
from lorakit.cli import doctor
from lorakit.cli.usage import ELSEWHERE
from lorakit.errors import UnknownAdapterError
from lorakit.model.adapter_config import SAME_ADAPTER

TRUTH = Path(__file__).parents[1] / "data/truth"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("newcomer")
    assert invoke("demo", "--export", folder / "demo").code == 0
    return folder


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("NO_COLOR", "1")


def hint(*words):
    done = invoke(*words)
    assert done.code == 1
    return done.error.hint


def test_an_id_of_the_hub_says_how_it_is_written(here):
    assert "for the Hub: hf:google/gemma-3-270m-it" in hint("run", "google/gemma-3-270m-it", "hi")
    assert "for the Hub: hf:org/adapter" in hint("run", "demo/base", "hi", "-a", "org/adapter")


def test_a_misspelled_adapter_names_its_neighbours(here):
    meant = os.path.join("demo", "adapters", "home")  # noqa: PTH118  # as the system writes it
    assert f"did you mean {meant}?" in hint("run", "demo/base", "hi", "-a", "demo/adapters/hom")
    assert "home, shop, style" in hint("check", "demo/adapters/x", "-b", "demo/base")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "demo/base", "hi", "--temp", "1"], "did you mean --temperature?"),
        (["run", "demo/base", "hi", "--temprature=1"], "did you mean --temperature?"),
        (["run", "demo/base", "hi", "--num-predict", "9"], "did you mean --max-tokens?"),
        (["chat", "demo/base", "-s", "be brief"], "did you mean --system?"),
        (["run", "demo/base", "hi", "--engine", "onx"], "did you mean onnx?"),
        (["chatt"], "did you mean chat?"),
        (["cache", "lst"], "did you mean list?"),
        (["convert", "a", "b", "--to", "onnx"], "lorakit export BASE --to onnx"),
        (["combine", "a", "-o", "b", "--method", "liner"], "did you mean linear or"),
    ],
)
def test_a_typo_says_what_may_be_meant(here, words, said):
    done = invoke(*words)
    assert done.code == 2
    assert said in done.stderr


def test_wrong_usage_is_json_for_programs(here):
    done = invoke("run", "demo/base", "hi", "--temp", "1", "--json")
    assert done.code == 2
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "parameter_invalid"
    assert "did you mean --temperature?" in error["message"]
    assert error["hint"].startswith("usage: lorakit run")
    for words in (["rn", "--json"], ["cache", "lst", "--json"], ["combine", "--json"]):
        done = invoke(*words)
        assert done.code == 2
        assert json.loads(done.stdout)["error"]["message"]
    assert invoke("rn").stdout == ""


def test_a_loaded_name_is_suggested():
    with open_model(demo.base_path(), adapter=demo.adapter_path("home"), context=64) as opened:
        with pytest.raises(UnknownAdapterError) as refused:
            opened.apply({"hom": 1.0})
        assert refused.value.hint == "loaded adapters: home; did you mean home?"


def test_an_adapter_given_twice_is_said(here):
    twice = ["-a", "demo/adapters/home", "-a", "demo/adapters/home:0.5"]
    done = invoke("run", "demo/base", "hi", *twice, "--max-tokens", "1")
    assert "home and home-2 are the same adapter: together it acts at the scale 1.5" in done.stderr
    with open_model(
        demo.base_path(), adapter=[demo.adapter_path("home"), demo.adapter_path("shop")], context=64
    ) as opened:
        assert not opened.warnings
    with open_model(
        demo.base_path(), adapter=[demo.adapter_path("home")] * 2, context=64
    ) as opened:
        assert [warning.code for warning in opened.warnings] == [SAME_ADAPTER]


def test_the_exported_demo_does_not_warn_against_itself(here):
    done = invoke("check", "demo/adapters/home", "-b", "demo/base")
    assert done.stdout.splitlines() == ["it fits; it runs on onnx, torch"]
    for name in ("home", "shop", "style"):
        assert not json.loads(
            invoke("check", f"demo/adapters/{name}", "-b", "demo/base", "--json").stdout
        )["mismatches"]


def test_another_base_of_the_same_shape_is_still_warned_of(here, tmp_path):
    base = tmp_path / "other"
    shutil.copytree(demo.base_path(), base)
    config = json.loads((base / "config.json").read_text())
    del config["lorakit_name"]
    (base / "config.json").write_text(json.dumps(config))
    assert "warning: base name" in invoke("check", "demo/adapters/home", "-b", base).stdout
    merged = tmp_path / "merged"
    assert invoke("merge", "demo/base", "-a", "demo/adapters/shop", "-o", merged).code == 0
    assert "warning: base name" in invoke("check", "demo/adapters/home", "-b", merged).stdout


def test_a_wholly_other_base_is_one_sentence(here):
    words = ("check", "demo/adapters/home", "-b", TRUTH / "bases/llama")
    done = invoke(*words)
    assert done.code == 1
    errors = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "none of its 42 modules fits" in errors[0]
    assert "--all lists them" in errors[0]
    listed = invoke(*words, "--all").stdout.splitlines()
    assert len([line for line in listed if line.startswith("error: ")]) == 42
    assert len(json.loads(invoke(*words, "--json").stdout)["mismatches"]) >= 42


def test_a_truncated_gguf_says_where_it_ends(tmp_path):
    path = TRUTH / "gguf/gemma3.base.f32.gguf"
    cut = tmp_path / "cut.gguf"
    for length in (3000, len(path.read_bytes()) - 8):
        cut.write_bytes(path.read_bytes()[:length])
        assert f"the file ends at byte {length}" in str(invoke("run", cut, "hi").error)
    assert "is the limit" not in str(invoke("run", cut, "hi").error)


def test_the_doctor_names_the_extra(here, monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda package: None)
    assert "pip install 'lorakit[torch]'" in invoke("doctor").stdout


def test_options_that_would_be_ignored_are_refused(here):
    pair = ("combine", "demo/adapters/home", "demo/adapters/shop", "-o", "out")
    for words in (
        (*pair, "--density", "0.3"),
        (*pair, "--seed", "1"),
        (*pair, "--method", "ties", "--rank", "4", "--seed", "1"),
        ("demo", "--export", "out", "--port", "1"),
        ("demo", "--export", "out", "--examples", "1"),
        ("data", "validate", demo.training_path("forty"), "--max-tokens", "9"),
        ("data", "validate", demo.training_path("forty"), "--unseen-phrasings"),
        ("data", "stats", demo.training_path("forty"), "--declare"),
        ("data", "expand", demo.training_path("forty"), "-o", "out", "--test-count", "3"),
    ):
        refused = invoke(*words)
        assert refused.error.code == "parameter_invalid", words
        assert "would be ignored" in str(refused.error)
        assert not os.path.exists("out")  # noqa: PTH110


def test_a_rank_above_the_adapters_own_says_what_happens(here, tmp_path):
    done = invoke("resize", "demo/adapters/home", "--rank", "64", "-o", tmp_path / "r")
    assert "no module has a rank above 8: at 64 nothing is cut off" in done.stdout


def test_words_of_peft_are_taken_with_what_they_mean(here, tmp_path):
    pair = ("combine", "demo/adapters/home", "demo/adapters/shop", "--json")
    linear = json.loads(invoke(*pair, "--method", "linear", "-o", tmp_path / "a").stdout)
    assert linear["method"] == "concatenate"
    assert any("PEFT's linear adds A and B apart" in note for note in linear["notes"])


def test_what_was_never_merged_is_not_unmerged(here, tmp_path):
    merged = tmp_path / "m"
    assert invoke("merge", "demo/base", "-a", "demo/adapters/home:0.7", "-o", merged).code == 0
    refused = invoke("unmerge", merged, "-a", "demo/adapters/shop:1", "-o", tmp_path / "r")
    assert refused.code == 1
    assert refused.error.items == ("demo/adapters/shop is not in it",)
    assert "lorakit inspect ADAPTER shows the digest" in refused.error.hint
    assert not (tmp_path / "r").exists()
    home = "demo/adapters/home"
    other = invoke("unmerge", merged, "-a", home, "-o", tmp_path / "r").error
    assert other.items == (f"{home} was merged at 0.7, not at 1",)
    assert f"names: {home} at 0.7;" in other.hint
    assert "digest" not in other.hint


def test_help_and_versions_where_others_have_them(here):
    assert invoke("-V").stdout == invoke("--version").stdout
    assert invoke("help", "run").stdout == invoke("run", "--help").stdout
    assert invoke("help", "cache", "list").stdout == invoke("cache", "list", "--help").stdout
    shown = invoke("help")
    assert shown.code == 0
    assert "completion" in shown.stdout
    assert "there is no command 'rn'; did you mean run" in invoke("help", "rn").stderr


def test_an_exported_gguf_is_known_by_its_name(here, tmp_path):
    words = ("export", "demo/base", "--to", "gguf", "--no-proof", "--quantize", "F16")
    assert invoke(*words, "-o", tmp_path / "plain").code == 0
    assert (
        "warning"
        not in invoke("check", "demo/adapters/home", "-b", tmp_path / "plain/plain-F16.gguf").stdout
    )
    assert invoke(*words, "-a", "demo/adapters/shop", "-o", tmp_path / "merged").code == 0
    assert (
        "warning: base name"
        in invoke("check", "demo/adapters/home", "-b", tmp_path / "merged/merged-F16.gguf").stdout
    )


@pytest.mark.parametrize("columns", [40, 80])
@pytest.mark.parametrize("words", [("--help",), ("run", "--help"), ("cache",), ("convert", "-h")])
def test_help_fits_the_terminal(columns, words, here, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = invoke(*words).stdout.splitlines()
    wide = [line for line in lines if len(line) > columns and not line.startswith("usage: ")]
    assert not [line for line in wide if " " in line.strip()], wide
    assert len(lines) > 8


def test_the_options_of_other_programs_are_none_of_ours_and_mean_some():
    ours = re.findall(r"(?m)^  (-\S+?),? ", invoke("help", "run").stdout)
    ours += re.findall(r", (--\S+)", invoke("help", "run").stdout)
    assert set(ELSEWHERE.values()) <= set(ours)
    assert not ELSEWHERE.keys() & set(ours)


def test_what_is_no_base_says_what_it_is(here):
    assert "is an adapter, not a base model" in str(invoke("run", "demo/adapters/home", "x").error)
    said = hint("run", "demo/base", "hi", "--engine", "llama")
    assert "--engine onnx or --engine torch" in said
    assert "lorakit export BASE --to gguf" in said


def test_the_host_of_a_server_says_how_its_api_is_named(here):
    from http.server import HTTPServer, SimpleHTTPRequestHandler

    with HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:  # no model in it
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_port}"
        assert f"a server's API: http://{host}/v1 (or" in hint("run", f"http://{host}/", "hi")
        assert "API" not in hint("run", f"http://{host}/model", "hi")
        server.shutdown()


def test_the_exported_demo_has_what_its_adapters_are_evaluated_with(here):
    for name, share in (("home", 0.945), ("shop", 0.955)):
        data = ("--data", f"demo/evaluation/{name}.jsonl", "--min", share)
        words = ("eval", "demo/base", *data, "--threads", "1", "--batch", "100")
        assert invoke(*words, "-a", f"demo/adapters/{name}").code == 0
    assert invoke(*words, "-a", "demo/adapters/home").code == 1


def test_the_demo_may_be_there_already_where_nothing_differs(tmp_path, monkeypatch):
    """Every page begins with it."""
    monkeypatch.chdir(tmp_path)

    def refused():
        done = invoke("demo", "--export", "demo")
        assert (done.code, done.error.code) == (1, "parameter_invalid")
        return done.error.message.removeprefix("demo exists and is not this demo: ")

    assert invoke("demo", "--export", "demo").code == 0
    again = invoke("demo", "--export", "demo")
    assert (again.code, again.stdout.splitlines()[0]) == (0, "demo is here already")
    for name in ("adapters/home/adapter_config.json", "evaluation/tools.json"):
        file = Path("demo", name)
        content = file.read_bytes()
        file.write_bytes(content[:-1] + b" ")
        assert refused() == f"{Path(name)} differs"
        file.write_bytes(content + b" ")
        assert refused() == f"{Path(name)} differs"
        file.unlink()
        assert refused() == f"{Path(name)} is not there"
        file.mkdir()
        assert refused() == f"{Path(name)} is no file that can be read"
        file.rmdir()
        file.write_bytes(content)
    assert invoke("demo", "--export", "demo").code == 0
    more = Path("demo/adapters/home/adapter_model.bin")
    more.write_bytes(b"mine")
    assert refused() == f"{more.relative_to('demo')} is not of the demo"
    assert more.read_bytes() == b"mine"
    Path("file").write_text("mine")
    assert invoke("demo", "--export", "file").error.message == "file exists"
