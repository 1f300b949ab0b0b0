"""The tools of the interleavings: the bases that are made, and the long run."""

import subprocess
import sys

import numpy as np
import pytest
import soak
from bases import base_path
from naive import Question, could_differ

from llama_library import need_llama
from lorakit.base.gguf import open_base
from lorakit.engines.protocol import EngineOptions, Row
from lorakit.engines.table import ENGINES, choose_engine, open_engine
from lorakit.runtime import prefix
from lorakit.runtime.params import SamplingParams


@pytest.mark.parametrize("name", ["qwen3", "demo"])
def test_a_gguf_file_is_its_folder(bases_folder, name):
    """llama.cpp's logits of the file are ONNX Runtime's of the folder, and so are the tokens."""
    need_llama()
    ids, found, texts = np.arange(20, 60), [], []
    for engine in ("onnx", "llama"):
        base = open_base(base_path(name, bases_folder, gguf=engine == "llama"))
        opened = open_engine(engine, base, EngineOptions(threads=1, context=64))
        row = Row(sequence=opened.open_sequence(), tokens=ids, logits="all")
        found.append(opened.forward([row])[0].copy())
        opened.close()
        tokenizer = ENGINES[choose_engine(None, base)].tokenizer(base)
        texts.append([tokenizer.token_bytes(token) for token in range(4, 400)])
    assert np.abs(found[0] - found[1]).max() < 2e-2
    assert np.std(found[0]) > 0.5
    assert texts[0] == texts[1]


def test_a_long_run_tells_what_it_did(tmp_path):
    command = [sys.executable, soak.__file__, "--engine", "fake", "--count", "8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fake  gemma3 8 interleavings, 240 operations" in done.stdout
    assert done.stdout.endswith("8 interleavings, 0 differences\n")


def test_a_long_run_tells_what_differs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prefix, "agreement", lambda one, other: None)
    status = soak.slice_of("fake", "gemma3", 0, 48, tmp_path)
    printed, total = capsys.readouterr().out, soak.Sum()
    total.add(printed, status)
    assert status == 1
    assert len(total.faults) == 1
    assert "DifferenceError" in total.faults[0]
    assert "soak.py --engine fake --base gemma3 --opening" in total.faults[0]


def test_a_process_that_hangs_or_dies_is_a_difference():
    total = soak.Sum()
    total.add("Timeout (0:05:00)!\nThread 0x1:\n", 1)
    assert "1 differences" in str(total)
    assert "Thread 0x1" in total.faults[0]


def test_only_what_rounding_explains_is_a_tie():
    near = np.array([0.0, 1.0, 1.00001, 0.5], np.float32)
    greedy = Question(prompt=(1,), params=SamplingParams())
    assert could_differ(greedy, [], near, 1, 1e-4)
    assert could_differ(greedy, [], near, None, 1e-4)
    assert not could_differ(greedy, [], near, 1, 1e-6)
    assert not could_differ(greedy, [], near, 3, 1e-4)
    drawn = Question(prompt=(1,), params=SamplingParams(temperature=1.0, seed=0))
    assert not could_differ(drawn, [], near, None, 0.0)
