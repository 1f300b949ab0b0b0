"""The lowest versions that are allowed are those that `make lowest` installs."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def pinned(name):
    """The exact versions in a file of constraints, by package: one for every place."""
    found = {}
    for line in (ROOT / name).read_text("utf-8").splitlines():
        if said := line.partition("#")[0].strip():
            wanted = Requirement(said)
            (exact,) = wanted.specifier
            assert exact.operator == "==", line
            found.setdefault(canonicalize_name(wanted.name), []).append(Version(exact.version))
    return found


def floor(line):
    """(package, lowest version) of a requirement that says that and nothing else."""
    wanted = Requirement(line)
    (lowest,) = wanted.specifier
    assert lowest.operator == ">=", line
    return canonicalize_name(wanted.name), Version(lowest.version)


@pytest.mark.parametrize("line", PROJECT["dependencies"])
def test_the_floor_of_a_dependency_is_what_make_lowest_installs(line):
    package, lowest = floor(line)
    assert pinned("constraints-lowest.txt")[package] == [lowest]
    assert all(version >= lowest for version in pinned("constraints.txt")[package])


def test_make_lowest_installs_them():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    rule = re.search(r"^lowest:\n((?:\t.*\n)+)", makefile, re.MULTILINE)[1]
    assert "constraints-lowest.txt" in rule
