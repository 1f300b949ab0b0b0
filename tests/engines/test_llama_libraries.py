"""Which library of llama.cpp is used, and what is said where none can be."""

import shutil
import sys
import sysconfig
from pathlib import Path

import pytest
from numpy.random import mtrand

from llama_library import need_llama
from lorakit.engines.llama.binding import compiler, libraries, trial
from lorakit.engines.llama.binding.libraries import (
    COMPILED,
    VARIABLE,
    Candidate,
    choose_library,
    find_file,
    handicap,
    install_hint,
    installed,
)
from lorakit.engines.llama.binding.library import Library, bind_llama, bind_mtmd
from lorakit.engines.llama.child_process import library_identity, run_child
from lorakit.engines.llama.native import chosen
from lorakit.errors import EngineError, MissingExtraError

BUILD = "2026.10.11549"
ANOTHER = Path(mtrand.__file__)  # a shared library, and not of llama.cpp


@pytest.fixture
def alone(monkeypatch):
    """No library is named and none is installed, whatever there is."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(libraries, "installed", lambda: iter(()))
    return monkeypatch


@pytest.fixture
def library():
    need_llama()
    return chosen().library


def offer(monkeypatch, *candidates):
    monkeypatch.setattr(libraries, "installed", lambda: iter(candidates))


def test_without_one_the_error_says_what_to_install(alone):
    with pytest.raises(MissingExtraError, match="none is installed") as caught:
        choose_library()
    assert caught.value.code == "extra_missing"
    assert caught.value.hint.startswith("pip install 'lorakit[llama]', which needs no compiler")


@pytest.mark.parametrize(
    ("system", "machine", "abi", "word"),
    [
        ("linux", "x86_64", "cpython-311-x86_64-linux-gnu", "pip install"),
        ("linux", "x86_64", "cpython-311-x86_64-linux-musl", "musl"),
        ("linux", "riscv64", "", "no wheel for linux on riscv64"),
        ("win32", "AMD64", None, "pip install"),
        ("win32", "ARM64", None, "no wheel for win32 on ARM64"),
    ],
)
def test_where_there_is_no_wheel_that_is_said(system, machine, abi, word, monkeypatch):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(libraries.platform, "machine", lambda: machine)
    monkeypatch.setattr(sysconfig, "get_config_var", lambda _: abi)
    assert word in install_hint()
    assert (VARIABLE in install_hint()) is (word != "pip install")


@pytest.mark.parametrize(
    ("name", "word"),
    [("absent.so", "neither a file"), ("folder", "neither a file"), ("text.so", "cannot be used")],
)
def test_one_that_is_named_and_cannot_be_loaded_is_an_error(name, word, library, tmp_path, alone):
    """Although another is installed."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.so").write_text("no library")
    offer(alone, Candidate("xllamacpp", BUILD, library.path))
    alone.setenv(VARIABLE, str(tmp_path / name))
    with pytest.raises(EngineError, match=word) as caught:
        choose_library()
    assert str(tmp_path / name) in caught.value.message
    assert VARIABLE in caught.value.hint


def test_one_that_is_named_and_is_no_llama_cpp_names_what_it_lacks(alone):
    alone.setenv(VARIABLE, str(ANOTHER))
    found = choose_library()
    assert not found.known
    with pytest.raises(EngineError, match="lacks functions") as caught:
        bind_llama(found.library)
    assert "llama_decode" in caught.value.items


def test_a_folder_that_holds_one_may_be_named(library, alone, tmp_path):
    place = tmp_path / "build" / "bin"
    place.mkdir(parents=True)
    (place / library.path.name).write_bytes(b"")
    assert find_file(tmp_path / "build") == place / library.path.name
    alone.setenv(VARIABLE, str(library.path))
    named = choose_library()
    assert (named.candidate.package, named.library.path) == ("", library.path)
    assert named.known == chosen().known


def test_what_is_installed_and_cannot_be_used_is_listed_with_its_reasons(alone, tmp_path):
    (tmp_path / "libllama.so").write_text("no library")
    offer(
        alone,
        Candidate(COMPILED, "0.1", tmp_path / "libllama.so"),
        Candidate("xllamacpp", BUILD, ANOTHER),
    )
    alone.setattr(libraries, "cpu_features", lambda: frozenset(["avx2"]))
    with pytest.raises(MissingExtraError, match="none of those installed") as caught:
        choose_library()
    one, two = caught.value.items
    assert one.startswith("llama-cpp-python 0.1: cannot be loaded: ")
    assert two == f"xllamacpp {BUILD}: it has no functions of llama.cpp"


