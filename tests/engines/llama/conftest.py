"""All of these need a library of llama.cpp."""

import pytest

from llama_library import need_llama


@pytest.fixture(scope="session", autouse=True)
def _library():
    need_llama()
