"""The adapters of an open model: which are loaded, which are active, and at what scale.

Changes are made under one lock and passed to the runtime in the same order, so that what a caller
reads here is what acts from the next token on.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Union, get_args

from lorakit.adapter import Adapter
from lorakit.engines.protocol import AdapterSet
from lorakit.errors import (
    CapabilityError,
    ClosedError,
    NameTakenError,
    ParameterError,
    UnknownAdapterError,
)
from lorakit.model.changes import acting, changed, doubled, log_when_done
from lorakit.runtime.protocol import Runtime
from lorakit.runtime.stages import KvPolicy
from lorakit.values import among, did_you_mean, finite, real, shown

log = logging.getLogger("lorakit")
UserScale = float | Literal["default"]
Key = Union[str, "LoadedAdapter"]  # an adapter's name, or what load_adapter returned
Scales = Mapping[str, float] | Mapping["LoadedAdapter", float] | Mapping[Key, float] | Sequence[Key]
SHOWN = 4  # adapters that a repr names


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterInfo:
    """Facts about a loaded adapter. Of one that a server holds, sizes are 0, the digest empty."""

    name: str
    source: str  # its reference, safe to show
    scale: float | None  # None while it is not active
    rank: int  # the largest of its deltas
    modules: int  # that have a delta
    parameters: int  # numbers in all its arrays
    nbytes: int  # bytes of all its arrays
    digest: str  # SHA-256 of its content, see Adapter.digest
    default_scale: float = 1.0  # where none is said: what its lorakit.json says, else 1

    @property
    def active(self) -> bool:
        """Whether it is in the active set."""
        return self.scale is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    handle: int
    adapter: Adapter | None  # None: a server holds it
    source: str
    default_scale: float


class AdapterTable:
    """Loaded and active adapters of one runtime. Every method is thread-safe."""

    def __init__(self, runtime: Runtime) -> None:
        self.lock: threading.RLock = threading.RLock()
        self._runtime = runtime
        self._loaded: dict[str, _Loaded] = {}
        self._reserved: set[str] = set()
        self._active: dict[str, float] = {}

    def renew_lock(self) -> None:
        """In a forked child: a thread that does not exist there may hold the lock."""
        self.lock = threading.RLock()

    def reserve(self, name: str) -> None:
        """Claim a name while its adapter is still loading. Raises NameTakenError."""
        with self.lock:
            if not name or not isinstance(name, str):
                said = shown(name)
                raise ParameterError(f"an adapter's name must be a non-empty string, not {said}")
            if name in self._loaded or name in self._reserved:
                raise NameTakenError(
                    f"an adapter named {name!r} is already loaded",
                    hint="unload it first, or load this one under another name",
                )
            self._reserved.add(name)

    def release(self, name: str) -> None:
        """Release a reserved name after loading failed."""
        with self.lock:
            self._reserved.discard(name)

    def load(
        self, name: str, adapter: Adapter, source: str, default_scale: float = 1.0
    ) -> LoadedAdapter:
        """Load an adapter under a reserved name; waits for the runtime."""
        begin = time.monotonic()
        future = self._runtime.load(name, adapter)
        try:
            handle = future.result()
        except BaseException:  # such as Ctrl-C: the handle would be lost
            future.add_done_callback(self._take_back)
            raise
        log.info("loaded %s from %s in %.3f s", shown(name), source, time.monotonic() - begin)
        return self.enter(name, handle, adapter, source, default_scale)

    def enter(
        self, name: str, handle: int, adapter: Adapter | None, source: str, default_scale: float
    ) -> LoadedAdapter:
        """Know an adapter by a reserved name that the runtime knows by a handle."""
        with self.lock:
            self._reserved.discard(name)
            self._loaded[name] = _Loaded(
                handle=handle, adapter=adapter, source=source, default_scale=default_scale
            )
        return LoadedAdapter(self, name, handle)

    def _take_back(self, attached: Future[int]) -> None:
        if attached.exception() is None:
            with suppress(ClosedError):
                self._runtime.unload(attached.result())

    def find(self, name: str) -> LoadedAdapter | None:
        """The user's handle to a loaded adapter."""
        with self.lock:
            loaded = self._loaded.get(name)
            return LoadedAdapter(self, name, loaded.handle) if loaded else None

    def unload(self, name: str, handle: int) -> Future[None]:
        """Unload an adapter; its memory is freed once the last request that uses it has ended."""
        with self.lock:
            self._find(name, handle)
            if name in self._active:
                self.activate({k: s for k, s in self._active.items() if k != name}, "keep")
            del self._loaded[name]
            done, begin = self._runtime.unload(handle), time.monotonic()
            done.add_done_callback(partial(log_when_done, [f"unloaded {shown(name)}"], begin))
            return done

    def activate(self, scales: Scales, policy: KvPolicy, *, warn: bool = True) -> Future[None]:
        """Make exactly these adapters active, in this order. warn: of `doubles`."""
        if not among(policy, get_args(KvPolicy)):
            raise ParameterError(f"kv must be 'keep' or 'recompute', not {shown(policy)}")
        with self.lock:
            scales = self.scales(scales)
            changes, begin = changed(self._active, scales), time.monotonic()
            done = self._runtime.activate(self.resolve(scales), policy)  # may refuse them
            more = not acting(scales) <= acting(self._active)
            self._active = scales
            for text in self.doubles(scales) if warn and more else ():
                log.warning("%s", text)
            if changes and log.isEnabledFor(logging.INFO):
                done.add_done_callback(partial(log_when_done, changes, begin))
            return done

    def rescale(
        self, name: str, handle: int, scale: UserScale | None, policy: KvPolicy
    ) -> Future[None]:
        """Add an adapter to the active set, change its scale, or (None) remove it."""
        with self.lock:
            loaded = self._find(name, handle)
            scale = loaded.default_scale if scale == "default" else scale
            scales = {**self._active, name: scale} if scale is not None else dict(self._active)
            if scale is None:
                scales.pop(name, None)
            return self.activate({k: s for k, s in scales.items() if s is not None}, policy)

    def resolve(self, scales: Scales) -> AdapterSet:
        """Handles and scales for the runtime, without adapters at scale 0."""
        with self.lock:
            found = [
                (self._find(name).handle, scale) for name, scale in self.scales(scales).items()
            ]
            return tuple((handle, scale) for handle, scale in found if scale != 0.0)

    def doubles(self, scales: Mapping[str, float]) -> list[str]:
        """That adapters are the same one, whose scales then add up, in words."""
        with self.lock:
            held = {name: self._find(name).adapter for name, scale in scales.items() if scale}
        return doubled(held, scales)

    def scales(self, given: Scales) -> dict[str, float]:
        """Names with scales, those of names alone being their defaults. Raises ParameterError."""
        keys = given if isinstance(given, Mapping) else _keys(given)
        found = as_scales(keys)
        self._check_handles(keys)
        if isinstance(given, Mapping):
            return found
        with self.lock:
            known = self._loaded
            return {n: known[n].default_scale if n in known else s for n, s in found.items()}

    def _check_handles(self, keys: Iterable[object]) -> None:
        """Refuse adapters of other models, and those that were unloaded."""
        with self.lock:
            for key in keys:
                if isinstance(key, LoadedAdapter):
                    if key._table is not self:
                        raise ParameterError(f"{shown(key)} is an adapter of another model")
                    self._find(key.name, key._handle)

    def scale(self, name: str, handle: int) -> float | None:
        with self.lock:
            self._find(name, handle)
            return self._active.get(name)

    def info(self, name: str, handle: int) -> AdapterInfo:
        with self.lock:
            self._find(name, handle)
            return self._info(name)

    def adapter(self, name: str, handle: int) -> Adapter:
        with self.lock:
            adapter = self._find(name, handle).adapter
        if adapter is None:
            raise CapabilityError(
                f"the adapter {name!r} is on the server, and its weights are not here",
                hint="lorakit.read_adapter reads it from its files",
            )
        return adapter

    def all_info(self) -> tuple[AdapterInfo, ...]:
        """All loaded adapters: first the active ones, in their order, then the rest."""
        with self.lock:
            rest = [name for name in self._loaded if name not in self._active]
            return tuple(self._info(name) for name in [*self._active, *rest])

    def describe(self, name: str, handle: int) -> str:
        """An adapter in a few words, for its repr: takes no lock, and never waits or raises."""
        loaded = self._loaded.get(name)
        if self._runtime.closed or loaded is None or loaded.handle != handle:
            return "its model is closed" if self._runtime.closed else "unloaded"
        scale = self._active.get(name)
        state = "not active: apply() activates it" if scale is None else f"active at {scale:g}"
        where = "on the server" if loaded.adapter is None else f"rank {loaded.adapter.max_rank}"
        return f"{where}, {state}"

    def __repr__(self) -> str:
        """Which are loaded, and at what scale; as `describe`, without a lock."""
        loaded, active = list(self._loaded), dict(self._active)
        names = [*active, *(name for name in loaded if name not in active)]
        said = [
            f"{shown(name)} at {active[name]:g}" if name in active else f"{shown(name)} not active"
            for name in names[:SHOWN]
        ]
        more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
        return f"adapters: {', '.join(said + more)}" if names else "no adapters"

    def _info(self, name: str) -> AdapterInfo:
        loaded = self._loaded[name]
        adapter = loaded.adapter
        return AdapterInfo(
            name=name,
            source=loaded.source,
            scale=self._active.get(name),
            rank=adapter.max_rank if adapter else 0,
            modules=len(adapter.modules) if adapter else 0,
            parameters=adapter.parameters if adapter else 0,
            nbytes=adapter.nbytes if adapter else 0,
            digest=adapter.digest if adapter else "",
            default_scale=loaded.default_scale,
        )

    def _find(self, name: str, handle: int | None = None) -> _Loaded:
        """A loaded adapter; if a handle is given, it must be the same one."""
        self._runtime.require_open()
        loaded = self._loaded.get(name)
        if loaded is None:
            names = sorted(self._loaded)
            raise UnknownAdapterError(
                f"no adapter named {name!r} is loaded",
                hint=f"loaded adapters: {', '.join(names) or 'none'}{did_you_mean(name, names)}",
            )
        if handle is not None and handle != loaded.handle:
            raise UnknownAdapterError(
                f"this adapter {name!r} was unloaded; another one has its name now",
                hint="use the object that load_adapter last returned, or model.find",
            )
        return loaded


