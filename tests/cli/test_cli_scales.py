"""-a A:=1.0 replaces alpha / r, in every command that takes adapters with scales.

The demo's adapter has alpha / r = 2, so that :=1 must do what :0.5 does, and not what :1 does.
"""

import json

import numpy as np
import pytest

from commands import invoke
from folders import DATA
from lorakit import demo
from lorakit.cli import COMMANDS
from lorakit.errors import ParameterError
from lorakit.files.safetensors import open_safetensors
from lorakit.formats import read_adapter

BASE, HOME = str(demo.base_path()), str(demo.adapter_path("home"))
ONE = ("--threads", "1")
SAY = "turn the kitchen lights off"


def done(*arguments, typed=""):
    found = invoke(*arguments, typed=typed)
    assert found.error is None, found.error
    assert found.code == 0, found
    return found.stdout


def tensors(folder):
    (path,) = folder.glob("*.safetensors")
    return {name: np.array(t, np.float32) for name, t in open_safetensors(path).tensors.items()}


def ran(reference, folder):
    return json.loads(
        done("run", BASE, SAY, "-a", reference, "--temperature", "0", "--max-tokens", "24", *ONE,
             "--raw", "--json")
    )["text"]  # fmt: skip


def chatted(reference, folder):
    arguments = ("--temperature", "0", "--max-tokens", "24", *ONE)
    shown = done("chat", BASE, "-a", reference, *arguments, typed=f"{SAY}\n")
    return shown.partition("\n> ")[2] or shown.splitlines()[-1]


def loaded_in_chat(reference, folder):
    arguments = ("--temperature", "0", "--max-tokens", "24", *ONE)
    shown = done("chat", BASE, *arguments, typed=f"/load {reference}\n{SAY}\n")
    return shown.splitlines()[-2:]


def logits(reference, folder):
    out = folder / "logits.npz"
    done("logits", BASE, "--ids", "5,6,7,8", "-o", out, "-a", reference, *ONE)
    return dict(np.load(out))


def merged(reference, folder):
    done("merge", BASE, "-a", reference, "-o", folder / "merged")
    return tensors(folder / "merged")


def unmerged(reference, folder):
    done("merge", BASE, "-a", f"{HOME}:0.5", "-o", folder / "merged")
    done("unmerge", folder / "merged", "-a", reference, "-o", folder / "back", "--force")
    return tensors(folder / "back")


def exported(reference, folder):
    out = folder / "exported"
    done("export", BASE, "-a", reference, "--to", "safetensors", "-o", out, "--no-proof")
    return tensors(out)


def combined(reference, folder):
    done("combine", reference, "-o", folder / "one")
    found = read_adapter(folder / "one")
    return {d.module: d.scale * d.b.astype(np.float32) @ d.a.astype(np.float32)
            for d in found.deltas}  # fmt: skip


def verified(reference, folder):
    """How far it is from the base."""
    return difference("-a", reference, "--against", "base")


def verified_against(reference, folder):
    return difference("--against", reference)


def difference(*arguments):
    found = invoke("verify", BASE, *arguments, *ONE, "--json")
    assert found.error is None, found.error
    return {"difference": json.loads(found.stdout)["total"]["max_difference"]}


def evaluated(reference, folder, *more):
    data = folder / "texts.jsonl"
    data.write_text(json.dumps({"text": SAY}) + "\n")
    shown = done("eval", BASE, "--data", data, "-a", reference, *more, *ONE, "--json")
    return [side["perplexity"] for side in json.loads(shown)["sides"]]


def compared(reference, folder):
    return evaluated(HOME, folder, "--compare", reference)[1:]


def swept(reference, folder):
    return evaluated(reference, folder, "--scales", "0.5,1.5")


def merged_and_evaluated(reference, folder):
    return evaluated(reference, folder, "--compare", "merged", "--scales", "0.5")


TABLE = {
    "run": [ran],
    "chat": [chatted, loaded_in_chat],
    "logits": [logits],
    "merge": [merged],
    "unmerge": [unmerged],
    "export": [exported],
    "combine": [combined],
    "verify": [verified, verified_against],
    "eval": [evaluated, compared, swept, merged_and_evaluated],
}


ELSEWHERE = {"sweep", "diff"}  # have tests of their own, of what a scale does


def equal(one, other):
    if isinstance(one, dict):
        return all(np.allclose(one[name], other[name], atol=1e-5) for name in one)
    if isinstance(one[0], float):
        return np.allclose(one, other, rtol=1e-4)
    return one == other


def test_every_command_with_scales_is_in_the_table():
    """A command that says REF[:SCALE] or REF[:WEIGHT] in its help."""
    said = {name for name in COMMANDS if "REF[:" in invoke(name, "--help").stdout}
    assert said - ELSEWHERE == {*TABLE}


@pytest.mark.parametrize("outcome", [each for row in TABLE.values() for each in row])
def test_an_absolute_scale_replaces_alpha_over_r(outcome, tmp_path):
    found = []
    for number, reference in enumerate((f"{HOME}:=1", f"{HOME}:0.5", f"{HOME}:1")):
        folder = tmp_path / str(number)
        folder.mkdir()
        found.append(outcome(reference, folder))
    assert equal(found[0], found[1])
    assert not equal(found[0], found[2])  # what a relative one of the same number does


def test_an_absolute_scale_is_in_the_names_of_a_comparison(tmp_path):
    data = tmp_path / "texts.jsonl"
    data.write_text(json.dumps({"text": SAY}) + "\n")
    arguments = ("eval", BASE, "--data", data, "-a", f"{HOME}:=1", *ONE, "--json")
    found = json.loads(done(*arguments, "--compare", f"{HOME}:0.5,merged"))["sides"]
    assert [side["name"] for side in found] == ["home:=1", "home:0.5", "merged"]
    assert found[0]["adapters"] == [[f"{HOME}:=1.0", None]]
    first, *others = (side["perplexity"] for side in found)
    assert others == [pytest.approx(first, rel=1e-3)] * 2  # the merge is rounded


def test_a_side_without_a_scale_takes_the_absolute_one_of_the_other():
    gguf = DATA / "truth/gguf/llama.plain.f32.gguf"
    base, plain = DATA / "truth/bases/llama", DATA / "truth/peft/llama/plain"
    found = invoke("verify", base, "-a", f"{plain}:=0.5", "--against", gguf, *ONE, "--json")
    assert json.loads(found.stdout)["agrees"] is True
    other = ("--against", f"{gguf}:0.5")
    found = invoke("verify", base, "-a", f"{plain}:=0.5", *other, *ONE, "--json")
    assert json.loads(found.stdout)["agrees"] is False


def test_peft_itself_at_an_absolute_scale():
    pytest.importorskip("peft", reason="compares with PEFT")
    base, patterns = DATA / "truth/bases/gemma3", DATA / "truth/peft/gemma3/patterns"
    found = invoke("verify", base, "-a", f"{patterns}:=0.5", "--against", "peft", *ONE, "--json")
    assert json.loads(found.stdout)["agrees"] is True  # of several alpha / r, one for all


@pytest.mark.parametrize("wrong", ["=", "=two", "=nan"])
@pytest.mark.parametrize("outcome", [ran, merged, combined, verified_against, compared, exported])
def test_what_is_no_scale_is_refused(outcome, wrong, tmp_path):
    with pytest.raises((ParameterError, AssertionError), match=r"no scale|finite"):
        outcome(f"{HOME}:{wrong}", tmp_path)
