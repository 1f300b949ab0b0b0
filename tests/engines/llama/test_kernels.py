"""Kernels that may crash are tried in a child process; the result decides how models load."""

import sys
from types import SimpleNamespace

import pytest
from llama_cases import base_file, logits_of, open_engine

from lorakit.engines.llama import build, kernels, model, preflight
from lorakit.engines.llama import child_process as child
from lorakit.engines.llama.binding.trial import ending_of, identity_of
from lorakit.engines.llama.options import LlamaOptions
from lorakit.errors import EngineError, FormatError
from projector import write_projector


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


def test_a_frozen_program_knows_its_library_wherever_it_was_unpacked(untried, tmp_path):
    places = [tmp_path / name / "libllama.so" for name in ("one", "two")]
    for place in places:
        place.parent.mkdir()
        place.write_bytes(b"library")
    assert identity_of(places[0]) != identity_of(places[1])
    untried.setattr(sys, "frozen", True, raising=False)
    assert identity_of(places[0]) == identity_of(places[1])
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


def test_an_instruction_of_another_cpu_is_the_librarys_fault(cache, monkeypatch):
    run, path = child.run_child, base_file("llama")
    monkeypatch.setattr(
        preflight, "run_child", lambda *_: run("llama_library", "run_illegal_instruction")
    )
    projector = write_projector(cache.parent / "mmproj.gguf")
    for _ in range(2):
        with pytest.raises(EngineError, match="was compiled for another CPU") as caught:
            preflight.preflight_model(path, LlamaOptions())
        assert str(child.library_path()) in caught.value.message
        assert caught.value.items == ("the process was ended by SIGILL",)
        with pytest.raises(EngineError, match="was compiled for another CPU"):
            preflight.preflight_projector(projector, path, 1)
    monkeypatch.setattr(preflight, "run_child", run)
    preflight.preflight_model(path, LlamaOptions())


@pytest.mark.parametrize(
    ("code", "said"), [(3, "with 3"), (0xC0000005, "with 0xc0000005"), (0xC000001D, "by SIGILL")]
)
def test_how_a_process_ended_is_told(code, said):
    assert ending_of(code).endswith(said)
    assert child.ran_illegal([ending_of(code)]) is ("SIGILL" in said)


@pytest.mark.parametrize("changed", [False, True])
def test_what_passed_with_another_part_of_the_library_is_tried_again(changed, untried, tmp_path):
    """The kernels lie beside libllama, which stays as it was."""
    (tmp_path / "libllama.so").touch()
    (tmp_path / "libggml-cpu.so").touch()
    named = SimpleNamespace(candidate=SimpleNamespace(path=tmp_path / "libllama.so"))
    untried.setattr(child, "chosen", lambda: named)
    with_amx(untried)
    ran = []
    for module in (preflight, kernels):
        untried.setattr(module, "run_child", lambda *call: ran.append(call[1]) or [])
    projector = write_projector(tmp_path / "mmproj.gguf")
    for _ in range(2):
        kernels._tried.cache_clear()
        kernels.amx_verdict()
        preflight.preflight_model(base_file("llama"), LlamaOptions())
        preflight.preflight_projector(projector, base_file("llama"), 1)
        if changed:
            (tmp_path / "libggml-cpu.so").write_text("another")
    assert ran == ["run_kernels", "_run_model", "_encode"] * (2 if changed else 1)


def test_only_what_ran_is_remembered_as_fine(cache, monkeypatch, tmp_path):
    """A child that met an error has tried nothing; its parent meets the error again."""
    runs, run = [], preflight.run_child
    monkeypatch.setattr(preflight, "run_child", lambda *a: (runs.append(a[1]), run(*a))[1])
    model, cut = base_file("gemma3"), tmp_path / "cut.gguf"
    cut.write_bytes(model.read_bytes()[:-4096])
    good = write_projector(tmp_path / "good.gguf")
    other = tmp_path / "other.gguf"
    other.write_bytes(good.read_bytes().replace(b"projector_type", b"projector_tape"))
    for _ in range(2):
        preflight.preflight_model(model, LlamaOptions())
        preflight.preflight_projector(good, model, 1)
    assert runs == ["_run_model", "_encode"]
    for _ in range(2):
        preflight.preflight_model(cut, LlamaOptions())
        preflight.preflight_projector(other, model, 1)
    assert runs[2:] == ["_run_model", "_encode"] * 2


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
