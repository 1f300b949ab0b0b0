"""lorakit train as its users run it: short runs on the demo's base."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from commands import invoke
from lorakit import demo
from lorakit.cli import training_run
from lorakit.errors import FormatError, MismatchError, ParameterError, SourceError, WriteError
from lorakit.formats import read_adapter
from lorakit.training.facts import read_facts

torch = pytest.importorskip("torch", reason="training needs the extra train")
pytest.importorskip("transformers", reason="training needs the extra train")

BASE = demo.base_path()
QUICK = ("--replay-share", "0", "--batch", "4", "--no-sweep")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Threads that wait for each other take most of the time of a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train(data, output, *words, **options):
    return invoke("train", BASE, "--data", data, "-o", output, *QUICK, *words, **options)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A dozen examples, and a file to measure on."""
    folder = tmp_path_factory.mktemp("data")
    for name, first in (("forty", 0), ("eval", 0)):
        lines = demo.training_path(name).read_text("utf-8").splitlines(keepends=True)
        (folder / f"{name}.jsonl").write_text("".join(lines[first : first + 12]), "utf-8")
    tools = demo.training_path("forty").with_name("tools.json")
    (folder / "tools.json").write_bytes(tools.read_bytes())
    return folder


@pytest.fixture(scope="module")
def ran(data, tmp_path_factory):
    """One run with nearly everything, and where it wrote."""
    output = tmp_path_factory.mktemp("out") / "adapters" / "car"
    formats = [word for name in ("gguf", "mlx", "ort") for word in ("--format", name)]
    log = output.parent / "runs"
    done = train(
        data / "forty.jsonl", output, "--eval", data / "eval.jsonl", "--steps", 3,
        "--base-model", "org/tiny", "--tensorboard", log, *formats,
    )  # fmt: skip
    assert (done.code, done.error) == (0, None), done
    return done, output


def test_a_run_says_what_it_learnt_and_how_to_try_it(ran):
    done, output = ran
    facts = read_facts(output)
    assert done.stdout.splitlines()[0] == facts["verdict"][0]
    assert "The adapter calls right in" in done.stdout
    assert f"wrote {output}: rank 8, 95,232 numbers; 3 steps in" in done.stdout
    assert f"lorakit run {BASE} -a {output}" in done.stdout
    assert "12 examples" in done.stderr
    assert "step 3/3  loss" in done.stderr
    assert facts["base"]["name"] == "org/tiny"
    assert [file["role"] for file in facts["data"]] == ["train", "eval"]


def test_it_leaves_the_adapter_in_every_format_and_nothing_else(ran):
    _, output = ran
    left = sorted(path.name for path in output.parent.iterdir())
    assert left == ["car", "car-mlx", "car.gguf", "car.onnx_adapter", "runs"]
    car = read_adapter(output)
    assert read_adapter(output.parent / "car.gguf") == car
    assert read_adapter(output.parent / "car-mlx") == car
    assert read_adapter(output.parent / "car.onnx_adapter").modules == car.modules  # scales folded
    (events,) = (output.parent / "runs").iterdir()
    assert b"train/loss" in events.read_bytes()
    steps = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps if line["event"] == "step"] == [1, 2, 3]


@pytest.mark.parametrize("taken", ["car", "car.gguf"])
def test_what_is_there_is_not_overwritten_unasked(ran, data, taken):
    _, output = ran
    before = (output / "lorakit.json").read_bytes()
    words = ["--format", "gguf"] if taken == "car.gguf" else []
    done = train(data / "forty.jsonl", output, "--steps", 1, *words)
    assert isinstance(done.error, ParameterError)
    assert "--overwrite" in done.error.hint
    assert taken in str(done.error)
    assert "step" not in done.stderr  # it was refused before anything was trained
    assert (output / "lorakit.json").read_bytes() == before