class LoadedAdapter:
    """A user's handle to a loaded adapter.

    Methods wait until the running step has ended; the `a...` variants await it. After `unload` all
    of them raise UnknownAdapterError, after the model was closed ClosedError.
    """

    def __init__(self, table: AdapterTable, name: str, handle: int) -> None:
        """Made by `Model.load_adapter` and `Model.find`."""
        self._table = table
        self._handle = handle
        self.name = name

    def apply(self, scale: UserScale = "default", *, kv: KvPolicy = "keep") -> None:
        """Activate the adapter at a scale, in addition to the active ones.

        scale multiplies the adapter's own effective scale; any finite number, 0 is off. "default"
        is what the adapter's lorakit.json says, as in `info.default_scale`, else 1. It acts
        from the next token on, also in running generations; `kv` chooses whether these keep the KV
        of earlier tokens or recompute it. Where the same adapter is active under another name, too,
        the scales add up, which is logged as a warning.
        Raises ParameterError, UnknownAdapterError, ClosedError.
        """
        self._table.rescale(self.name, self._handle, _number(scale), kv).result()

    async def aapply(self, scale: UserScale = "default", *, kv: KvPolicy = "keep") -> None:
        """`apply` for coroutines."""
        await asyncio.wrap_future(self._table.rescale(self.name, self._handle, _number(scale), kv))

    @property
    def scale(self) -> float | None:
        """The scale at which it is active; None if it is not. Setting it calls `apply`."""
        return self._table.scale(self.name, self._handle)

    @scale.setter
    def scale(self, scale: float) -> None:
        self.apply(scale)

    @property
    def info(self) -> AdapterInfo:
        """Rank, sizes, digest, source and scale."""
        return self._table.info(self.name, self._handle)

    @property
    def adapter(self) -> Adapter:
        """The Adapter that was loaded."""
        return self._table.adapter(self.name, self._handle)

    def remove(self, *, kv: KvPolicy = "keep") -> None:
        """Remove it from the active set; it stays loaded."""
        self._table.rescale(self.name, self._handle, None, kv).result()

    async def aremove(self, *, kv: KvPolicy = "keep") -> None:
        """`remove` for coroutines."""
        await asyncio.wrap_future(self._table.rescale(self.name, self._handle, None, kv))

    def unload(self) -> None:
        """Free it, after running requests that use it have ended. New requests cannot use it."""
        self._table.unload(self.name, self._handle).result()

    async def aunload(self) -> None:
        """`unload` for coroutines."""
        await asyncio.wrap_future(self._table.unload(self.name, self._handle))

    def __repr__(self) -> str:
        """One line; takes no lock, also after `unload` and after the model was closed."""
        state = self._table.describe(self.name, self._handle)
        return f"<LoadedAdapter {shown(self.name)}, {state}>"


