"""What the tests of the Python readers feed them: every folder or file that one is asked to read.

The tests run as they are, with readers that note a copy of what they are given.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from lorakit.errors import LorakitError
from lorakit.formats import FILES

TESTS = Path(__file__).parents[1]
MODULES = (
    "test_peft", "test_peft_experts", "test_peft_sources", "test_peft_added", "test_peft_targets",
    "test_expert_order", "test_incomplete", "test_wrapped_names", "test_mlx", "test_mlx_sites",
    "test_mlx_versions", "test_seeing_parts",
)  # fmt: skip
READERS = ("read_adapter", "read_peft", "read_mlx")
# Tests of engines and other libraries, and those that draw hundreds of examples.
ELSEWHERE = ("importorskip", "lorakit.open", "compare(", "monkeypatch", "capsys", "@given")


def module(name: str, folder: str = "formats") -> ModuleType:
    if str(TESTS / folder) not in sys.path:
        sys.path.insert(0, str(TESTS / folder))
    return importlib.import_module(name)


def parameters(test: Any) -> Iterator[dict[str, Any]]:
    """The arguments of each run of a test, as its marks give them."""
    choices = []
    for mark in getattr(test, "pytestmark", ()):
        if mark.name != "parametrize":
            continue
        names, values = mark.args[:2]
        names = [n.strip() for n in names.split(",")] if isinstance(names, str) else names
        choices.append(
            [dict(zip(names, v if len(names) > 1 else (v,), strict=True)) for v in values]
        )
    for chosen in itertools.product(*choices):
        yield {name: value for one in chosen for name, value in one.items()}


def fixture(found: ModuleType, name: str, place: Path) -> Any:
    """The value of a module's own fixture, which asks for a folder at most."""
    make = inspect.unwrap(getattr(found, name))
    factory = SimpleNamespace(mktemp=lambda folder: place / folder)
    return make(factory) if inspect.signature(make).parameters else make()


def tests() -> Iterator[tuple[str, ModuleType, Any]]:
    for name in MODULES:
        found = module(name)
        for label, test in vars(found).items():
            mine = label.startswith("test_") and callable(test)
            if mine and not any(word in inspect.getsource(test) for word in ELSEWHERE):
                yield f"{name}.{label}", found, test


def feed(place: Path) -> dict[str, Path]:
    """Copies of all that is read, by the test that reads it."""
    fed: dict[str, Path] = {}

    def noting(label: str, real: Any) -> Any:
        def read(path: Path, *arguments: Any, **options: Any) -> Any:
            copy_of(Path(path), label)
            return real(path, *arguments, **options)

        return read

    def copy_of(path: Path, label: str) -> None:
        key = f"{label}-{len(fed)}"
        target = place / key
        folder = path.parent if path.is_file() and path.name in FILES else path
        if folder.is_dir():
            shutil.copytree(folder, target, symlinks=False)
        elif folder.is_file():
            target.mkdir(parents=True)
            target = Path(shutil.copy(folder, target / folder.name))
        fed[key] = target

    for label, found, test in tests():
        for number, arguments in enumerate(parameters(test)):
            scratch = place / "scratch" / f"{label}-{number}"
            scratch.mkdir(parents=True)
            given = {
                name: scratch if name == "tmp_path" else fixture(found, name, scratch)
                for name in inspect.signature(test).parameters.keys() - arguments.keys()
            }
            with pytest.MonkeyPatch.context() as patch:
                for reader in READERS:
                    if hasattr(found, reader):
                        patch.setattr(found, reader, noting(label, getattr(found, reader)))
                test(**arguments, **given)
    return fed


def outcome(read: Any) -> Any:
    """What a call gives, or the code of its error."""
    try:
        return read()
    except LorakitError as error:
        return error.code
