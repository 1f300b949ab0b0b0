"""Kernels that may crash are tried in a child process; the result decides how models load."""

import sys

import pytest
from llama_cases import base_file, logits_of, open_engine

from lorakit.engines.llama import build, kernels, model, preflight
from lorakit.engines.llama import child_process as child
from lorakit.engines.llama.options import LlamaOptions
from lorakit.errors import FormatError


@pytest.fixture
def untried(cache, monkeypatch):
    kernels._tried.cache_clear()
    yield monkeypatch
    kernels._tried.cache_clear()


def with_amx(monkeypatch):
    monkeypatch.setattr(kernels, "system_info", lambda: "AVX2 = 1 | AMX_INT8 = 1 | ")
    monkeypatch.setattr(kernels, "_cpu", lambda: "flags: avx2 amx_int8")


def test_nothing_is_tried_without_amx(untried):
    untried.setattr(kernels, "run_child", pytest.fail)
    untried.setattr(kernels, "_cpu", lambda: "flags: avx2")
    assert kernels.amx_verdict() == "none"
    assert model.repacks(LlamaOptions())


def test_a_success_is_remembered(untried):
    with_amx(untried)
    assert kernels.amx_verdict() == "safe"
    kernels._tried.cache_clear()
    untried.setattr(kernels, "run_child", pytest.fail)
    assert kernels.amx_verdict() == "safe"
    assert model.repacks(LlamaOptions())
    assert not model.repacks(LlamaOptions(repack=False))


def test_a_crash_turns_repacking_off(untried):
    with_amx(untried)
    run = kernels.run_child
    untried.setattr(kernels, "run_child", lambda *_: run("os", "abort"))
    assert kernels.amx_verdict() == "faulty"
    assert not model.repacks(LlamaOptions())
    assert model.repacks(LlamaOptions(repack=True))
    engine = open_engine("llama")
    assert logits_of(engine, [5, 6, 7]).shape == (3, 512)
    engine.close()
    assert "not used" in build.describe_build()["AMX"]


def test_a_frozen_program_starts_no_child(untried):
    untried.setattr(sys, "frozen", True, raising=False)
    untried.setattr(preflight, "run_child", pytest.fail)
    untried.setattr(kernels, "run_child", pytest.fail)
    preflight.preflight_model(base_file("llama"), LlamaOptions())
    with_amx(untried)
    assert kernels.amx_verdict() == "faulty", "slower, and never wrong"


def test_the_reasons_of_a_crash_are_reported(cache, monkeypatch):
    assert child.run_child("os", "_exit_no_such_function")[-1].startswith("AttributeError")
    reasons = child.run_child("os", "abort")
    assert any("SIGABRT" in line or "ended with" in line for line in reasons)
    monkeypatch.setattr(preflight, "run_child", lambda *_: reasons)
    with pytest.raises(FormatError) as caught:
        preflight.preflight_model(base_file("llama"), LlamaOptions())
    assert caught.value.items == tuple(reasons)


def test_the_build_is_described():
    rows = build.describe_build()
    assert set(rows) - {"slow"} == {"state", "library", "built for", "compiler", "AMX"}
    assert "libllama" in rows["library"] or "llama" in rows["library"]


@pytest.mark.parametrize(
    ("info", "compiler", "verdict", "word"),
    [
        ("SSE3 = 1", "clang version 19.0", "none", "vector"),
        ("AVX2 = 1", "GCC: (Debian) 12.2.0", "none", "clang"),
        ("AVX2 = 1", "clang version 19.0", "faulty", "AMX"),
        ("NEON = 1", "clang version 19.0", "none", ""),
        ("AVX512 = 1", "", "safe", ""),
    ],
)
def test_a_slow_build_is_recognised(info, compiler, verdict, word):
    found = build.slowness(info, compiler, verdict)
    assert word in found if word else found == ""
