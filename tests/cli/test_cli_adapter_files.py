"""Adapter files as people bring them, on the command line."""

import json
import shutil

import pytest
from safetensors.numpy import load_file, save_file
from test_cli import lorakit

from folders import DATA

TRUTH = DATA / "truth"
BASE = str(TRUTH / "bases/llama")
PLAIN = TRUTH / "peft/llama/plain"


@pytest.fixture
def half(tmp_path):
    """An adapter without the tensors of its last layer."""
    folder = tmp_path / "half"
    shutil.copytree(PLAIN, folder)
    file = folder / "adapter_model.safetensors"
    save_file({n: t for n, t in load_file(file).items() if ".layers.3." not in n}, file)
    return str(folder)


@pytest.fixture
def wrapped(tmp_path):
    folder = tmp_path / "wrapped"
    shutil.copytree(PLAIN, folder)
    file = folder / "adapter_model.safetensors"
    renamed = {f"_orig_mod.{n.replace('lora_A.', 'lora_A.x.').replace('lora_B.', 'lora_B.x.')}": t
               for n, t in load_file(file).items()}  # fmt: skip
    save_file(renamed, file)
    return str(folder)


def test_check_says_whether_it_is_whole_alive_and_of_the_base(half, tmp_path):
    out, _ = lorakit("check", str(PLAIN), "-b", BASE, "--json")
    said = json.loads(out)
    assert (said["fits"], said["whole"], said["alive"]) == (True, True, True)
    assert said["engines"] == {"onnx": [], "torch": []}
    out, _ = lorakit("check", half, "-b", BASE, code=1)
    assert "incomplete save" in out
    assert "layer 3" in out
    out, _ = lorakit("check", half, "-b", BASE, "--partial", "--json")
    said = json.loads(out)
    assert (said["fits"], said["whole"]) == (True, False)
    out, _ = lorakit("check", str(TRUTH / "peft/llama/dora"), "-b", BASE)
    assert "it runs on" in out
    _, err = lorakit("convert", half, str(tmp_path / "a"), "--to", "mlx", "-b", BASE, code=1)
    assert "adapter_incomplete" in err
    assert "--partial" in err
    lorakit("convert", half, str(tmp_path / "b"), "--to", "mlx", "-b", BASE, "--partial")


def test_repair_and_inspect_show_what_was_renamed(wrapped, tmp_path):
    out, _ = lorakit("inspect", wrapped, "--structure")
    assert "_orig_mod" in out
    assert "renamed" in out
    out, _ = lorakit("repair", wrapped, "-o", str(tmp_path / "out"))
    assert "renamed: " in out
    names = load_file(tmp_path / "out/adapter_model.safetensors")
    assert names.keys() == load_file(PLAIN / "adapter_model.safetensors").keys()
    out, _ = lorakit("repair", wrapped, "-o", str(tmp_path / "two"), "--name", "x", "--json")
    assert json.loads(out)["renamed"]
    _, err = lorakit("repair", wrapped, "-o", str(tmp_path / "no"), "--name", "y", code=1)
    assert "no adapter called" in err


def test_run_takes_absolute_scales_merges_and_pickles():
    def answer(*options):
        out, err = lorakit("run", BASE, "a b", "--raw", "--max-tokens", "4", "--json", *options)
        return json.loads(out)["text"], err

    full, err = answer("-a", str(PLAIN))
    assert err == ""
    assert answer("-a", f"{PLAIN}:=2") == (full, "")  # alpha / r is 2
    assert answer("-a", str(PLAIN), "--merge")[0] == full
    _, err = answer("-a", f"{PLAIN}:2")
    assert "acts at 4" in err
    pickle = str(TRUTH / "peft/llama/pickle_bin")
    _, err = lorakit("run", BASE, "a", "--raw", "-a", pickle, code=1)
    assert "--allow-pickle" in err
    pytest.importorskip("torch", reason="it reads the pickle")
    answer("-a", pickle, "--allow-pickle")


