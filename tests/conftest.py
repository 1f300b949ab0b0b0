"""Shared fixtures: real tiny models, and a cache of the tests' own."""

import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from fake_hub import TOKEN, hub_serving
from quick import Quick
from skips import StrictSkips
from web import serving

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as for jobs that a shell began with &
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lorakit")
    group.addoption("--strict-skips", type=Path, metavar="FILE", help="see tests/skips.py")
    group.addoption("--quick", action="store_true", help="no extra, and nothing that takes long")


def pytest_configure(config: pytest.Config) -> None:
    if listed := config.getoption("strict_skips"):
        try:
            config.pluginmanager.register(StrictSkips(listed))
        except (OSError, ValueError) as error:
            raise pytest.UsageError(str(error)) from error
    if config.getoption("quick"):
        config.pluginmanager.register(Quick())
    elif find_spec("torch") is None:
        sys.modules["torch"] = None  # else the folder tests/engines/torch would be taken for it


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


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of one test's own, and no wish of the environment to be offline."""
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "cache"))
    for name in ("LORAKIT_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def web(cache):
    """A web server on loopback, and an empty cache."""
    with serving() as running:
        yield running


@pytest.fixture
def hub(cache, tmp_path, monkeypatch):
    """A Hub on loopback that takes uploads, and a token for it."""
    import huggingface_hub

    for name in ("HF_HUB_CACHE", "HF_TOKEN_PATH"):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", str(tmp_path / name))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with hub_serving() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running
    huggingface_hub.close_session()


@pytest.fixture
def no_network(monkeypatch):
    """Any socket is an error."""

    def refuse(*args, **options):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.create_connection", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
