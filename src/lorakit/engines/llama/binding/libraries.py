"""Which library of llama.cpp to use.

The one that LORAKIT_LLAMA_LIB names, and no other; else the first of the installed packages that
can be loaded, is a build that lorakit knows, and suits this CPU. One that was compiled for this
machine comes first, unless its files tell that it is slower than what else is installed. Each is
loaded in a child process first. Packages are found, not imported: their libraries alone are used.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lorakit.engines.cpu import cpu_features
from lorakit.engines.llama.binding.library import Library
from lorakit.engines.llama.binding.suits import handicap, misfit
from lorakit.engines.llama.binding.trial import require_harmless
from lorakit.errors import EngineError, MissingExtraError, page

VARIABLE = "LORAKIT_LLAMA_LIB"
# By llama.cpp's own version, which counts on every few hundred builds: what of it was run or read.
# The layouts of structs are seen when a library is loaded, but the types of functions are not; so
# of other versions only one that the user names is used.
KNOWN = {
    "0.5.0-dev": "tested with llama-cpp-python 0.3.36",
    "0.6.0-dev": "tested with build 11549",
    "0.7.0-dev": "its headers were compared, at build 11739",
}
COMPILED = "llama-cpp-python"  # where it is installed; the others are prebuilt
BUILDS = range(11548, 11740)  # the same, where a prebuilt package's version ends with its build
PACKAGES = {  # names of the distributions and of their modules, in the order of preference
    COMPILED: "llama_cpp",
    "xllamacpp": "xllamacpp",
    "llama-cpp-py-sync": "llama_cpp_py_sync",
}
WHEELS = {  # what the extra installs one for: pyproject.toml
    ("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "x86_64"), ("darwin", "arm64"),
    ("win32", "AMD64"),
}  # fmt: skip
FILES = ("libllama.so", "libllama.dylib", "llama.dll", "libllama.dll", "xllamacpp.abi3.so")
EXTRA = "pip install 'lorakit[llama]'"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A library that is there, not loaded yet."""

    package: str  # empty for the library that LORAKIT_LLAMA_LIB names
    version: str  # of the package; empty if its metadata is not there, as in a frozen program
    path: Path

    def __str__(self) -> str:
        return f"{self.package} {self.version}".strip() if self.package else str(self.path)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The library that is used."""

    library: Library
    candidate: Candidate
    passed_over: tuple[str, ...]  # others that are installed, each with why not

    @property
    def known(self) -> str:
        """What was tested of this version; empty for one that the user named and nobody tried."""
        return KNOWN.get(self.library.version, "")


def choose_library() -> Chosen:
    """The library to use, loaded.

    Raises MissingExtraError if there is none, EngineError if the one that is named cannot be used.
    """
    if named := os.environ.get(VARIABLE):
        return _named(Path(named).expanduser())
    passed: list[str] = []
    slower: tuple[Library, Candidate] | None = None
    for candidate in installed():
        library, reason = _try(candidate)
        if library is not None and candidate.package == COMPILED:
            reason = handicap(library, cpu_features())
            slower = (library, candidate)
        if library is not None and not reason:
            return Chosen(library, candidate, tuple(passed))
        passed.append(f"{candidate}: {reason}")
    if slower:
        return Chosen(*slower, tuple(passed[1:]))
    raise MissingExtraError(
        "the llama.cpp engine needs a library of llama.cpp, and "
        + ("none of those installed can be used" if passed else "none is installed"),
        items=passed,
        hint=install_hint(),
    )


def installed() -> Iterator[Candidate]:
    """The libraries of installed packages."""
    for package, module in PACKAGES.items():
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            continue
        for folder in (spec and spec.submodule_search_locations) or ():
            if path := find_file(Path(folder)):
                yield Candidate(package, _version(package), path)
                break


def find_file(folder: Path) -> Path | None:
    """The file with llama.cpp's functions in a folder, or in `lib` or `bin` below it."""
    places = (folder / below / name for below in ("", "lib", "bin") for name in FILES)
    return next((path for path in places if path.is_file()), None)


def install_hint() -> str:
    """What to do where no library is installed; some systems have no wheel."""
    system, machine = sys.platform, platform.machine()
    own = f"compile llama-cpp-python, or name a library with {VARIABLE} ({page('llama')})"
    if "musl" in str(sysconfig.get_config_var("SOABI") or ""):
        return f"there is no wheel for musl, such as Alpine's: {own}"
    if (system, machine) not in WHEELS:
        return f"there is no wheel for {system} on {machine}: {own}"
    return f"{EXTRA}, which needs no compiler"


def _try(candidate: Candidate) -> tuple[Library | None, str]:
    """The library, or why not. A build that is known to be another is not even loaded."""
    build = candidate.version.rpartition(".")[2]
    if candidate.package != COMPILED and build.isdecimal() and int(build) not in BUILDS:
        return None, (
            f"expected a build from {BUILDS[0]} to {BUILDS[-1]}, found {build}; "
            f"{VARIABLE}={candidate.path} would use it untested"
        )
    intel = platform.machine() in ("x86_64", "AMD64") and cpu_features()
    if candidate.package != COMPILED and intel and "avx2" not in intel:
        return None, "it needs AVX2, which this CPU does not have"
    try:
        library = _loaded(candidate.path)
    except OSError as error:
        return None, f"cannot be loaded: {error}"
    version = library.version
    if version in KNOWN:
        reason = _make_ready(library)
        return (None, reason) if reason else (library, "")
    if library.function("llama_backend_init") is None:
        return None, "it has no functions of llama.cpp"
    return None, (
        f"expected llama.cpp {', '.join(KNOWN)}, found {version or 'an older one'}; "
        f"{VARIABLE}={candidate.path} would use it untested"
    )


def _named(given: Path) -> Chosen:
    path = find_file(given) if given.is_dir() else given
    try:
        if path is None or not path.is_file():
            raise OSError("it is neither a file nor a folder that holds a libllama")
        library = _loaded(path.absolute())
        if reason := _make_ready(library):
            raise OSError(reason)
    except OSError as error:
        raise EngineError(
            f"{VARIABLE} is {given}, which cannot be used: {error}",
            hint=f"name the file of libllama, or unset {VARIABLE}",
        ) from error
    return Chosen(library, Candidate("", "", path.absolute()), ())


def _loaded(path: Path) -> Library:
    """Raises OSError, also for what crashes a process."""
    require_harmless(path)
    return Library(path)


def _make_ready(library: Library) -> str:
    """Why it cannot compute on this machine; empty if it can."""
    library.silence()
    try:
        library.load_backends()
    except OSError as error:
        return str(error)
    return misfit(library.system_info(), cpu_features())


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
