"""Which tests may be skipped, and where: skips.txt lists them with their reasons.

With `--strict-skips FILE` any other skip is a failure, of a test or of a whole file, and so is a
line that holds here and of which nothing was skipped. It is for runs of the whole suite.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import pytest


def _ipv6() -> bool:
    """Whether this machine reaches itself by IPv6."""
    try:
        with socket.socket(socket.AF_INET6) as tried:
            tried.bind(("::1", 0))
    except OSError:
        return False
    return True


def _chromium() -> bool:
    """Whether pages can be tried: Chromium, what drives it, and what a page runs on."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    return bool(found and VENDORED.is_file() and importlib.util.find_spec("playwright"))


def _links() -> bool:
    """Whether a symbolic link can be made."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            Path(folder, "link").symlink_to(folder)
        except OSError:
            return False
    return True


ROOT = getattr(os, "geteuid", lambda: None)() == 0
MLX = {("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64")}  # as in pyproject.toml
VENDORED = Path(__file__).parents[1] / "src/lorakit/web/vendor/transformers.min.js"
VITE = Path(__file__).parents[1] / ".node/node_modules/vite/bin/vite.js"
TRANSFORMERS_JS = (
    Path(__file__)
    .parents[1]
    .joinpath(
        ".node/node_modules/@huggingface/transformers/dist/transformers.node.mjs"  # `make node`
    )
)
PLACES: dict[str, Callable[[], bool]] = {
    "root": lambda: ROOT,
    "not-root": lambda: not ROOT,
    "windows": lambda: sys.platform == "win32",
    "not-linux": lambda: not sys.platform.startswith("linux"),
    "no-ipv6": lambda: not _ipv6(),
    "no-model": lambda: not os.environ.get("LORAKIT_REAL_MODEL"),
    "no-freezer": lambda: importlib.util.find_spec("PyInstaller") is None,
    "no-links": lambda: not _links(),
    "no-chromium": lambda: not _chromium(),
    "no-vite": lambda: not (_chromium() and shutil.which("node") and VITE.is_file()),
    "no-vendored": lambda: not VENDORED.is_file(),
    "no-node": lambda: shutil.which("node") is None,
    "no-npm": lambda: shutil.which("npm") is None,
    "no-transformers-js": lambda: not (shutil.which("node") and TRANSFORMERS_JS.is_file()),
    "no-xllamacpp": lambda: importlib.util.find_spec("xllamacpp") is None,
    "no-matplotlib": lambda: importlib.util.find_spec("matplotlib") is None,
    "no-mlx": lambda: (sys.platform, platform.machine()) not in MLX,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A test, or a file with all its tests, that is skipped in such a place."""

    place: str
    node: str
    reason: str

    @property
    def here(self) -> bool:
        return PLACES[self.place]()


def read(path: Path) -> list[Line]:
    """The lines of a list: place, node id without parameters, reason. Raises ValueError."""
    found = []
    for text in path.read_text("utf-8").splitlines():
        if not text.strip() or text.startswith("#"):
            continue
        place, node, reason = [*text.split(None, 2), "", ""][:3]
        if place not in PLACES or not reason:
            raise ValueError(f"{path}: not PLACE NODE REASON, with one of {list(PLACES)}: {text}")
        found.append(Line(place=place, node=node, reason=reason))
    return found


class StrictSkips:
    """A plugin of one run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unused = {line.node: line for line in read(path) if line.here}
        self._nodes = frozenset(self._unused)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        return self._judged((yield))

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self,
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        return self._judged((yield))

    def _judged(self, report):
        if report.skipped and not hasattr(report, "wasxfail") and not self._listed(report.nodeid):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
            report.outcome = "failed"
            report.longrepr = f"{report.nodeid} is skipped and not in {self._path}\n{reason}"
        return report

    def _listed(self, node: str) -> bool:
        """A test's own line, or its file's."""
        test = node.partition("[")[0]
        found = {test, test.partition("::")[0]} & self._nodes
        for name in found:
            self._unused.pop(name, None)
        return bool(found)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._unused and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._unused:
            terminalreporter.section(f"{self._path}: nothing is skipped of")
            for line in self._unused.values():
                terminalreporter.line(f"{line.place} {line.node} {line.reason}")
