"""A context that does not fit into memory, in a process with limited memory; prints the code.

python tests/engines/llama/short_of_memory.py [BYTES]     # how much more it may have, 128 MiB
"""

import resource
import sys
from pathlib import Path

from llama_cases import logits_of, open_engine

from lorakit.errors import LorakitError

CELLS = 1 << 17  # of 2 KiB each: 256 MiB, and as much for attention masks
ROOM = 128 << 20


def main() -> None:
    room = int(sys.argv[1]) if len(sys.argv) > 1 else ROOM
    engine = open_engine("llama", max_batch=2)
    before = logits_of(engine, [5, 6, 7])  # allocates what a step needs
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + room,) * 2)
    try:
        engine._new_context(CELLS)
        print("room enough")
    except LorakitError as error:
        print(error.code)
    assert (logits_of(engine, [5, 6, 7]) == before).all()
    engine.close()


if __name__ == "__main__":
    main()
