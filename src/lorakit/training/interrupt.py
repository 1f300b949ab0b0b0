"""Ctrl-C between two steps, never within one, so that a checkpoint can be written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """Whether Ctrl-C was pressed; a second one interrupts at once."""

    def __init__(self) -> None:
        self.pressed = False

    def raise_if_pressed(self) -> None:
        """Raises KeyboardInterrupt."""
        if self.pressed:
            raise KeyboardInterrupt

    def _press(self, number: int, frame: FrameType | None) -> None:
        self.raise_if_pressed()
        self.pressed = True


@contextmanager
def interrupts() -> Iterator[Interrupts]:
    """Ctrl-C is noted inside the block. On other threads than the main one, or where the program
    has a handler of its own for it, nothing is changed."""
    noted = Interrupts()
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield noted
        return
    signal.signal(signal.SIGINT, noted._press)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
