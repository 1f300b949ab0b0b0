"""lorakit verify, convert --verify and the pictures of inspect, through the command line."""

import io
import json

import pytest
from rich.console import Console

from commands import invoke
from folders import DATA
from laid_out import texts
from lorakit.cli import heatmap
from lorakit.errors import FormatError, ParameterError, SourceError
from lorakit.formats import read_adapter
from lorakit.inspect.grid import grid
from lorakit.inspect.report import inspect
from lorakit.verify import FORMS
from lorakit.verify.answers import NEW, REPEATS
from lorakit.verify.opening import parse_other

TRUTH = DATA / "truth"
BASE = str(TRUTH / "bases/llama")
PLAIN = str(TRUTH / "peft/llama/plain")
OTHER = str(TRUTH / "peft/llama/plain_b")
GGUF = str(TRUTH / "gguf/llama.plain.f32.gguf")


def lorakit(*arguments, code=0):
    done = invoke(*arguments)
    assert done.code == code, done
    return done.stdout


def verify(*arguments, code=0):
    return json.loads(lorakit("verify", BASE, *arguments, "--threads", "1", "--json", code=code))


def refused(error, *arguments):
    done = invoke("verify", BASE, *arguments, "--threads", "1")
    assert isinstance(done.error, error), done
    return done.error


def test_another_format_agrees_and_another_adapter_does_not():
    found = verify("-a", f"{PLAIN}:0.5", "--against", GGUF)  # at the scale of the first
    assert found["agrees"] is True
    assert found["tolerance"] is None
    assert found["stored"] == "float32"
    assert found["total"]["max_difference"] < 2e-4
    assert verify("-a", f"{PLAIN}:0.5", "--against", GGUF, "--tolerance", "2e-4")["stored"] is None
    assert found["warnings"] == []
    assert [row["name"] for row in found["prompts"]] == ["text 1", "text 2", "text 3", "random ids"]
    assert set(found["total"]) == {
        "name", "tokens", "max_difference", "mean_difference", "kl", "kl_reverse", "top1",
        "first_difference", "non_finite", "effect", "perplexity", "other_perplexity",
    }  # fmt: skip
    wrong = verify("-a", PLAIN, "--against", f"{GGUF}:0.5", "-p", "hello", code=1)
    assert wrong["agrees"] is False
    assert [row["name"] for row in wrong["prompts"]] == ["hello"]
    assert verify("-a", PLAIN, "--against", f"{GGUF}:0.5", "--tolerance", "1e9")["agrees"]


def test_several_adapters_on_both_sides_in_another_order():
    other = OTHER
    pair = ("-a", f"{PLAIN}:0.7", "-a", f"{other}:0.3")
    assert verify(*pair, "--against", f"{other}:0.3", "--against", f"{PLAIN}:0.7")["agrees"]


def test_the_table_says_how_much_and_the_verdict():
    out = lorakit("verify", BASE, "-a", PLAIN, "--against", "base", "--ids", "5,6,7", code=1)
    assert "differs (effect" in out
    assert "above what rounding to float32 explains" in " ".join(out.split())
    strict = ("--ids", "5,6,7", "--tolerance", "2e-4")
    out = lorakit("verify", BASE, "-a", PLAIN, "--against", "base", *strict, code=1)
    assert "differs: the largest difference is" in out
    assert "1 of the effect" in out
    out = lorakit("verify", BASE, "-a", PLAIN, "--against", PLAIN, "-p", "hello")
    assert "both sides are the same thing" in out
    assert "agrees" in out


def test_against_recorded_logits(tmp_path):
    found = verify("-a", f"{PLAIN}:0.5", "--against", f"{PLAIN}/logits.npz")
    assert [row["tokens"] for row in found["prompts"]] == [7, 20, 33]
    assert verify("-a", f"{PLAIN}:0.5", "--against", f"{PLAIN}/logits.npz#scale1", code=1)
    assert verify("--against", f"{BASE}/base_logits.npz")["total"]["effect"] is None
    output = tmp_path / "out.npz"
    lorakit("logits", BASE, "-a", PLAIN, "--ids", "4,5,6", "-o", output)
    assert verify("-a", PLAIN, "--against", output, "--ids", "4,5,6")["agrees"]


