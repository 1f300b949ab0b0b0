"""os.fork() beside an open model: the child is told, may open its own, and ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import lorakit
from folders import DATA
from llama_library import need_llama

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="fork is a POSIX matter")
LLAMA = DATA / "truth/bases/llama"
GGUF = DATA / "truth/gguf/llama.base.f32.gguf"


SCRIPT = """
import os, sys
sys.path.insert(0, {tests!r})
from runtime_cases import in_child
import lorakit
base, engine = sys.argv[1:]
open_model = lambda: lorakit.open(base, engine=engine, threads=2)
def answer(model):
    completion = model.complete([5, 6, 7], max_tokens=6, ignore_eos=True)
    return [token.token for token in completion.tokens]
model = open_model()
expected = str(answer(model))
stream = model.stream([5, 6, 7], max_tokens=40, ignore_eos=True)
next(stream)
def anew():
    with open_model() as mine:
        return answer(mine)
for name, work in {{
    "complete": lambda: answer(model),
    "logits": lambda: model.logits([5, 6, 7]),
    "load": lambda: model.load_adapter({adapter!r}),
    "apply": lambda: model.apply({{}}),
    "stream": lambda: list(stream),
    "close": model.close,
    "anew": anew,
    "end": lambda: "",
}}.items():
    said, status = in_child(work, whole_end=True)
    print(name, status, said.splitlines()[0] if said else "", "right" if said == expected else "")
print("parent", str(answer(model)) == expected, len(list(stream)) > 10)
"""


@pytest.mark.parametrize("engine", ["onnx", "llama", "torch", "export"])
def test_a_child_is_told_opens_its_own_and_ends(engine, tmp_path):
    if engine == "llama":
        need_llama()
    if engine == "torch":
        pytest.importorskip("torch")
    script = SCRIPT.format(
        tests=str(Path(__file__).parent), adapter=str(DATA / "truth/peft/llama/plain")
    )
    base = GGUF if engine == "llama" else LLAMA
    if engine == "export":
        result = lorakit.export(
            base, tmp_path / "export", mode="dynamic", quantize="none", prove_it=False
        )
        base, engine = result.output, "onnx"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(base), engine],
        capture_output=True,
        text=True,
        timeout=100,
    )
    lines = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    told = "0 ClosedError: the model was opened before this process was forked, and belongs to its"
    for name in ("complete", "logits", "load", "apply", "stream"):
        assert lines[name].startswith(told), (name, done.stdout, done.stderr)
    assert lines["close"].strip() == "0 None"
    assert lines["anew"].startswith("0 ["), done.stdout
    assert lines["anew"].endswith("right"), done.stdout
    assert lines["end"].strip() == "0"
    assert lines["parent"] == "True True"
    assert done.returncode == 0


LOCKS = """
import os, sys, threading
sys.path.insert(0, {tests!r})
from runtime_cases import in_child
import lorakit
from lorakit.chat.dialogue import Dialogue
base, engine = sys.argv[1:]
model = lorakit.open(base, engine=engine, threads=1)
held, go = threading.Event(), threading.Event()
def slow(*arguments, **options):
    held.set()
    go.wait(30)
    raise SystemExit
original = Dialogue.tool_format._function
Dialogue.tool_format._function = slow
reading = threading.Thread(target=lambda: model._dialogue.stop_tokens, daemon=True)
reading.start()
held.wait(30)
load = model._loads._threads.submit(go.wait, 30)
model._loads._pending.add(load)
pending = [model.load_adapter({adapter!r}, str(n), wait=False) for n in range(4)]
def work():
    Dialogue.tool_format._function = original
    found = []
    for use in (
        lambda: model._dialogue.stop_tokens and "computed",
        lambda: model.encode("hello") and "encoded",
        load.result,
        pending[-1].result,
        lambda: model.complete("hello", timeout=5),
    ):
        try:
            found.append(use())
        except lorakit.LorakitError as error:
            found.append(error.code)
    return found
lock = getattr(model.tokenizer, "_lock", None)
if lock: lock.acquire()
print(in_child(work, whole_end=True))
if lock: lock.release()
go.set()
"""


@pytest.mark.parametrize("engine", ["onnx", "llama"])
def test_no_lock_of_another_thread_is_awaited_in_a_child(engine):
    if engine == "llama":
        need_llama()
    adapter = str(DATA / "truth/peft/llama/plain")
    script = LOCKS.format(tests=str(Path(__file__).parent), adapter=adapter)
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            script,
            str(GGUF if engine == "llama" else LLAMA),
            engine,
        ],
        capture_output=True,
        text=True,
        timeout=100,
    )
    expected = "(\"['computed', 'encoded', 'closed', 'closed', 'closed']\", 0)"
    assert done.stdout.strip().endswith(expected), (done.stdout, done.stderr)
