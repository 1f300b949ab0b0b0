"""How CPU time grows with the input: tells linear work from quadratic, whatever the machine does.

The best of some tries counts, so that a busy core or a garbage collection is no verdict.
"""

import time
from collections.abc import Callable

TRIES = 4
FOLD = 10  # times the input: linear work takes about 10 times as long, quadratic 100 times
MOST = 40
LEAST = 0.005  # seconds: below, the clock's own steps count


def is_linear(work: Callable[[int], object], count: int) -> bool:
    """Whether `work` on FOLD times `count` takes less than MOST times as long."""
    work(max(1, count // 20))
    return any(
        _seconds(work, count * FOLD) < MOST * max(_seconds(work, count), LEAST)
        for _ in range(TRIES)
    )


def _seconds(work: Callable[[int], object], count: int) -> float:
    start = time.process_time()
    work(count)
    return time.process_time() - start
