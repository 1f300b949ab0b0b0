"""Every test can be collected on Windows and macOS: what they lack is imported where it is used.

A child process collects the whole tree, and gives lorakit's own files and the tests an `os`, `sys`
and `signal` like Windows's, or macOS's, and no module that is POSIX's or Linux's alone.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CHILD = r'''
import builtins, os, signal, sys, types
from pathlib import Path

OURS = tuple(str(Path(folder).resolve()) for folder in sys.argv[2].split(os.pathsep))
LACKING = {
    "win32": {
        "modules": {"pty", "resource", "fcntl", "termios", "tty", "grp", "pwd", "curses",
                    "readline"},
        "os": {"fork", "forkpty", "mkfifo", "mknod", "getuid", "geteuid", "getgid", "setsid",
               "killpg", "getpgid", "openpty", "uname", "chown", "sched_getaffinity",
               "sched_setaffinity", "statvfs", "register_at_fork", "posix_fallocate", "preadv",
               "pwrite", "copy_file_range", "wait4", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC",
               "O_DIRECTORY", "sysconf", "nice", "WNOHANG"},
        "signal": {"SIGKILL", "SIGALRM", "SIGHUP", "SIGSTOP", "SIGCONT", "SIGUSR1", "SIGUSR2",
                   "SIGPIPE", "SIGCHLD", "SIGXFSZ", "alarm", "setitimer"},
        "socket": {"AF_UNIX", "socketpair"},
        "set": {("sys", "platform"): "win32", ("os", "name"): "nt"},
    },
    "darwin": {
        "modules": set(),
        "os": {"sched_getaffinity", "sched_setaffinity", "posix_fallocate", "copy_file_range",
               "memfd_create", "O_TMPFILE"},
        "signal": set(),
        "socket": set(),
        "set": {("sys", "platform"): "darwin"},
    },
}[sys.argv[1]]


class Like(types.ModuleType):
    """A module without some names, and with other values of some."""

    def __init__(self, real):
        super().__init__(real.__name__)
        vars(self)["_real"] = real

    def __getattribute__(self, name):
        if name.startswith("__"):
            return super().__getattribute__(name)
        real = vars(self)["_real"]
        if name in LACKING.get(real.__name__, ()):
            raise AttributeError(f"{real.__name__} has no {name} there")
        return LACKING["set"].get((real.__name__, name), getattr(real, name))


def ours(names):
    return str((names or {}).get("__file__") or "").startswith(OURS)


def instead(name, globals=None, locals=None, fromlist=(), level=0, *, real=builtins.__import__):
    if level or not ours(globals):
        return real(name, globals, locals, fromlist, level)
    if name.partition(".")[0] in LACKING["modules"]:
        raise ModuleNotFoundError(f"there is no {name} there", name=name)
    found = real(name, globals, locals, fromlist, level)
    return Like(found) if name in ("os", "sys", "signal", "socket") else found


def required(name, *arguments, real=None, **options):
    if name in LACKING["modules"]:
        pytest.skip(f"no {name} there", allow_module_level=True)
    return real(name, *arguments, **options)


import functools, pytest
pytest.importorskip = functools.partial(required, real=pytest.importorskip)
builtins.__import__ = instead
sys.exit(pytest.main(["--collect-only", "-q", "-q", "-p", "no:cacheprovider", *sys.argv[3:]]))
'''


def collect(system, *folders, root=HERE):
    """How a collection there ends, and what it says."""
    ours = os.pathsep.join([str(HERE.parent / "src"), str(root)])
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            CHILD,
            system,
            ours,
            *folders,
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=HERE.parent,
        timeout=110,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_every_test_is_collected_there(system):
    code, said = collect(system, str(HERE))
    assert code == 0, said[-4000:]


@pytest.mark.parametrize(
    "line",
    ["import pty", "from fcntl import flock", "import os; os.mkfifo",
     "import signal; signal.SIGKILL",
     "import os, pytest\nx = pytest.mark.skipif(os.geteuid() == 0, reason='root')"],
)  # fmt: skip
def test_what_windows_lacks_is_found(line, tmp_path):
    (tmp_path / "test_new.py").write_text(f"{line}\n\ndef test_it():\n    pass\n", "utf-8")
    code, said = collect("win32", str(tmp_path), root=tmp_path)
    assert code == 2, said