def test_another_form_of_the_weights_is_measured():
    form = ("-a", PLAIN, "--against", "quantize:int8")
    found = verify(*form)
    assert found["agrees"] is True
    limits = {"form": "int8", "max_kl": None, "min_top1": None, "most": FORMS["int8"].most}
    assert found["limits"] == limits
    assert found["warnings"] == []
    assert [row["name"] for row in found["prompts"]] == ["English", "code", "German", "questions"]
    assert 1 < found["total"]["perplexity"] != found["total"]["other_perplexity"]
    assert found["answers"]["answers"] == len(found["answers"]["differs_at"]) == 4
    assert sum(again["asked"] for again in found["answers"]["repeats"]) == REPEATS
    short = (*form, "-p", "hello there", "--repeats", "0")
    assert verify(*short, "--max-kl", "0", code=1)["limits"]["max_kl"] == 0
    assert verify(*short, "--max-kl", "1", "--min-top1", "0")["answers"]["repeats"] == []
    refused(ParameterError, *short, "--tolerance", "1", "--max-kl", "1")
    strict = verify(*short, "--tolerance", "2e-4", code=1)
    assert strict["limits"] is strict["answers"] is None


def test_the_table_of_another_form_fits_a_terminal():
    out = lorakit("verify", BASE, "--against", "quantize:int4", "--threads", "1")
    assert max(len(line) for line in out.splitlines()[1:]) <= 80
    assert "effect" not in out
    assert f"of 4 answers of {NEW} tokens are the same" in out
    assert "repeats  differ: 0 of 4 cold, 0 of 4 on a prefix hit" in out
    assert out.splitlines()[-1].startswith("measured for int4: KL ")


def test_a_calibration_text_goes_to_the_side_that_needs_one(tmp_path):
    text = tmp_path / "sample.txt"
    text.write_text("A text like what the model will read, with 3 numbers: 1, 2, 3.\n" * 40)
    short = ("-p", "hello there", "--repeats", "0", "--against", "quantize:int8")
    usual, own = verify(*short), verify(*short, "--calibration", text)
    assert own["agrees"] is True
    assert own["total"]["kl"] != usual["total"]["kl"]
    refused(ParameterError, "--against", "quantize:fp16", "--calibration", text)


def test_against_another_model():
    assert verify("--against", f"model:{BASE}", "-p", "hello")["agrees"]
    assert verify("-a", PLAIN, "--against", BASE, "-p", "hello", code=1)["one"].endswith("(onnx)")


def test_what_is_not_there_is_said_before_anything_opens():
    error = refused(SourceError, "-a", PLAIN, "--against", "pefft")
    assert error.message == "there is no model and no adapter at pefft"
    assert error.hint.endswith("; did you mean peft?")
    assert (
        f"did you mean {PLAIN} or {OTHER}?"
        in refused(SourceError, "--against", f"{PLAIN}x:0.5").hint
    )


def test_a_merge_that_holds_the_adapter_already_is_noted(tmp_path):
    merged = tmp_path / "m"
    lorakit("merge", BASE, "-a", PLAIN, "-o", merged)
    again = f"{merged} is a merge that holds {PLAIN} already"
    for adapter, noted in ((PLAIN, True), (f"{PLAIN}:0.5", True), (OTHER, False)):
        done = invoke("verify", BASE, "-a", adapter, "--against", f"on:{merged}", "--threads", "1")
        assert (again in done.stderr) == noted, done


def test_prompts_from_files(tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_text("hello\n\nworld\n")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "hello"}\n{"ids": [5, 6]}\n"plain text"\n[7]\n')
    found = verify("-a", PLAIN, "--against", GGUF, "--prompts", lines)
    assert [row["name"] for row in found["prompts"]] == ["line 1", "line 3"]
    found = verify("-a", PLAIN, "--against", GGUF, "--prompts", rows)
    assert [row["tokens"] for row in found["prompts"]][1::2] == [2, 1]
    alike = "one and the same beginning of two texts: "
    found = verify("--against", "base", "-p", alike + "a", "-p", alike + "bc", "--ids", "5")
    assert [row["name"][-3:] for row in found["prompts"]] == ["...", ".-2", "ds0"]
    for content in ('{"prompt": 3}', "{", '{"ids": []}', '{"ids": [true]}', ""):
        rows.write_text(content)
        refused(FormatError, "--against", "base", "--prompts", rows)
    lines.write_bytes(b"\xff\xfe")
    refused(FormatError, "--against", "base", "--prompts", lines)
    refused(SourceError, "--against", "base", "--prompts", tmp_path / "none")


