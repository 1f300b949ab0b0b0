"""The command line in bad surroundings: one clear message, exit code 1, 2 or 130, nothing left."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import lorakit
from lorakit.__main__ import main

DEMO = Path(lorakit.__file__).parent / "demo"
HOME, BASE = str(DEMO / "adapters" / "home"), str(DEMO / "base")
NOBODY = 65534

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits are POSIX's")


def start(*arguments, before=None):
    return subprocess.Popen(
        [sys.executable, "-m", "lorakit", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before,
    )


def end(process):
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    assert process.returncode in (0, 1, 2, 130), (process.returncode, out, err)
    return process.returncode, err.strip()


@pytest.fixture
def refused(monkeypatch, capsys):
    """Run a command in this process; its one line of error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["lorakit", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        err = capsys.readouterr().err.strip()
        assert caught.value.code in (1, 2), err
        assert caught.value.code == 2 or len(err.splitlines()) == 1, err
        return err

    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


def left(folder):
    return sorted(path.name for path in folder.iterdir())


OUTPUTS = {
    "convert": lambda out: ("convert", HOME, out, "--to", "mlx"),
    "convert-ort": lambda out: ("convert", HOME, out, "--to", "ort"),
    "convert-gguf": lambda out: ("convert", HOME, out, "--to", "gguf", "--base", BASE),
    "resize": lambda out: ("resize", HOME, "--rank", 2, "-o", out),
}


@pytest.mark.parametrize("command", OUTPUTS)
def test_a_place_that_cannot_be_written(command, tmp_path, refused):
    (tmp_path / "file").write_text("mine")
    assert "[write_failed]" in refused(*OUTPUTS[command](tmp_path / "file" / "out"))
    assert "[parameter_invalid]" in refused(*OUTPUTS[command](tmp_path / "file"))
    assert left(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def full_disk():
    """No file may grow beyond 2,000 bytes."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))


@pytest.mark.parametrize("command", ["convert", "convert-gguf"])
def test_a_full_disk(command, tmp_path):
    code, err = end(start(*OUTPUTS[command](tmp_path / "out"), before=full_disk))
    assert code == 1
    assert "[write_failed]" in err
    assert str(tmp_path / "out") in err
    assert left(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="root becomes another")
def test_a_folder_that_is_not_ours(refused):
    with tempfile.TemporaryDirectory() as name:
        place, adapter = Path(name), Path(name) / "home"
        place.chmod(0o755)
        shutil.copytree(HOME, adapter)
        refused("convert", adapter, place / "home", "--to", "mlx")  # everything is imported now
        (adapter / "adapter_model.safetensors").chmod(0o644)
        os.seteuid(NOBODY)
        try:
            err = refused("convert", adapter, place / "out", "--to", "mlx")
            ort = refused("convert", adapter, place / "out", "--to", "ort")
        finally:
            os.seteuid(0)
        assert "[write_failed]" in err
        assert "[write_failed]" in ort
        assert "Permission denied" in err
        assert left(place) == ["home"]


def test_paths_of_the_wrong_kind(tmp_path, refused):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no adapter")
    os.mkfifo(tmp_path / "pipe")
    for name in ("nothing", "empty", "text", "pipe", "x" * 300, "a\x1b[31m\nb"):
        err = refused("inspect", tmp_path / name)
        assert "[source_not_found]" in err or "[format_unsupported]" in err
        assert "\x1b" not in err
        refused("check", HOME, "--base", tmp_path / name)
    refused("inspect")
    refused("convert", HOME, tmp_path / "out", "--to", "nothing")


def test_output_onto_the_input(tmp_path, refused):
    adapter = tmp_path / "home"
    shutil.copytree(HOME, adapter)
    before = {file.name: file.read_bytes() for file in adapter.iterdir()}
    assert "exists" in refused("convert", adapter, adapter, "--to", "mlx")
    assert "exists" in refused("resize", adapter, "--rank", 2, "-o", adapter)
    assert {file.name: file.read_bytes() for file in adapter.iterdir()} == before
    assert left(tmp_path) == ["home"]


def test_two_processes_write_the_same_output(tmp_path):
    out = tmp_path / "out"
    running = [start("convert", HOME, out, "--to", "mlx") for _ in range(2)]
    codes = sorted(end(process)[0] for process in running)
    assert codes[0] == 0
    assert left(tmp_path) == ["out"]
    assert left(out) == ["adapter_config.json", "adapters.safetensors"]
    assert end(start("inspect", out, "--structure"))[0] == 0


SLOW = """
import sys, time
from lorakit.files import atomic
write = atomic.os.fsync
def fsync(handle):
    print("writing", flush=True)
    time.sleep(30)
    write(handle)
atomic.os.fsync = fsync
from lorakit.__main__ import main
sys.argv = ["lorakit", *sys.argv[1:]]
main()
"""


@pytest.mark.parametrize(
    ("command", "number"), [("convert-gguf", signal.SIGINT), ("resize", signal.SIGTERM)]
)
def test_a_signal_in_the_middle_of_writing_leaves_nothing(command, number, tmp_path):
    """The disk is slow here, so that the signal arrives between writing and renaming."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *map(str, OUTPUTS[command](tmp_path / "out"))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    while process.stdout.readline().strip() != "writing":
        assert process.poll() is None, process.stderr.read()
    time.sleep(0.05)
    process.send_signal(number)
    code, err = process.wait(100), process.stderr.read()
    process.communicate()
    assert code == (130 if number == signal.SIGINT else 143)
    assert "Traceback" not in err
    assert left(tmp_path) == []


TWICE = """
import os, shutil, signal, sys, tempfile, time
from lorakit.exporting import export
variant = sys.argv.pop(1)
def prove(*arguments, **options):
    with tempfile.TemporaryDirectory(prefix="lorakit-"):
        if variant == "broken":
            signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)
def rmtree(*arguments, **options):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0)
    return removed(*arguments, **options)
removed, shutil.rmtree = shutil.rmtree, rmtree
export.prove = prove
from lorakit.__main__ import main
main()
"""


@pytest.mark.parametrize("variant", ["whole", "broken"])
def test_being_told_twice_to_end_leaves_nothing_either(variant, tmp_path):
    """The second comes while the temporary folder of an export's proof is removed."""
    (tmp_path / "tmp").mkdir()
    words = (variant, "export", BASE, "--to", "safetensors", "-o", tmp_path / "out")
    done = subprocess.run(
        [sys.executable, "-c", TWICE, *map(str, words)],
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 143, done.stderr
    assert (left(tmp_path / "tmp") == []) == (variant == "whole")
    assert "out" not in left(tmp_path)


def test_standard_input_that_is_not_utf_8_is_told():
    for command, code in ((("run", BASE, "-"), 1), (("chat", BASE), 0)):
        done = subprocess.run(
            [sys.executable, "-m", "lorakit", *command],
            input=b"caf\xe9\n",
            capture_output=True,
            check=False,
        )
        assert done.returncode == code
        assert b"Traceback" not in done.stderr
        assert b"not valid Unicode" in done.stdout + done.stderr
