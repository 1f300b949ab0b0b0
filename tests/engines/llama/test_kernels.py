"""Kernels that may crash are tried in a child process; the result decides how models load."""

import sys

import pytest
from llama_cases import base_file, logits_of, open_engine

from lorakit.engines.llama import build, kernels, model, preflight
from lorakit.engines.llama import child_process as child
from lorakit.engines.llama.options import LlamaOptions
from lorakit.errors import EngineError, FormatError


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


def test_a_frozen_program_knows_its_library_wherever_it_was_unpacked(untried):
    assert child.library_identity() == child.file_identity(child.library_path())
    untried.setattr(sys, "frozen", True, raising=False)
    assert child.library_identity() == child.library_digest()


def test_where_no_process_starts_files_are_used_only_if_the_user_says_so(untried):
    def refuse(*_, **__):
        raise OSError(1, "no process here")

    untried.setattr("subprocess.Popen", refuse)
    with pytest.raises(EngineError, match="no child process can be started: no process here"):
        preflight.preflight_model(base_file("llama"), LlamaOptions())
    preflight.preflight_model(base_file("llama"), LlamaOptions(preflight=False))
    with_amx(untried)
    assert kernels.amx_verdict() == "faulty"


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
    assert {"state", "library", "llama.cpp", "built for", "compiler", "AMX", "kernels"} < set(rows)
    assert "llama" in rows["library"]
    assert rows["images"] == "yes"


@pytest.mark.parametrize(
    ("info", "cpu", "verdict", "found"),
    [
        ("SSE3 = 1", {"avx2"}, "none", "for no vector instructions, which is slow; this CPU also"),
        ("AVX2 = 1", {"avx2", "avx512f"}, "none", "for AVX2; this CPU also has AVX512: a library"),
        ("AVX2 = 1 | AMX_INT8 = 1", {"avx2", "amx_int8"}, "faulty", "for AVX2, AMX_INT8, without"),
        ("NEON = 1", {"asimd"}, "none", "for NEON: all that this CPU has"),
        ("AVX2 = 1", set(), "none", "for AVX2; what else this CPU has is not known"),
    ],
)
def test_what_a_build_makes_of_the_cpu(info, cpu, verdict, found):
    assert build.kernels_for(info, cpu, verdict).startswith(found)
