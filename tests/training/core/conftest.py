"""One thread: bases are tiny, and threads that wait for each other take most of the time."""

import pytest


@pytest.fixture(autouse=True, scope="package")
def _one_thread():
    torch = pytest.importorskip("torch", reason="training needs the extra train")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