PICKLED = str(TRUTH / "peft/llama/pickle_bin")
TAKE_PICKLES = {
    "chat": ("chat", BASE, "-a", PICKLED),
    "logits": ("logits", BASE, "-a", PICKLED, "--ids", "1,2", "-o", "{out}/l.npz"),
    "merge": ("merge", BASE, "-a", PICKLED, "-o", "{out}/m"),
    "unmerge": ("unmerge", BASE, "-a", PICKLED, "-o", "{out}/u", "--force"),
    "verify": ("verify", BASE, "-a", PICKLED, "--against", "base", "--tolerance", "99"),
    "verify, the other": (
        "verify",
        BASE,
        "-a",
        str(PLAIN),
        "--against",
        PICKLED,
        "--tolerance",
        "99",
    ),
    "eval": ("eval", BASE, "-a", PICKLED, "--data", "{out}/d.jsonl", "--max-tokens", "2"),
    "eval, the other": (
        "eval",
        BASE,
        "-a",
        str(PLAIN),
        "--compare",
        PICKLED,
        "--data",
        "{out}/d.jsonl",
        "--max-tokens",
        "2",
    ),
    "export": (
        "export",
        BASE,
        "-a",
        PICKLED,
        "-o",
        "{out}/e",
        "--to",
        "safetensors",
        "--no-proof",
    ),
    "compose": (
        "export",
        BASE,
        "--compose",
        f"x={PICKLED}",
        "-o",
        "{out}/e",
        "--to",
        "onnx",
        "--quantize",
        "none",
        "--no-proof",
    ),
    "inspect": ("inspect", PICKLED),
    "check": ("check", PICKLED, "-b", BASE),
    "combine": ("combine", PICKLED, "-o", "{out}/c"),
    "resize": ("resize", PICKLED, "-o", "{out}/r", "--rank", "1"),
}


@pytest.mark.parametrize("name", TAKE_PICKLES)
def test_a_hint_names_an_option_that_the_command_has(tmp_path, name):
    words = [word.format(out=tmp_path) for word in TAKE_PICKLES[name]]
    (tmp_path / "d.jsonl").write_text('{"prompt": "a", "completion": " b"}\n')
    _, err = lorakit(*words, code=1)
    assert "--allow-pickle" in err
    pytest.importorskip("torch", reason="it reads the pickle")
    lorakit(*words, "--allow-pickle")


def test_merge_takes_absolute_scales(tmp_path):
    def merged(name, reference):
        lorakit("merge", BASE, "-a", reference, "-o", str(tmp_path / name))
        return load_file(tmp_path / name / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]

    assert (merged("a", f"{PLAIN}:=1") == merged("b", f"{PLAIN}:0.5")).all()
    assert (merged("c", f"{PLAIN}:1") != merged("d", f"{PLAIN}:=1")).any()


def test_combine_says_what_readers_of_one_alpha_need(tmp_path):
    other = str(TRUTH / "peft/llama/plain_b")
    out, _ = lorakit("combine", str(PLAIN), f"{other}:-0.5", "-o", str(tmp_path / "a"))
    assert "--uniform" in out
    lorakit("combine", str(PLAIN), f"{other}:-0.5", "-o", str(tmp_path / "b"), "--uniform")
    config = json.loads((tmp_path / "b/adapter_config.json").read_text())
    assert not config["rank_pattern"]
    assert not config["alpha_pattern"]


@pytest.mark.parametrize("name", ["gemma3/patterns", "llama/rslora", "llama/plain"])
def test_repair_says_it_too(tmp_path, name):
    """convert says it in its notes; rsLoRA's alpha / sqrt(r) is no alpha / r either."""
    out, _ = lorakit("repair", str(TRUTH / "peft" / name), "-o", str(tmp_path / "a"))
    assert ("--uniform" in out) == (name != "llama/plain")