def test_an_installed_version_that_nobody_compared_is_not_used_unless_it_is_named(library, alone):
    offer(alone, Candidate("xllamacpp", BUILD, library.path))
    alone.setattr(libraries, "cpu_features", lambda: frozenset(["avx2"]))
    assert choose_library().known
    alone.setattr(libraries, "KNOWN", {"0.4.0": "older"})
    with pytest.raises(MissingExtraError) as caught:
        choose_library()
    (reason,) = caught.value.items
    assert f"expected llama.cpp 0.4.0, found {library.version}" in reason
    assert f"{VARIABLE}={library.path}" in reason
    alone.setenv(VARIABLE, str(library.path))
    assert choose_library().known == ""


@pytest.mark.parametrize("package", ["xllamacpp", "llama-cpp-py-sync"])
@pytest.mark.parametrize("version", ["0.2.13", "2026.5.9093", "0.11740"])
def test_another_build_is_not_even_loaded(package, version, alone):
    alone.setattr(libraries, "Library", pytest.fail)
    offer(alone, Candidate(package, version, Path("x")))
    with pytest.raises(MissingExtraError) as caught:
        choose_library()
    (reason,) = caught.value.items
    found = version.rpartition(".")[2]
    assert f"expected a build from 11548 to 11739, found {found}; " in reason


def test_one_that_is_named_is_loaded_in_a_child_first(library, alone, cache, tmp_path):
    alone.setenv(VARIABLE, str(library.path))
    start = trial.start
    alone.setattr(trial, "start", lambda *_, **options: start("os", "abort", **options))
    for _ in range(2):
        with pytest.raises(EngineError, match="crashes when it is loaded"):
            choose_library()
    alone.setattr(trial, "start", start)
    assert choose_library().known
    alone.setattr(trial, "start", pytest.fail)
    assert choose_library().known, "remembered"
    offer(alone, Candidate("xllamacpp", BUILD, library.path))
    alone.setenv("LORAKIT_CACHE", str(tmp_path / "another"))
    assert choose_library().known, "what is installed is tried by everybody"


def test_where_no_child_can_be_started_it_is_loaded_all_the_same(library, alone, cache, caplog):
    alone.setenv(VARIABLE, str(library.path))
    alone.setattr(sys, "frozen", True, raising=False)
    assert choose_library().known
    assert "is not tried in a child process" in caplog.text


def test_packages_are_found_without_importing_them(alone, tmp_path):
    alone.undo()
    for name in ("llama_cpp", "xllamacpp", "llama_cpp_py_sync"):
        (tmp_path / name / "lib").mkdir(parents=True)
        (tmp_path / name / "__init__.py").write_text("raise AssertionError")
        alone.delitem(sys.modules, name, raising=False)
    (tmp_path / "llama_cpp" / "lib" / "libllama.so").touch()
    (tmp_path / "xllamacpp" / "xllamacpp.abi3.so").touch()
    (tmp_path / "llama_cpp_py_sync" / "llama.dll").touch()
    alone.syspath_prepend(str(tmp_path))
    found = {each.package: each.path.relative_to(tmp_path).as_posix() for each in installed()}
    assert found == {
        "llama-cpp-python": "llama_cpp/lib/libllama.so",
        "xllamacpp": "xllamacpp/xllamacpp.abi3.so",
        "llama-cpp-py-sync": "llama_cpp_py_sync/llama.dll",
    }


class Build:
    """A library as far as its choice is concerned."""

    version = "0.6.0-dev"

    def __init__(self, path: Path, info: str = "CPU : AVX2 = 1 | ") -> None:
        self.path, self.info = path, info

    def silence(self):
        self.silent = True

    def system_info(self):
        assert self.silent, "backends would write to standard error"
        return self.info


GCC12, GCC14 = b"\0GCC: (Debian 12.2.0-14) 12.2.0\0", b"\0GCC: (GNU) 14.1.0\0"
CLANG = b"\0GCC: (GNU) 12.1.0\0clang version 19.1.0\0"