def test_what_against_may_say(tmp_path):
    assert parse_other(["peft"]).kind == "peft"
    assert parse_other(["./peft"]).kind == "adapters"
    assert parse_other(["engine:torch"]).value == "torch"
    assert parse_other(["hf:org/repo:0.5"]).kind == "adapters"
    assert parse_other([BASE]).kind == "model"
    assert parse_other([PLAIN, GGUF]).kind == "adapters"
    with pytest.raises(ParameterError, match="together"):
        parse_other([PLAIN, "peft"])
    with pytest.raises(ParameterError, match="no weights 'int3'"):
        parse_other(["quantize:int3"])
    refused(SourceError, "--against", tmp_path / "nothing")


def test_convert_compares_what_it_wrote(tmp_path):
    for to, name in (("gguf", "x.gguf"), ("mlx", "mlx"), ("ort", "x.onnx_adapter")):
        wanted = ("--to", to, "-b", BASE, "--verify", "--json")
        found = json.loads(lorakit("convert", PLAIN, tmp_path / name, *wanted))
        assert found["verify"]["agrees"] is True
        assert found["verify"]["total"]["effect"] > 1
    half = ("--to", "peft", "--dtype", "f16", "-b", BASE, "--verify")
    assert "agrees within float16's rounding (effect" in lorakit(
        "convert", PLAIN, tmp_path / "half", *half
    )
    out = lorakit("convert", PLAIN, tmp_path / "again", *half, "--tolerance", "2e-4", code=1)
    assert "above the tolerance" in out
    done = invoke("convert", PLAIN, tmp_path / "n", "--to", "mlx", "--verify")
    assert isinstance(done.error, ParameterError)
    assert not (tmp_path / "n").exists()


def test_inspect_shows_spectra_and_a_heat_map_and_draws(tmp_path):
    out = lorakit("inspect", PLAIN, "--spectrum", "--plot", tmp_path / "x.svg")
    assert "singular values of" in out
    assert "layer" in out
    assert "as gguf" in out
    assert "adapter_model.safetensors" in out
    assert "Change by layer" in texts((tmp_path / "x.svg").read_text("utf-8"))
    found = json.loads(lorakit("inspect", GGUF, "-b", BASE, "--spectrum", "--json"))
    assert len(found["modules"][0]["spectra"][0]["values"]) == found["modules"][0]["rank"]
    assert found["expressible"]["ort"] == []
    quiet = lorakit("inspect", PLAIN, "--structure")
    assert "singular" not in quiet
    assert "--values" in quiet
    for wrong in (
        ["--structure", "--spectrum"],
        ["--plot", str(tmp_path / "x.jpg")],
        ["--plot", str(tmp_path / "x.svg")],
    ):
        assert isinstance(invoke("inspect", PLAIN, *wrong).error, ParameterError)


@pytest.mark.parametrize(("width", "blocks"), [(80, 1), (16, 2), (1, 4)])
def test_the_heat_map_fits_the_terminal(width, blocks):
    adapter = read_adapter(TRUTH / "peft/llama/plain")
    found = grid(inspect(adapter, values=True).modules)
    assert found.layers == 4
    plain = Console(file=io.StringIO(), width=width, soft_wrap=True)
    heatmap.show(found, plain, "norm", "{:.3g}".format)
    text = plain.file.getvalue()
    assert text.count("layer") == blocks
    assert set("".join(line[9:] for line in text.splitlines() if "q_proj" in line)) <= set(
        heatmap.SHADES + " "
    )
    colour = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="truecolor")
    heatmap.show(found, colour, "norm", "{:.3g}".format)
    assert "\x1b[48;2;" in colour.file.getvalue()


def test_check_tells_of_the_tied_head():
    base = TRUTH / "bases/gemma3"
    out = lorakit("check", TRUTH / "peft/gemma3/embed_only", "--base", base, "--json")
    (found,) = json.loads(out)["mismatches"]
    assert found["severity"] == "warning"
    assert "tied" in found["found"]
    assert json.loads(out)["fits"] is True
