"""docs/api.md: each name that it lists is there, and each that is exported is listed."""

import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest

import lorakit

PAGE = (Path(__file__).parents[1] / "docs/api.md").read_text("utf-8")
TICKED = re.compile(r"`([^`]+)`")


def rows(page, title):
    """The cells of the tables under a heading."""
    part = page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def listed(page):
    """The names of the package that the page lists."""
    cells = rows(page, "Names of `lorakit`")
    words = [cell for row in cells for cell in (row[1:2] if len(row) == 2 else row[:1])]
    return [name for cell in words for name in TICKED.findall(cell)]


def test_every_name_is_listed_once():
    assert sorted(listed(PAGE)) == sorted(lorakit._HOMES)
    without = PAGE.replace("`Stream` |", "|").replace("`KvPolicy` | keep", "KvPolicy | keep")
    assert set(lorakit._HOMES) - set(listed(without)) == {"Stream", "KvPolicy"}


def literals():
    """The exported names that are a set of words."""
    kinds = {name: getattr(lorakit, name) for name in lorakit._HOMES}
    return {name: get_args(kind) for name, kind in kinds.items() if get_origin(kind) is Literal}


def test_words_are_those_of_the_literals():
    table = [row for row in rows(PAGE, "Names of `lorakit`") if len(row) == 3 and "`" in row[0]]
    assert {row[0].strip("`"): tuple(row[1].split(", ")) for row in table} == literals()


def modules(page):
    return [row for row in rows(page, "Modules") if row[0].startswith("`")]


def missing(module, names):
    """Names that a module lacks, and functions and classes without a docstring."""
    for name in names:
        found = getattr(module, name, None)
        spoken = inspect.isroutine(found) or inspect.isclass(found)
        if found is None or (spoken and not found.__doc__):
            yield name


@pytest.mark.parametrize("row", modules(PAGE), ids=lambda row: row[0].strip("`"))
def test_a_module_has_the_names_that_are_listed(row):
    module = import_module(row[0].strip("`"))
    assert list(missing(module, TICKED.findall(row[1]))) == []
    assert list(missing(module, ["nonsense"])) == ["nonsense"]


def test_the_modules_of_the_package_are_the_first_rows():
    first = [row[0].strip("`").removeprefix("lorakit.") for row in modules(PAGE)]
    assert first[: len(lorakit._MODULES)] == list(lorakit._MODULES)