@pytest.mark.parametrize(
    ("mark", "info", "cpu", "word"),
    [
        (GCC12, "CPU : AVX2 = 1 | AMX_INT8 = 1 | ", {"avx2", "amx_int8"}, "GCC 12"),
        (GCC14, "CPU : AVX2 = 1 | AMX_INT8 = 1 | ", {"avx2", "amx_int8"}, ""),
        (CLANG, "CPU : AVX2 = 1 | AMX_INT8 = 1 | ", {"avx2", "amx_int8"}, ""),
        (GCC12, "CPU : AVX2 = 1 | AVX512 = 1 | ", {"avx2", "avx512f"}, ""),
        (GCC14, "CPU : SSE3 = 1 | ", {"avx2"}, "without AVX2"),
        (GCC14, "CUDA : ARCHS = 890 | CPU : SSE3 = 1 | ", {"avx2"}, ""),
        (GCC14, "CPU : NEON = 1 | ", {"asimd"}, ""),
        (GCC14, "CPU : SSE3 = 1 | ", set(), ""),
    ],
)
def test_a_compiled_library_comes_first_unless_it_is_known_to_be_slower(
    mark, info, cpu, word, tmp_path, alone
):
    paths = [tmp_path / "libllama.so", tmp_path / "xllamacpp.abi3.so"]
    for path in paths:
        path.write_bytes(mark)
    build = Build(paths[0], info)
    build.silence()
    reason = handicap(build, cpu)
    assert word in reason if word else reason == ""
    alone.setattr(libraries, "cpu_features", lambda: frozenset(cpu))
    alone.setattr(libraries.platform, "machine", lambda: "any")
    alone.setattr(libraries, "Library", lambda path: Build(path, info))
    compiled = Candidate(COMPILED, "0.3.36", paths[0])
    offer(alone, compiled, Candidate("xllamacpp", BUILD, paths[1]))
    found = choose_library()
    assert found.candidate.package == ("xllamacpp" if word else COMPILED)
    assert [*found.passed_over] == ([f"{compiled}: {reason}"] if word else [])
    offer(alone, compiled)
    assert choose_library().candidate is compiled


@pytest.mark.parametrize(
    ("machine", "cpu", "used"),
    [("x86_64", {"sse4_1"}, False), ("AMD64", {"sse4_1"}, False), ("x86_64", {"avx2"}, True),
     ("x86_64", set(), True), ("aarch64", {"asimd"}, True)],
)  # fmt: skip
def test_a_prebuilt_library_is_not_loaded_where_it_would_crash(machine, cpu, used, alone):
    alone.setattr(libraries.platform, "machine", lambda: machine)
    alone.setattr(libraries, "cpu_features", lambda: frozenset(cpu))
    alone.setattr(libraries, "Library", Build if used else pytest.fail)
    offer(alone, Candidate("xllamacpp", BUILD, Path("x")))
    if used:
        assert choose_library().candidate.package == "xllamacpp"
        return
    with pytest.raises(MissingExtraError) as caught:
        choose_library()
    assert caught.value.items == (
        f"xllamacpp {BUILD}: it needs AVX2, which this CPU does not have",
    )


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"GCC: (GNU) 10.2.1\0GCC: (GNU) 4.8.5\0", "GCC: (GNU) 10.2.1"),
        (CLANG, "clang version 19.1.0"),
        (b"libgomp.so.1", "GCC, by its libgomp"),
        (b"nothing", ""),
        (b"", ""),
    ],
)
def test_the_newest_mark_of_a_compiler_counts(content, found, tmp_path):
    path = tmp_path / "libllama.so"
    path.write_bytes(content)
    assert compiler.compiler_of(path) == found
    (tmp_path / "libggml-cpu.so").write_bytes(GCC12)
    assert compiler.gcc_version(compiler.compiler_of(path)) == 12, "of the kernels' own file"


def test_a_child_has_the_library_of_its_parent(library, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert run_child("llama_library", "end_with_library") == [str(library.path)]
    assert library_identity().startswith(str(library.path.resolve()))


def test_a_part_that_cannot_be_loaded_is_told_when_it_is_needed(library, tmp_path):
    path = tmp_path / "libllama.so"
    shutil.copyfile(ANOTHER, path)
    (tmp_path / "libmtmd.so").write_text("no library")
    found = Library(path)
    (reason,) = found.lacking
    assert "libmtmd.so" in reason
    found.function = lambda name: None if name.startswith("mtmd") else library.function(name)
    assert bind_llama(found)
    with pytest.raises(EngineError, match="lacks functions") as caught:
        bind_mtmd(found)
    assert caught.value.items[0] == reason
