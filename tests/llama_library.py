"""Skips what needs llama.cpp where no library of it is installed."""

import pytest

from lorakit.engines.llama.native import chosen
from lorakit.errors import MissingExtraError


def need_llama() -> None:
    """In a test, a fixture, or at the top of a file. A library that does not fit is an error."""
    try:
        chosen()
    except MissingExtraError:
        reason = "the llama.cpp engine needs lorakit[llama]"
        pytest.skip(reason, allow_module_level=True)
