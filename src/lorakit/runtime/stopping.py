"""Stop strings: text is released only once it cannot be the beginning of one."""

from __future__ import annotations

from collections.abc import Sequence


class StopText:
    """Cuts a stream of text at the first stop string.

    `push` returns the text to show; `stopped` is True once a stop string was found.
    The stop string and all text after it are dropped.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, piece: str) -> str:
        if not self._stops or self.stopped:
            return "" if self.stopped else piece
        self._held += piece
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._held[: min(found)]
        keep = max(self._overlap(stop) for stop in self._stops)
        shown, self._held = (
            self._held[: len(self._held) - keep],
            self._held[len(self._held) - keep :],
        )
        return shown

    def flush(self) -> str:
        """What is still held when the text ends without a stop string."""
        held, self._held = self._held, ""
        return "" if self.stopped else held

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of the held text that begins the stop string."""
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(stop[:n])), 0)
