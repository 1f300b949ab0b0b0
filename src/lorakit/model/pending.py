"""Loading in the background: a future whose `cancel` also ends a load that runs already."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError as FutureCancelled
from concurrent.futures import Future
from contextlib import suppress

from lorakit.errors import CancelledError, LorakitError
from lorakit.model.adapters import LoadedAdapter


class PendingLoad(Future[LoadedAdapter]):
    """The future of one adapter. After `cancel` said True, nothing is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self._stopping = self._settled = False

    def cancel(self) -> bool:
        """As of every future; one that runs ends with the next piece that it fetches."""
        if super().cancel():
            return True
        with self._condition:
            if not self._settled:
                self._stopping = True
            return self._stopping

    def cancelled(self) -> bool:
        """Whether it was cancelled, and has ended."""
        return super().cancelled() or (self._stopping and self.done())

    def require_wanted(self) -> None:
        """Raise CancelledError once it was cancelled."""
        if self._stopping:
            raise CancelledError("loading was cancelled")

    def run(self, load: Callable[[], LoadedAdapter]) -> None:
        """Load, unless it was cancelled meanwhile; on a thread of its own."""
        if not self.set_running_or_notify_cancel():
            return
        loaded, fault = None, None
        try:
            loaded = load()
        except BaseException as error:
            fault = error
        with self._condition:
            self._settled = True
        if self._stopping:
            if loaded is not None:
                with suppress(LorakitError):  # the model was closed
                    loaded.unload()
            self.set_exception(FutureCancelled())
        elif loaded is None:
            self.set_exception(fault)
        else:
            self.set_result(loaded)
