"""lorakit push: what it says before and after, and how it ends."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from commands import invoke
from fake_hub import TOKEN
from lorakit import demo

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's


@pytest.fixture
def home(tmp_path):
    return shutil.copytree(demo.adapter_path("home"), tmp_path / "home")


@pytest.fixture
def hub(hub):
    hub.put("lorakit/demo-base", private=False)
    return hub


def test_it_says_what_changes_before_and_what_was_sent_after(hub, home):
    (home / "optimizer.pt").write_bytes(b"x")
    old = {"README.md": b"old", "old.gguf": b"old"}
    hub.put(files=old, private=False)
    done = invoke("push", home, "hf:org/repo")
    commit = hub.repositories["org/repo"].branches["main"]
    assert done.stdout.splitlines() == [
        "hf:org/repo: it is there, public",
        "  + adapter_config.json",
        "  + adapter_model.safetensors",
        "  ~ README.md",
        "  there and not in the folder: old.gguf",
        "  not published: optimizer.pt",
        f"{hub.url}/org/repo: 393 KB sent, commit {commit}",
    ]
    assert done.stderr.splitlines() == [
        "note: org/repo is public already and stays so",
        "note: weights of an earlier upload stay there: old.gguf; --delete removes them",
    ]
    again = invoke("push", home, "hf:org/repo", "--delete")
    assert "  - old.gguf" in again.stdout
    assert "unchanged: README.md" in again.stdout
    assert invoke("push", home, "hf:org/repo").stdout.endswith("nothing was sent\n")


def test_a_dry_run(hub, home):
    done = invoke("push", home, "hf:org/new", "--dry-run")
    assert done.stdout.startswith("hf:org/new: a new repository, private\n")
    assert done.stdout.endswith("/org/new: nothing was sent, 393 KB would be\n")
    assert "org/new" not in hub.repositories


def test_as_json(hub, home):
    said = json.loads(invoke("push", home, "hf:org/repo", "--public", "--json").stdout)
    assert said["private"] is False
    assert said["commit"] == hub.repositories["org/repo"].branches["main"]
    assert said["added"] == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert said["bytes"] > 390_000
    assert said["dry_run"] is False


def test_hints_are_in_its_own_words(hub, home):
    (home / "adapter_config.json").write_text(
        (home / "adapter_config.json").read_text().replace("lorakit/demo-base", "/opt/base")
    )
    assert "--base-model org/repo" in invoke("push", home, "hf:org/repo").error.hint
    (home / "lorakit.json").write_text(json.dumps({"adapter": {"digest": "0"}}))
    error = invoke("push", home, "hf:org/repo", "--base-model", "org/base").error
    assert error.hint.startswith("export or train again; --force publishes")


def program(hub, home, tmp_path, **options):
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "hf")}
    words = [sys.executable, "-m", "lorakit", "push", str(home), "hf:org/repo"]
    return subprocess.Popen(
        words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def test_a_process_of_its_own(hub, home, tmp_path):
    run = program(hub, home, tmp_path)
    out, err = run.communicate()
    assert (run.returncode, err) == (0, "")
    assert "3" in out
    assert hub.repositories["org/repo"].private


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_ends_it_at_once(hub, home, tmp_path):
    hub.faults["blob"] = ["silent"]
    ignored = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}  # in background
    run = program(hub, home, tmp_path, **ignored)
    try:
        while not hub.count("blob"):
            assert run.poll() is None
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=60)
    finally:
        run.kill()
    assert run.returncode in (130, -signal.SIGINT)
    assert "Traceback" not in err
    assert hub.count("commit") == 0
