"""Loading in the background: a future whose `cancel` also ends a load that runs already, and the
threads of one model on which they run."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError as FutureCancelled
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress

from lorakit.errors import CancelledError, ClosedError, LorakitError
from lorakit.model.adapters import LoadedAdapter
from lorakit.processes import on_fork
from lorakit.runtime.protocol import Runtime


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


class Loads:
    """The background loads of one model, two at a time."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="lorakit-load")
        self._pending: weakref.WeakSet[Future[LoadedAdapter]] = weakref.WeakSet()
        on_fork(self, Loads.forked)

    def start(
        self, load: PendingLoad, run: Callable[[], LoadedAdapter], release: Callable[[], object]
    ) -> None:
        """Run a load on a thread. release: called where it is cancelled or cannot begin.

        Raises ClosedError.
        """
        try:
            self._threads.submit(load.run, run)
        except RuntimeError:  # closed in the meantime
            release()
            self._runtime.require_open()
            raise
        self._pending.add(load)
        load.add_done_callback(lambda ended: release() if ended.cancelled() else None)

    def close(self) -> None:
        """Begin no more; those in progress raise ClosedError. Waits for none."""
        self._threads.shutdown(wait=False)

    def forked(self) -> None:
        """In a forked child: end what is pending, as its threads do not exist there."""
        for load in list(self._pending):
            load._condition = threading.Condition()  # another thread may hold it
            try:
                self._runtime.require_open()
            except ClosedError as error:
                with suppress(InvalidStateError):  # already done
                    load.set_exception(error)
