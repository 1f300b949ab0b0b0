"""Adapters that are attached to an engine: their names, their plans, and when they are freed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from lorakit.engines.protocol import AdapterSet, Engine, Prepared
from lorakit.runtime.stages import Plan, plan

log = logging.getLogger("lorakit")


class AttachedAdapters:
    """The adapters of an engine, by handle. Used by the engine's thread only."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._names: dict[int, str] = {}
        self._digests: dict[int, str] = {}
        self._invocations: dict[int, tuple[int, ...]] = {}
        self._retired: set[int] = set()
        self._refused: set[int] = set()  # retired ones that the engine failed to detach

    def __len__(self) -> int:
        return len(self._names)

    def attach(self, name: str, prepared: Prepared) -> int:
        """Attach an adapter; returns its handle. Raises what the engine raises."""
        handle, adapter = self._engine.attach(prepared), prepared.adapter
        self._names[handle], self._digests[handle] = name, adapter.digest
        if adapter.invocation_tokens:
            self._invocations[handle] = adapter.invocation_tokens
        return handle

    def retire(self, handle: int) -> None:
        """Mark an adapter to be freed by `free` as soon as it is unused."""
        self._retired.add(handle)

    @property
    def retiring(self) -> bool:
        return bool(self._retired)

    def free(self, used: Iterable[int]) -> None:
        """Free the retired adapters that are unused. A failed detach is tried again next time."""
        for handle in self._retired.difference(used):
            try:
                self._engine.detach(handle)
            except Exception as error:
                if handle not in self._refused:
                    log.warning("adapter %s cannot be freed yet: %s", self._names[handle], error)
                    self._refused.add(handle)
                continue
            self._retired.discard(handle)
            self._refused.discard(handle)
            del self._names[handle], self._digests[handle]
            self._invocations.pop(handle, None)

    def plan(self, adapters: AdapterSet, prompt: Sequence[int]) -> Plan:
        """The plan of a sequence that begins with `prompt`."""
        return plan(adapters, prompt, self._invocations, self._digests)

    def named(self, adapters: AdapterSet) -> tuple[tuple[str, float], ...]:
        """A set by the names that the user gave."""
        return tuple((self._names[handle], scale) for handle, scale in adapters)
