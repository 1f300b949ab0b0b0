"""Which library of llama.cpp is used, and what is said where none can be."""

import os
import shutil
import sys
import sysconfig
from pathlib import Path

import pytest
from numpy.random import mtrand

from llama_library import need_llama
from lorakit.engines.llama import build
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
needs_elf = pytest.mark.skipif(sys.platform != "linux", reason="files as Linux names them")
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


def test_each_is_loaded_in_a_child_first(library, alone, cache):
    alone.setenv(VARIABLE, str(library.path))
    start = trial.start
    alone.setattr(trial, "start", lambda *_, **options: start("os", "abort", **options))
    for _ in range(2):
        with pytest.raises(EngineError, match="crashes when it is loaded"):
            choose_library()
    offer(alone, Candidate("xllamacpp", BUILD, library.path))
    alone.delenv(VARIABLE)
    with pytest.raises(MissingExtraError) as caught:
        choose_library()
    assert "cannot be loaded: it crashes" in caught.value.items[0]
    alone.setattr(trial, "start", start)
    assert choose_library().known
    alone.setattr(trial, "start", pytest.fail)
    assert choose_library().known, "remembered"
    alone.setenv(VARIABLE, str(library.path))
    assert choose_library().known


@needs_elf
@pytest.mark.parametrize("named", [False, True])
def test_one_that_was_cut_off_ends_no_process(named, library, alone, cache, tmp_path):
    """Its tables are there, its data are not: loading it raises SIGBUS."""
    broken = tmp_path / "libllama.so"
    content = library.path.read_bytes()
    broken.write_bytes(content[: min(1 << 20, len(content) // 4)])
    good = Candidate("xllamacpp", BUILD, library.path)
    offer(alone, Candidate(COMPILED, "0.3.36", broken), good)
    if named:
        alone.setenv(VARIABLE, str(broken))
        with pytest.raises(EngineError, match=f"{VARIABLE} is .*SIGBUS"):
            choose_library()
        return
    found = choose_library()
    assert found.candidate is good
    (reason,) = found.passed_over
    assert reason.startswith("llama-cpp-python 0.3.36: cannot be loaded: it crashes")
    assert "SIGBUS" in reason


def test_one_that_ends_its_process_is_not_loaded(library, alone, cache):
    """As the linker does, with 127, where a function is missing."""
    start = trial.start
    alone.setattr(trial, "start", lambda *_, **options: start("sys", "exit", "x", **options))
    offer(alone, Candidate("xllamacpp", BUILD, library.path))
    with pytest.raises(MissingExtraError) as caught:
        choose_library()
    assert "ended with 1" in caught.value.items[0]


def test_where_no_child_can_be_started_it_is_loaded_all_the_same(library, alone, cache, caplog):
    alone.setenv(VARIABLE, str(library.path))
    for _ in range(2):
        caplog.clear()
        with alone.context() as frozen:
            frozen.setattr(sys, "frozen", True, raising=False)
            assert choose_library().known
        assert "is not tried in a child process" in caplog.text, "and that is not remembered"


@needs_elf
def test_a_link_in_another_folder_leads_to_the_library(library, alone, tmp_path):
    for name in ("libllama.so", "current.so"):
        link = tmp_path / name
        link.symlink_to(library.path)
        alone.setenv(VARIABLE, str(link))
        found = run_child("llama_library", "end_with_library")
        assert found == [str(library.path.resolve())]
        chosen_through_it = choose_library().library
        assert bind_mtmd(chosen_through_it), "with what lies beside it"


class Parts:
    """Functions of ggml's for backends, and which of them were called with what."""

    def __init__(self, *, there: bool, folder: object) -> None:
        self.there, self.holds, self.asked = there, folder, []

    def find(self, kind):
        assert kind == 0  # GGML_BACKEND_DEVICE_TYPE_CPU
        return 1 if self.there else None

    def load(self, folder):
        self.asked.append(folder)
        self.there = folder == self.holds

    def function(self, name):
        return {
            "ggml_backend_dev_by_type": self._plain(self.find),
            "ggml_backend_load_all_from_path": self._plain(self.load),
        }.get(name)

    @staticmethod
    def _plain(method):
        def function(argument):
            return method(argument)

        return function


@pytest.mark.parametrize(
    ("there", "holds", "asked"),
    [(True, b"", []), (False, b"/x", [b"/x"]), (False, None, [b"/x", None])],
)
def test_backends_that_are_files_of_their_own_are_loaded(there, holds, asked, monkeypatch):
    library, parts = Library.__new__(Library), Parts(there=there, folder=holds)
    library.path = Path("/x/libllama.so")
    monkeypatch.setattr(library, "function", parts.function)
    monkeypatch.setattr("os.fsencode", lambda path: path.as_posix().encode())
    library.load_backends()
    assert parts.asked == asked


def test_without_a_backend_for_the_cpu_a_library_cannot_be_used(library, alone):
    parts = Parts(there=False, folder=b"elsewhere")

    class Lacking(Library):
        def function(self, name):
            return parts.function(name) or super().function(name)

    alone.setattr(libraries, "Library", Lacking)
    offer(alone, Candidate("xllamacpp", BUILD, library.path))
    with pytest.raises(MissingExtraError) as caught:
        choose_library()
    assert "it has no backend for the CPU" in caught.value.items[0]
    alone.setenv(VARIABLE, str(library.path))
    with pytest.raises(EngineError, match="no backend for the CPU"):
        choose_library()


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

    def load_backends(self):
        assert self.silent

    def system_info(self):
        assert self.silent, "backends would write to standard error"
        return self.info


@pytest.fixture
def imagined(alone):
    """Libraries are Builds, of which there is no file to try."""
    alone.setattr(libraries, "require_harmless", lambda path: None)
    return alone


ZEN4 = "CPU : AVX = 1 | AVX2 = 1 | FMA = 1 | AVX512 = 1 | AVX512_VNNI = 1 | AVX512_BF16 = 1 | "
SAPPHIRE = "CPU : AVX2 = 1 | AVX512 = 1 | AVX_VNNI = 1 | AMX_INT8 = 1 | OPENMP = 1 | "
GRAVITON = "CPU : NEON = 1 | DOTPROD = 1 | MATMUL_INT8 = 1 | SVE = 1 | "


@pytest.mark.parametrize(
    ("system", "info", "cpu", "absent"),
    [
        ("linux", ZEN4, {"avx2"}, "AVX512, AVX512_VNNI, AVX512_BF16"),
        ("linux", ZEN4, {"avx2", "avx512f", "avx512_vnni"}, "AVX512_BF16"),
        ("linux", SAPPHIRE, {"avx2", "avx512f", "avx_vnni"}, "AMX_INT8"),
        ("linux", "CPU : AVX = 1 | F16C = 1 | ", {"avx", "sse4_2"}, "F16C"),
        ("linux", GRAVITON, {"asimd", "asimddp"}, "MATMUL_INT8, SVE"),
        ("win32", ZEN4, {"sse4_1", "avx2"}, "AVX512"),
        ("darwin", GRAVITON, {"asimd", "asimddp"}, "MATMUL_INT8"),
        ("linux", ZEN4, {"avx2", "avx512f", "avx512_vnni", "avx512_bf16"}, ""),
        ("win32", ZEN4, {"sse4_1", "avx2", "avx512f"}, ""),
        ("linux", "CPU : AVX2 = 1 | FMA = 1 | REPACK = 1 | ", {"avx2"}, ""),
        ("linux", "CUDA : ARCHS = 890 | USE_GRAPHS = 1 | CPU : SSE3 = 1 | ", {"avx2"}, ""),
        ("linux", ZEN4, set(), ""),
    ],
)
def test_a_library_that_was_compiled_for_another_cpu_is_passed_over(
    system, info, cpu, absent, imagined, tmp_path
):
    imagined.setattr(sys, "platform", system)
    imagined.setattr(libraries, "cpu_features", lambda: frozenset(cpu))
    imagined.setattr(libraries.platform, "machine", lambda: "any")
    imagined.setattr(
        libraries, "Library", lambda path: Build(path, info if path.name == "one.so" else "CPU : ")
    )
    one, two = tmp_path / "one.so", tmp_path / "two.so"
    one.touch()
    compiled, prebuilt = Candidate(COMPILED, "0.3.36", one), Candidate("xllamacpp", BUILD, two)
    offer(imagined, compiled, prebuilt)
    expected = f"compiled for another CPU: this one does not have {absent}"
    if absent:
        found = choose_library()
        assert found.candidate is prebuilt
        assert found.passed_over == (f"{compiled}: {expected}",)
        said = build.kernels_for(info, cpu, "none")
        assert "all that this CPU has" not in said
        assert f"this CPU does not have {absent}" in said
        offer(imagined, compiled)
        with pytest.raises(MissingExtraError, match="none of those installed"):
            choose_library()
    imagined.setenv(VARIABLE, str(one))
    if not absent:
        assert choose_library().library.path == one
        return
    with pytest.raises(EngineError) as caught:
        choose_library()
    assert caught.value.message == f"{VARIABLE} is {one}, which cannot be used: {expected}"


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
    mark, info, cpu, word, tmp_path, imagined
):
    paths = [tmp_path / "libllama.so", tmp_path / "xllamacpp.abi3.so"]
    for path in paths:
        path.write_bytes(mark)
    own = Build(paths[0], info)
    own.silence()
    reason = handicap(own, cpu)
    assert word in reason if word else reason == ""
    imagined.setattr(libraries, "cpu_features", lambda: frozenset(cpu))
    imagined.setattr(libraries.platform, "machine", lambda: "any")
    imagined.setattr(libraries, "Library", lambda path: Build(path, info))
    compiled = Candidate(COMPILED, "0.3.36", paths[0])
    offer(imagined, compiled, Candidate("xllamacpp", BUILD, paths[1]))
    found = choose_library()
    assert found.candidate.package == ("xllamacpp" if word else COMPILED)
    assert [*found.passed_over] == ([f"{compiled}: {reason}"] if word else [])
    offer(imagined, compiled)
    assert choose_library().candidate is compiled


@pytest.mark.parametrize(
    ("machine", "cpu", "used"),
    [("x86_64", {"sse4_1"}, False), ("AMD64", {"sse4_1"}, False), ("x86_64", {"avx2"}, True),
     ("x86_64", set(), True), ("aarch64", {"asimd"}, True)],
)  # fmt: skip
def test_a_prebuilt_library_is_not_loaded_where_it_would_crash(machine, cpu, used, imagined):
    imagined.setattr(libraries.platform, "machine", lambda: machine)
    imagined.setattr(libraries, "cpu_features", lambda: frozenset(cpu))
    info = "CPU : NEON = 1 | " if machine == "aarch64" else "CPU : AVX2 = 1 | "
    imagined.setattr(
        libraries, "Library", (lambda path: Build(path, info)) if used else pytest.fail
    )
    offer(imagined, Candidate("xllamacpp", BUILD, Path("x")))
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
    assert str(library.path.resolve()) in library_identity()


@needs_elf
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(
    "part", ["libllama.so", "libggml-cpu.so", "libggml.so.0.25.3", "libmtmd.so.0"]
)
def test_a_library_is_another_when_one_of_its_parts_is(part, frozen, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "frozen", frozen, raising=False)
    names = ("libllama.so", "libggml-cpu.so", "libggml.so.0.25.3", "libmtmd.so.0")
    for name in (*names, "llama-cli", "README"):
        (tmp_path / name).write_bytes(b"1")
    library = tmp_path / "libllama.so"
    before = trial.identity_of(library)
    assert trial.identity_of(library) == before
    (tmp_path / "llama-cli").write_bytes(b"no part")
    assert trial.identity_of(library) == before
    status = (tmp_path / part).stat()
    (tmp_path / part).write_bytes(b"2")
    os.utime(tmp_path / part, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert trial.identity_of(library) != before
    link = tmp_path / "elsewhere" / "libllama.so"
    link.parent.mkdir()
    link.symlink_to(library)
    assert str(tmp_path / part) in map(str, trial.parts_of(link))


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
