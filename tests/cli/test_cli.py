"""The command line as its users run it: in a process of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from commands import invoke
from lorakit import demo
from lorakit.errors import FormatError, ParameterError, SourceError
from lorakit.model.load import unused_name
from lorakit.sources.scaled import Scaled, scaled
from lorakit.verify import FORMS
from lorakit.verify.prompts import read_ids

BASE = str(demo.base_path())
HOME = str(demo.adapter_path("home"))


def lorakit(*arguments, code=0, **options):
    """Run a command; returns (stdout, stderr)."""
    done = subprocess.run(
        [sys.executable, "-m", "lorakit", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        **options,
    )
    assert done.returncode == code, done.stderr + done.stdout
    return done.stdout, done.stderr


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("home:0.5", ("home", 0.5)),
        ("home", ("home", None)),
        ("a:b:-1", ("a:b", -1.0)),
        ("C:\\adapters\\home", ("C:\\adapters\\home", None)),
        ("hf:org/repo", ("hf:org/repo", None)),
        ("hf:org/repo@v1:0.5", ("hf:org/repo@v1", 0.5)),
        ("https://host:8080/x", ("https://host:8080/x", None)),
        ("https://host:8080", ("https://host:8080", None)),
        ("https://host:8080/x:0.5", ("https://host:8080/x", 0.5)),
        ("http://[::1]:8080/x.gguf:2", ("http://[::1]:8080/x.gguf", 2.0)),
        ("home:1e-1", ("home", 0.1)),
        ("a/b=c:0.5", ("a/b=c", 0.5)),
        ("https://host/x?a=b", ("https://host/x?a=b", None)),
        (":3", (":3", None)),
    ],
)
def test_a_scale_is_what_follows_the_last_colon_if_it_is_a_number(reference, expected):
    path, scale = expected
    assert scaled(reference) == Scaled(path=path, scale=scale)


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("lights=home", Scaled(path="home", name="lights")),
        ("lights=home:0.5", Scaled(path="home", name="lights", scale=0.5)),
        ("lights=home:=2", Scaled(path="home", name="lights", absolute=2.0)),
        ("a.b-c=hf:org/repo@v1:0.5", Scaled(path="hf:org/repo@v1", name="a.b-c", scale=0.5)),
        ("x=https://host/a?b=c", Scaled(path="https://host/a?b=c", name="x")),
        ("x=C:\\home", Scaled(path="C:\\home", name="x")),
        ("home:=2", Scaled(path="home", absolute=2.0)),
        ("=home", Scaled(path="=home")),
        ("home=", Scaled(path="home=")),
        ("a b=home", Scaled(path="a b=home")),
    ],
)
def test_a_name_stands_before_a_reference(reference, expected):
    assert scaled(reference) == expected


def test_a_path_with_an_equals_sign_is_one_where_it_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b").mkdir()
    assert scaled("a=b") == Scaled(path="a=b")
    assert scaled("a=b:0.5") == Scaled(path="a=b", scale=0.5)
    assert scaled("./a=b:0.5").name == ""


def test_adapters_are_called_as_they_are_named():
    out, _ = lorakit("run", BASE, "hi", "-a", f"lights={HOME}:0.5", "--max-tokens", "1", "--json")
    assert json.loads(out)["adapters"] == {"lights": 0.5}


def test_adapters_of_one_name_are_told_apart():
    assert unused_name("a", {"a": 1.0, "a-2": 1.0}) == "a-3"


def test_run_streams_an_answer_and_reports_it_as_json():
    out, _ = lorakit("run", BASE, "-a", HOME, "turn the lights off in the kitchen")
    assert out.startswith("<start_function_call>call:")
    out, _ = lorakit("run", BASE, "-a", f"{HOME}:1", "turn the lights off in the kitchen", "--json")
    report = json.loads(out)
    assert report["tool_calls"]
    assert report["adapters"] == {"home": 1.0}
    out, _ = lorakit("run", BASE, "--raw", "-", "--max-tokens", "3", input="hello")
    assert out.endswith("\n")


def test_logits_of_numbers_and_of_files(tmp_path):
    output = tmp_path / "out.npz"
    lorakit("logits", BASE, "--ids", "1,2,3", "-o", str(output))
    with np.load(output) as file:
        base = file["logits0"]
    assert base.shape == (3, 1024)
    assert base.dtype == np.float32
    ids = tmp_path / "ids.npz"
    np.savez(ids, ids0=np.array([1, 2, 3]), ids7=np.array([4, 5], np.int32), other=np.eye(2))
    lorakit(
        "logits", BASE, "--adapter", f"{HOME}:0", "--adapter", f"{HOME}:0.5", "--adapter",
        f"{HOME}:-0.5", "--ids", str(ids), "-o", str(output), "--engine", "onnx", "--quantize",
        "none", "--overwrite",
    )  # fmt: skip
    with np.load(output) as file:
        assert sorted(file.files) == ["logits0", "logits7"]
        np.testing.assert_allclose(file["logits0"], base, atol=1e-4)


@pytest.mark.parametrize("quantize", ["fp16", "int8", "int4"])
def test_logits_of_quantised_weights(tmp_path, quantize):
    output = tmp_path / "out.npz"
    lorakit("logits", BASE, "--ids", "1,2,3", "-o", str(output), "--quantize", quantize)
    with np.load(output) as file:
        assert np.isfinite(file["logits0"]).all()


def test_a_text_of_the_users_calibrates(tmp_path):
    (tmp_path / "text").write_text("numbers: 1, 2, 3\n" * 9)
    command = ("logits", BASE, "--ids", "1,2,3", "--calibration", str(tmp_path / "text"), "-o")
    found = []
    for name, more in (("ours", command[:4]), ("theirs", command[:6])):
        output = tmp_path / f"{name}.npz"
        assert invoke(*more, "-o", output, "--quantize", "int8").code == 0
        with np.load(output) as file:
            found.append(file["logits0"])
    assert 0 < np.abs(found[0] - found[1]).max() < 1
    done = invoke(*command, tmp_path / "out.npz")
    assert isinstance(done.error, ParameterError)
    assert "quantize" in str(done.error)


def test_ids_that_cannot_be_read(tmp_path):
    bad = tmp_path / "bad.npz"
    bad.write_bytes(b"PK\x03\x04 not an archive")
    matrix = tmp_path / "matrix.npz"
    np.savez(matrix, ids0=np.eye(2))
    empty = tmp_path / "empty.npz"
    np.savez(empty, other=np.eye(2))
    for source, error in [
        ("1,x", ParameterError),
        (str(tmp_path / "none.npz"), SourceError),
        (str(bad), FormatError),
        (str(matrix), FormatError),
        (str(empty), FormatError),
    ]:
        with pytest.raises(error):
            read_ids(source)


def test_inspect_and_check():
    out, _ = lorakit("inspect", HOME)
    assert "peft" in out
    report = json.loads(lorakit("inspect", HOME, "--json", "--structure")[0])
    assert report["digest"] is None
    assert report["modules"]
    assert "it fits" in lorakit("check", HOME, "--base", BASE)[0]


def test_check_lists_every_mismatch_and_exits_1(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for file in demo.base_path().iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    config = json.loads((demo.adapter_path("home") / "adapter_config.json").read_text())
    weights = (demo.adapter_path("home") / "adapter_model.safetensors").read_bytes()
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text(json.dumps(config))
    (broken / "adapter_model.safetensors").write_bytes(
        weights.replace(b".layers.0.", b".layers.9.")
    )
    out, _ = lorakit("check", str(broken), "--base", str(other), code=1)
    assert out.count("model.layers.9.") > 3
    report = json.loads(lorakit("check", str(broken), "--base", BASE, "--json", code=1)[0])
    assert report["fits"] is False


def test_errors_are_one_line_with_code_and_hint(tmp_path):
    _, err = lorakit("run", str(tmp_path / "nowhere"), "x", code=1)
    assert err.startswith("error [source_not_found]")
    assert "hint" in err
    assert err.count("\n") == 1
    out, _ = lorakit("check", "nowhere", "--base", BASE, "--json", code=1)
    assert json.loads(out)["error"]["code"] == "source_not_found"
    _, err = lorakit("--debug", "run", str(tmp_path / "nowhere"), "x", code=1)
    assert "Traceback" in err
    lorakit("run", "--no-such", code=2)
    assert "nothing to say" in lorakit("run", BASE, input="", code=1)[1]
    assert lorakit("run", BASE, input="hello") == lorakit("run", BASE, "hello")
    for options in (["--engine", "llama"], ["--device", "cuda"]):
        _, err = lorakit("run", BASE, "x", *options, code=1)
        assert "capability_missing" in err
    _, err = lorakit("run", BASE, "x", "-a", f"{HOME}:nan", code=1)
    assert "parameter_invalid" in err


def test_doctor():
    report = json.loads(lorakit("doctor", "--json")[0])
    assert report["engines"]["onnx"].startswith("ready")
    assert set(FORMS) < set(report["weights"])
    assert report["weights"]["int8"].startswith(f"{FORMS['int8'].bits:.2f} bits, KL 0.0")
    assert "onnxruntime" in lorakit("doctor")[0]


def test_demo_tells_its_story_and_exports(tmp_path):
    out, _ = lorakit("demo", "--examples", "4", "--json")
    report = json.loads(out)
    assert report["mixed_batch"]["same_text"] is True
    assert report["mixed_batch"]["adapter_sets"] == 16
    assert [step["scale"] for step in report["sweep"]] == [0, 0.25, 0.5, 0.75, 1, 1.25]
    out, _ = lorakit("demo", "--examples", "2")
    assert "tokens/s" in out
    target = tmp_path / "out"
    lorakit("demo", "--export", str(target))
    assert (target / "adapters/home/adapter_model.safetensors").is_file()
    answer, _ = lorakit("run", str(target / "base"), "-a", str(target / "adapters/home"), "hello")
    assert answer.strip()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_ends_cleanly():
    process = subprocess.Popen(
        [sys.executable, "-m", "lorakit", "demo", "--examples", "100"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in background
    )
    assert process.stdout is not None
    process.stdout.readline()  # it has begun
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 130
    assert "Traceback" not in err


@pytest.mark.parametrize("shown", ["--modules", "--json"])
def test_a_reader_that_goes_away_is_no_error(shown):
    process = subprocess.Popen(
        [sys.executable, "-m", "lorakit", "inspect", HOME, shown],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(20) == 0
    assert err == b""


def test_names_from_files_do_not_reach_the_terminal_raw(tmp_path):
    folder = tmp_path / "evil"
    shutil.copytree(HOME, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "org/\x1b[31mred\x1b]0;title\x07[bold]"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    for arguments in (("inspect", str(folder)), ("check", str(folder), "--base", BASE)):
        out, err = lorakit(*arguments)
        assert "\x1b" not in out + err
        assert r"org/\x1b[31mred\x1b]0;title\x07[bold]" in out


def test_tables_in_a_pipe_are_neither_cut_nor_folded(tmp_path):
    name = "model.layers.0.self_attn.q_proj"
    env = {**os.environ, "COLUMNS": "30"}
    out, _ = lorakit("inspect", HOME, "--modules", "--spectrum", env=env)
    assert sum(line.startswith(f"{name} ") for line in out.splitlines()) == 2
    assert not any(line.endswith(" ") for line in out.splitlines() if line.startswith("model."))
    out, _ = lorakit("resize", HOME, "--rank", "2", "-o", str(tmp_path / "small"), env=env)
    assert name in out


def test_a_scale_that_is_no_number_is_said():
    _, err = lorakit("run", BASE, "--adapter", f"{HOME}:half", "hello", code=1)
    assert "'half'" in err
    assert "no scale" in err


def test_all_commands_show_help_alike():
    out, _ = lorakit("cache", "--help")
    assert "completion" not in out
    assert "-h, --help" in out


def test_ctrl_c_at_the_very_end_is_no_error():
    """When all is said, and Python clears up: then the system's own handling would kill."""
    late = (
        "import atexit, signal, sys\n"
        "atexit.register(signal.raise_signal, signal.SIGINT)\n"
        "from lorakit.__main__ import main\n"
        f"sys.argv = ['lorakit', 'inspect', {HOME!r}, '--json']\n"
        "main()\n"
        "signal.raise_signal(signal.SIGINT)\n"
    )
    done = subprocess.run([sys.executable, "-c", late], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_ctrl_c_while_numpy_loads_is_no_import_error(tmp_path):
    (tmp_path / "numpy.py").write_text(
        "import signal\n"
        "try:\n    signal.raise_signal(signal.SIGINT)\n    import time; time.sleep(9)\n"
        "except KeyboardInterrupt as error:\n    raise ImportError('umath failed') from error\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    _, err = lorakit("inspect", HOME, code=130, env=env)
    assert err == "interrupted\n"
