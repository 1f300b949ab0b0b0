"""Packages of the extra that are too old are named with what is wanted; nothing is imported."""

import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import lorakit
from lorakit.engines.torch.versions import LOWEST, require_versions
from lorakit.errors import MissingExtraError
from lorakit.verify.sides import peft_logits
from onnx_cases import truth_base

ROOT = Path(__file__).parents[2]
NEW = {"torch": "2.13.0+cpu", "transformers": "5.24.0", "peft": "0.21.2"}


@pytest.fixture
def installed(monkeypatch):
    """Versions as an environment says them; packages without one are not there."""
    found = dict(NEW)

    def version(package):
        if package in found:
            return found[package]
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "version", version)
    return found


def test_the_lowest_are_those_of_the_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [Requirement(line) for line in project["optional-dependencies"]["torch"]]
    assert {line.name: str(line.specifier) for line in wanted} == {
        package: f">={version}" for package, version in LOWEST.items()
    }


def test_opening_says_what_is_too_old(installed):
    installed["transformers"] = "4.57.6"
    with pytest.raises(MissingExtraError) as caught:
        lorakit.open(truth_base("llama"), engine="torch")
    assert list(caught.value.items) == ["transformers 5.1 or later, found 4.57.6"]
    assert caught.value.code == "extra_missing"
    assert "lorakit[torch]" in caught.value.hint


def test_comparing_with_peft_says_all_that_is_too_old(installed):
    installed |= {"transformers": "5.0.0", "torch": "2.5.1", "peft": "0.9.0"}
    with pytest.raises(MissingExtraError) as caught, peft_logits(truth_base("llama"), []):
        pass
    assert list(caught.value.items) == [
        "torch 2.6 or later, found 2.5.1",
        "transformers 5.1 or later, found 5.0.0",
        "peft 0.21 or later, found 0.9.0",
    ]


@pytest.mark.parametrize("version", ["5.1.0", "5.1.0rc1", "5.10.4", "6.0", "10.0.dev0", "unknown"])
def test_versions_that_are_new_enough(installed, version):
    installed["transformers"] = version
    require_versions("torch", "transformers", "peft")


@pytest.mark.parametrize("version", ["5.0.9", "4.99", "0.1", "2.13.0+cpu"])
def test_versions_that_are_not(installed, version):
    installed["transformers"] = version
    with pytest.raises(MissingExtraError, match="as old as"):
        require_versions("torch", "transformers", "peft")


def test_a_package_without_metadata_is_left_to_the_import(installed):
    installed.clear()
    require_versions("torch", "transformers", "peft")