def _number(scale: UserScale) -> UserScale:
    """The scale; None is refused, as it would remove the adapter. Raises ParameterError."""
    if scale is None:
        raise ParameterError("a scale must be a number, not None", hint="remove() deactivates it")
    if isinstance(scale, str) and scale != "default":
        raise ParameterError(f"a scale is a number or 'default', not {shown(scale)}")
    return scale


def as_scales(scales: Scales) -> dict[str, float]:
    """{"a": 0.7} or ["a"] (scale 1) as a dict of finite floats, by name. Raises ParameterError.

    A LoadedAdapter stands for its name.
    """
    result: dict[str, float] = {}
    for key in _keys(scales):
        scale = scales[key] if isinstance(scales, Mapping) else 1.0
        name = key.name if isinstance(key, LoadedAdapter) else key
        if not isinstance(name, str):
            raise ParameterError(
                f"an adapter is named by a string, not {shown(name)}",
                hint="what load_adapter returned names it too",
            )
        if name in result:
            raise ParameterError(f"adapter {name!r} is named twice")
        if not real(scale):
            raise ParameterError(f"the scale of {name!r} must be a number, not {shown(scale)}")
        if not finite(scale):
            said = shown(scale)
            raise ParameterError(f"the scale of {name!r} must be finite in float32, not {said}")
        result[name] = float(scale)
    return result


def _keys(scales: Any) -> list[Any]:
    """The adapters that are named, as they are. Raises ParameterError."""
    if isinstance(scales, str | LoadedAdapter):
        return [scales]
    if not isinstance(scales, Iterable):
        raise ParameterError(f"adapters must be names, or names with scales, not {shown(scales)}")
    return list(scales)
