"""MovingTable: the adapters of a model that moves to another runtime, by handles that stay.

It holds no adapters: the table of the model in use does. A handle that was given out before the
move means the adapter of the same name after it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from lorakit.adapter import Adapter
from lorakit.engines.protocol import AdapterSet
from lorakit.errors import NameTakenError, UnknownAdapterError
from lorakit.model.adapters import (
    AdapterInfo,
    AdapterTable,
    LoadedAdapter,
    Scales,
    UserScale,
    as_scales,
)
from lorakit.runtime.stages import KvPolicy


class MovingTable(AdapterTable):
    """Every method is thread-safe. Its lock is also the one under which the model moves."""

    def __init__(self, first: AdapterTable) -> None:
        self.lock: threading.RLock = threading.RLock()
        self._now = first
        self._claimed: set[str] = set()
        self._moved: dict[int, int] | None = None  # after the move: new handles by those before

    def move(self, to: AdapterTable) -> None:
        """Use another table from here on. The caller holds the lock."""
        pairs: dict[int, int] = {}
        for info in self._now.all_info():
            old, new = self._now.find(info.name), to.find(info.name)
            if old is not None and new is not None:
                pairs[old._handle] = new._handle
        self._now, self._moved = to, pairs

    def own(self, loaded: LoadedAdapter) -> LoadedAdapter:
        """The handle of users for that of the table in use."""
        return LoadedAdapter(self, loaded.name, self._given(loaded._handle))

    def _given(self, handle: int) -> int:
        """A handle as users have it: below 0 before the move."""
        return -handle if self._moved is None else handle

    def _there(self, name: str, given: int) -> int:
        """A user's handle as the table in use has it. Raises UnknownAdapterError."""
        if given >= 0:
            return given
        if self._moved is None:
            return -given
        if -given not in self._moved:
            raise UnknownAdapterError(
                f"the adapter {name!r} was the server's; the model runs in this process now",
                hint="load it here, from its files",
            )
        return self._moved[-given]

    # What users call, through Model and LoadedAdapter.

    def reserve(self, name: str) -> None:
        """Claim a name while it is loaded; whether it is free, the table in use says then."""
        with self.lock:
            if name in self._claimed:
                raise NameTakenError(f"an adapter named {name!r} is being loaded", hint="wait")
            self._claimed.add(name)

    def release(self, name: str) -> None:
        with self.lock:
            self._claimed.discard(name)

    def find(self, name: str) -> LoadedAdapter | None:
        with self.lock:
            found = self._now.find(name)
            return None if found is None else self.own(found)

    def unload(self, name: str, handle: int) -> Future[None]:
        with self.lock:
            return self._now.unload(name, self._there(name, handle))

    def activate(self, scales: Scales, policy: KvPolicy, *, warn: bool = True) -> Future[None]:
        with self.lock:
            return self._now.activate(self._named(scales), policy, warn=warn)

    def rescale(
        self, name: str, handle: int, scale: UserScale | None, policy: KvPolicy
    ) -> Future[None]:
        with self.lock:
            return self._now.rescale(name, self._there(name, handle), scale, policy)

    def resolve(self, scales: Scales) -> AdapterSet:
        with self.lock:
            return self._now.resolve(self._named(scales))

    def scales(self, given: Scales) -> dict[str, float]:
        with self.lock:
            return self._now.scales(self._named(given))

    def scale(self, name: str, handle: int) -> float | None:
        with self.lock:
            return self._now.scale(name, self._there(name, handle))

    def info(self, name: str, handle: int) -> AdapterInfo:
        with self.lock:
            return self._now.info(name, self._there(name, handle))

    def adapter(self, name: str, handle: int) -> Adapter:
        with self.lock:
            return self._now.adapter(name, self._there(name, handle))

    def all_info(self) -> tuple[AdapterInfo, ...]:
        return self._now.all_info()

    def describe(self, name: str, handle: int) -> str:
        try:
            return self._now.describe(name, self._there(name, handle))
        except UnknownAdapterError:
            return "it was the server's"

    def __repr__(self) -> str:
        return repr(self._now)

    def _named(self, given: Scales) -> Scales:
        """With names alone. Raises ParameterError for a handle of another model."""
        found = as_scales(given)
        self._check_handles(given if not isinstance(given, str | LoadedAdapter) else [given])
        return found if isinstance(given, Mapping) else list(found)

    def _find(self, name: str, handle: int | None = None) -> Any:
        return self._now._find(name, None if handle is None else self._there(name, handle))
