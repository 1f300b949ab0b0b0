"""Shared fixtures: real tiny models, and a cache of the tests' own."""

import os
from pathlib import Path

import pytest

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Tests never touch the user's cache."""
    before = os.environ.get("LORAKIT_CACHE")
    os.environ["LORAKIT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["LORAKIT_CACHE"]
    else:
        os.environ["LORAKIT_CACHE"] = before
