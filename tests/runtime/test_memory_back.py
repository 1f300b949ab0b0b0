"""A model that is closed gives its memory back, though glibc would keep it."""

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc",
    reason="reads /proc, and glibc alone keeps what is freed",
)

# Blocks too small for maps of their own, and one behind them that keeps the heap's end where it is.
PROGRAM = """
import ctypes, resource, sys
from pathlib import Path
from lorakit.engines.fake import FakeEngine
from lorakit.runtime import thread as runtime

C = ctypes.CDLL(None)
C.malloc.restype, C.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
C.free.argtypes = [ctypes.c_void_p]

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

class Large(FakeEngine):
    def __init__(self):
        super().__init__()
        self.blocks = [C.malloc(64 << 10) for _ in range(1600)]
        for block in self.blocks:
            ctypes.memset(block, 1, 64 << 10)
        self.last = C.malloc(64 << 10)

    def close(self):
        for block in self.blocks:
            C.free(block)

if sys.argv[1] == "broken":
    runtime.give_memory_back = lambda: None
before = held()
thread = runtime.EngineThread(Large, max_queue=1)
thread.wait_open()
full = held()
thread.close()
print(full - before, held() - before)
"""


@pytest.mark.parametrize("variant", ["whole", "broken"])
def test_closing_gives_memory_back(variant):
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, variant], capture_output=True, text=True, check=True
    )
    full, closed = (int(word) >> 20 for word in ran.stdout.split())
    assert full > 90
    assert (closed < 20) == (variant == "whole"), (full, closed)
