"""The open sequences of an engine: how many more can be opened, and retries of failed closes.

A failure affects only one sequence. One that the engine fails to close counts as open and is tried
again; one that cannot be cut back is closed, and its tokens are computed again.
"""

from __future__ import annotations

import logging

from lorakit.engines.protocol import Engine
from lorakit.errors import EngineError

log = logging.getLogger("lorakit")


class Sequences:
    """Opens and closes sequences of one engine. Used by the engine's thread only."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._most = engine.capabilities.max_sequences
        self._open: set[int] = set()
        self._stuck: list[int] = []  # closed by us, but not yet by the engine

    def __len__(self) -> int:
        return len(self._open)

    @property
    def room(self) -> int:
        """How many more can be opened."""
        if self._stuck:
            self._retry()
        return self._most - len(self._open)

    def open(self) -> int:
        """A new, empty sequence. Raises what the engine raises."""
        return self._opened(self._engine.open_sequence())

    def fork(self, sequence: int, length: int) -> int | None:
        """A copy of the first tokens of a sequence; None if the engine cannot make one."""
        try:
            return self._opened(self._engine.fork(sequence, length))
        except Exception as error:
            log.warning("a KV cache could not be copied, computing it again: %s", error)
            return None

    def load(self, state: bytes, length: int) -> int:
        """A sequence from saved KV. Raises what the engine raises."""
        return self._opened(self._engine.load_sequence(state, length))

    def cut(self, sequence: int, length: int) -> bool:
        """Cut a sequence back to its first tokens; if that fails, close it and return False."""
        try:
            self._engine.truncate(sequence, length)
            if self._engine.length(sequence) == length:
                return True
            raise EngineError(f"it holds {self._engine.length(sequence)} tokens, not {length}")
        except Exception as error:
            log.warning("a KV cache could not be cut back, computing it again: %s", error)
            self.close(sequence)
            return False

    def close(self, sequence: int) -> None:
        """Close a sequence; never raises."""
        try:
            self._engine.close_sequence(sequence)
        except Exception as error:
            log.warning("a sequence could not be closed, trying again later: %s", error)
            self._stuck.append(sequence)
        else:
            self._open.discard(sequence)

    def _opened(self, sequence: int) -> int:
        self._open.add(sequence)
        return sequence

    def _retry(self) -> None:
        for sequence in self._stuck[:]:
            try:
                self._engine.close_sequence(sequence)
            except Exception:
                log.debug("a sequence could still not be closed", exc_info=True)
            else:
                self._stuck.remove(sequence)
                self._open.discard(sequence)
