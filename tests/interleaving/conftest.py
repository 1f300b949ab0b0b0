"""One folder for the bases that are made, and each combination of engine and base opened once."""

import pytest
from driver import Combination

from llama_library import need_llama


@pytest.fixture(scope="session")
def bases_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("interleaving")


@pytest.fixture(scope="session")
def combination(bases_folder):
    """Combinations by engine and base."""
    opened = {}

    def get(engine: str, base: str) -> Combination:
        if engine == "llama":
            need_llama()
        if engine == "torch":
            pytest.importorskip("transformers", reason="the torch engine needs lorakit[torch]")
        if (engine, base) not in opened:
            opened[engine, base] = Combination(engine, base, bases_folder)
        return opened[engine, base]

    yield get
    for found in opened.values():
        found.close()
