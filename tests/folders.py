"""Where the tests' files are, and what not every system has. Not in conftest.py, a name that other
folders have too."""

import sys
from pathlib import Path

import pytest

DATA = Path(__file__).parent / "data"


def link(path, target):
    """A symbolic link, which Windows makes for few."""
    try:
        path.symlink_to(target)
    except OSError as error:
        pytest.skip(f"no links here: {error}")


def make_sparse(path, size, content=b""):
    """A huge file of which only the beginning takes room. Windows would allot all of it."""
    if sys.platform == "win32":
        pytest.skip("no sparse files here")
    with path.open("wb") as file:
        file.write(content)
        file.truncate(size)
