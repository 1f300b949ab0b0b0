"""The adapters of a server, by handles: taken by its names, loaded there where it does that."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lorakit.engines.protocol import AdapterSet
from lorakit.errors import CapabilityError, LorakitError, UnknownAdapterError
from lorakit.remote.connection import Connection
from lorakit.remote.facts import Facts, llama_adapters, look
from lorakit.remote.kinds import Chosen, OnServer
from lorakit.remote.refusals import RefusalError
from lorakit.remote.server import Server
from lorakit.values import did_you_mean

log = logging.getLogger("lorakit")
Call = Callable[[Callable[[Connection], Any]], Any]  # RemoteRuntime's: on a connection of its own


class ServerAdapters:
    """Those that a model took, by handle. A server's own are left as they are; see `take`."""

    def __init__(self, server: Server, facts: Facts, call: Call) -> None:
        self._server, self._facts, self._call = server, facts, call
        self._handles: dict[int, OnServer] = {}
        self._numbers = itertools.count(1)

    def take(self, reference: str, name: str) -> OnServer:
        """An adapter by the server's name of it; a server that loads adapters is asked to.

        reference: the server's name, or its path there. name: what to call one that is loaded.
        Raises UnknownAdapterError, CapabilityError and ServerError.
        """
        known = self._known()
        for adapter in known:
            if reference in (adapter.name, adapter.path, adapter.path.rpartition("/")[2]):
                return adapter
        loads = self._facts.kind.loads
        if not loads or "/" not in reference:
            way = ", or give its path on the server" if loads else ""
            names = sorted(adapter.name for adapter in known)
            raise UnknownAdapterError(
                f"{self._server} has no adapter named {reference!r}",
                items=names,
                hint=f"start the server with it{way}{did_you_mean(reference, names)}",
            )
        self._post("load_lora_adapter", {"lora_name": name, "lora_path": reference})
        return OnServer(name=name, path=reference, ours=True)

    def attach(self, adapter: OnServer) -> int:
        """A handle for an adapter of the server."""
        handle = next(self._numbers)
        self._handles[handle] = adapter
        return handle

    def release(self, handle: int) -> None:
        """Forget one; what was loaded there for this model is unloaded there too."""
        adapter = self._handles.pop(handle)
        if adapter.ours:
            self._post("unload_lora_adapter", {"lora_name": adapter.name})

    def release_all(self) -> None:
        """All of them, at the end; what the server does not unload then is left there."""
        for handle in list(self._handles):
            try:
                self.release(handle)
            except LorakitError as error:
                log.warning("an adapter stays loaded on %s: %s", self._server, error.message)
                if error.code == "server_unreachable":  # once is enough to wait for it
                    return

    def chosen(self, adapters: AdapterSet) -> Chosen:
        return [(self._handles[handle], scale) for handle, scale in adapters]

    def fields(self, chosen: Chosen) -> dict[str, Any]:
        """What a request says to choose them. Raises CapabilityError."""
        return self._facts.kind.target(self._facts.model, chosen, self._facts.adapters)

    def require_same(self, chosen: Chosen, link: Connection) -> None:
        """Ask whether the numbers still mean these adapters: a server may have begun anew."""
        if not chosen or not self._facts.kind.scales:
            return
        now = llama_adapters(self._server, link.ask, link.broken)
        for adapter, _ in chosen:
            if adapter not in now:
                raise UnknownAdapterError(
                    f"{self._server} has another adapter in the place of {adapter.name!r} now",
                    hint="it was started anew with other adapters; open the model again",
                )

    def _known(self) -> Sequence[OnServer]:
        """The server's adapters, as they are now where they may change."""
        if not self._facts.kind.loads:
            return self._facts.adapters
        now: Facts = self._call(
            lambda link: look(self._server, self._facts.model, link.ask, link.broken)
        )
        return now.adapters

    def _post(self, call: str, body: Mapping[str, str]) -> None:
        def ask(link: Connection) -> None:
            try:
                link.ask(f"{self._server.base}/{call}", body)
            except RefusalError as refusal:
                raise self._refused(refusal, body) from None

        self._call(ask)

    def _refused(self, refusal: RefusalError, body: Mapping[str, str]) -> LorakitError:
        """The call itself is not there unless vLLM is told to have it."""
        if refusal.status != 404:
            return refusal.error(self._server)
        if refusal.fields.get("message") == "Not Found":
            return CapabilityError(
                f"{self._server} loads no adapters at run time",
                hint="start vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True",
            )
        said = refusal.error(self._server).message
        return UnknownAdapterError(said, items=sorted(body.values()), hint="a path is the server's")
