"""All of these need a library of llama.cpp."""

import pytest

from llama_library import need_llama
from projector import write_projector


@pytest.fixture(scope="session", autouse=True)
def _library():
    need_llama()


@pytest.fixture(scope="module")
def projector(tmp_path_factory):
    return write_projector(tmp_path_factory.mktemp("vision") / "mmproj.gguf")
