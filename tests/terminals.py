"""A program at a pseudo-terminal: types at it, and reads what it shows."""

import os
import re
import select
import struct
import subprocess
import sys
import time

import pytest

ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07]*\x07|[=>78()][0B]?)|[\r\x08]")
PATIENCE = 100  # seconds, where a test has failed
PASTE = "\x1b[200~{}\x1b[201~"
UP, LEFT, BACKSPACE, TAB, CTRL_C, CTRL_D = "\x1b[A", "\x1b[D", "\x7f", "\t", "\x03", "\x04"
ALT_ENTER = "\x1b\r"


class Terminal:
    """The program ends with the block; `raw` is all that it wrote, `shown` that without escapes."""

    def __init__(self, *arguments, columns=80, folder=None, env=()):
        fcntl = pytest.importorskip("fcntl", reason="terminals are POSIX's")
        import pty
        import termios

        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lorakit", *map(str, arguments)],
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True, cwd=folder,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env=kept | {"TERM": "xterm-256color", "LORAKIT_HISTORY": "off"} | dict(env),
        )  # fmt: skip
        os.close(slave)
        self.raw = b""
        self._from = 0  # what was shown before that was waited for

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    @property
    def shown(self):
        return ESCAPES.sub("", self.raw.decode(errors="replace"))

    @property
    def new(self):
        """What was shown since the last key."""
        return ESCAPES.sub("", self.raw[self._from :].decode(errors="replace"))

    def key(self, *keys):
        """Press keys, one after the other."""
        for each in keys:
            self._from = len(self.raw)
            os.write(self._master, each.encode())

    def say(self, line):
        """Type a line and wait for what comes before the next prompt."""
        self.key(line, "\r")
        return self.prompt()

    def prompt(self):
        """Wait for a prompt; returns what was shown before it."""
        self.until(lambda: self.new.rstrip(" ").endswith("\n>") or self.new == "> ")
        return self.new

    def sees(self, text):
        """Wait for a text."""
        self.until(lambda: text in self.new)

    def until(self, done):
        end = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < end, self.shown
            if not self._read():
                assert done(), self.shown
                return

    def ends(self):
        """Wait for its end; returns its exit code."""
        while self._read():
            pass
        return self.process.wait(PATIENCE)

    def _read(self):
        """Whether there may be more."""
        if not select.select([self._master], [], [], 0.1)[0]:
            return True
        try:
            part = os.read(self._master, 65536)
        except OSError:  # Linux's word for the end
            return False
        self.raw += part
        return bool(part)