def test_json_is_for_programs(data, tmp_path):
    output = tmp_path / "car"
    train(data / "forty.jsonl", output, "--steps", 1, "--format", "gguf", "--format", "mlx")
    done = train(data / "forty.jsonl", output, "--steps", 2, "--overwrite", "--json",
                 "--format", "gguf", "--format", "mlx", "--rank", 4, "--declare", "0.5",
                 "--no-augment")  # fmt: skip
    told = json.loads(done.stdout)
    assert told["output"] == str(output)
    assert told["stopped"] == "done"
    assert told["training"]["steps"] == 2
    settings = told["training"]["settings"]
    assert settings["lora"]["rank"] == 4
    assert settings["lora"]["alpha"] == 8
    assert settings["mixture"] == {"declare": 0.5, "augment": False, "replay_share": 0.0}
    assert "nobody knows" in told["verdict"][0]
    assert told["formats"] == {"gguf": f"{output}.gguf", "mlx": f"{output}-mlx"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["car", "car-mlx", "car.gguf"]
    for path in tmp_path.iterdir():
        assert read_adapter(path).max_rank == 4


def test_bad_input_is_refused_before_anything_is_trained(data, tmp_path):
    (tmp_path / "none.jsonl").write_text("")
    (tmp_path / "bad.jsonl").write_text('{"request": "x"}\n{"request": 3, "reply": "y"}\n')
    other = Path(__file__).parents[1] / "data/truth/peft/llama/plain"
    for words, kind, said in (
        ((tmp_path / "none.jsonl",), FormatError, "no example"),
        ((tmp_path / "bad.jsonl",), FormatError, "bad.jsonl:2"),
        ((tmp_path / "not-there.jsonl",), SourceError, "not-there.jsonl"),
        ((data / "forty.jsonl", "--from", other), MismatchError, "does not fit"),
        ((data / "forty.jsonl", "--batch", 0), ParameterError, "batch"),
        ((data / "forty.jsonl", "--resume"), ParameterError, "no checkpoint"),
    ):
        done = train(words[0], tmp_path / "out", *words[1:])
        assert isinstance(done.error, kind), (words, done)
        assert said in str(done.error)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jsonl", "none.jsonl"]


def started(data, output, *words):
    line = [sys.executable, "-m", "lorakit", "train", BASE, "--data", data, "-o", output]
    return subprocess.Popen(
        [*map(str, line), *QUICK, *map(str, words)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("pressed", [True, False])
def test_ctrl_c_while_torch_loads_is_no_import_error(data, tmp_path, pressed):
    press = "signal.raise_signal(signal.SIGINT)" if pressed else "pass"
    (tmp_path / "torch.py").write_text(
        f"import signal\ntry:\n    {press}\nexcept KeyboardInterrupt:\n    pass\n"
        "raise ImportError('no kernel for this')\n"
    )
    words = ["--data", data / "forty.jsonl", "-o", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-m", "lorakit", "train", BASE, *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )
    if pressed:
        assert (done.returncode, done.stderr) == (130, "interrupted\n")
    else:  # what is broken without Ctrl-C stays an error that says so
        assert done.returncode == 1
        assert "no kernel for this" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")
def test_ctrl_c_saves_and_the_same_command_goes_on(data, tmp_path):
    output = tmp_path / "car"
    child = started(data / "forty.jsonl", output, "--steps", 100000)
    with child:
        for line in child.stderr:
            if line.startswith("step 1/"):
                break
        time.sleep(0.2)
        child.send_signal(signal.SIGINT)
        rest = child.stderr.read()
    assert child.returncode == 130, rest
    found = [line for line in rest.splitlines() if line.startswith("saved at step ")]
    assert found, rest
    assert rest.splitlines()[-1] == "interrupted"
    assert not output.exists()
    assert (tmp_path / "car.checkpoint").is_file()
    step = int(found[0].split()[3].rstrip(":"))
    child = started(data / "forty.jsonl", output, "--steps", 100000)
    with child:
        line = child.stderr.readline()
        child.kill()
    assert line.startswith(f"taken up at step {step}: ")


def test_a_place_that_tensorboard_cannot_have_is_told_first(data, tmp_path, monkeypatch):
    """Before the base is asked, which takes a minute."""

    def begin(*arguments, **options):
        raise AssertionError("the run has begun")

    monkeypatch.setattr(training_run, "train", begin)
    (tmp_path / "file").write_text("")
    run = partial(train, data / "forty.jsonl", tmp_path / "a", "--steps", 1, "--tensorboard")
    refused = run(tmp_path / "file" / "log")
    assert isinstance(refused.error, WriteError)
    with pytest.raises(AssertionError, match="has begun"):  # the seam works
        run(tmp_path / "runs" / "log")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_run_whose_loss_was_no_number_says_how_to_go_on(monkeypatch, capsys):
    monkeypatch.setattr(training_run, "facts_of", lambda result: {"verdict": ["It is so."]})
    settings = SimpleNamespace(schedule=SimpleNamespace(rate=0.012))
    for stopped in ("diverged", "done"):
        result = SimpleNamespace(stopped=stopped, path=Path("car"), settings=settings)
        training_run.show_verdict(result)
        said = capsys.readouterr().out
        assert ("--from car --rate 0.004" in said) == (stopped == "diverged")
