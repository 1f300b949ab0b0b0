"""FallbackModel: a model on a server answers until the base in this process is open.

It moves over between requests: an answer ends where it began, and a conversation goes on with its
messages. It knows a RemoteModel and a function that opens the other one.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lorakit.adapter import Adapter
from lorakit.chat.messages import Message
from lorakit.chat.rendering import RenderOptions
from lorakit.engines.protocol import Logits
from lorakit.errors import ClosedError, DeadlineError, EngineError, LorakitError, ServerError
from lorakit.model.adapter_config import (
    FALLBACK,
    AdapterConfig,
    AdapterRef,
    ModelWarning,
)
from lorakit.model.adapters import LoadedAdapter, Scales
from lorakit.model.chat_stream import Reader
from lorakit.model.model import Model, Pooling
from lorakit.model.moving import MovingTable
from lorakit.model.remote import RemoteModel
from lorakit.model.remote_text import RemotePrompt
from lorakit.model.types import ChatPrompt, ChatReply, Prompt, Tools
from lorakit.processes import on_fork, watch
from lorakit.remote.answers import RemoteCompletion
from lorakit.runtime.generation import Completion, Generation
from lorakit.runtime.params import SamplingParams
from lorakit.sources import OnProgress, Progress, Source, describe
from lorakit.values import shown

Make = Callable[[OnProgress | None], Model]
LONGEST_LOOK = 20.0  # seconds in which the server has to say what it is
OF_MODEL_IN_USE = ("base", "tokenizer", "_dialogue")
log = logging.getLogger("lorakit")


class Opening:
    """The other model while it is opened, on a thread of its own. It does not keep its owner."""

    def __init__(self, owner: FallbackModel, make: Make, progress: OnProgress | None) -> None:
        self._owner = weakref.ref(owner, lambda _: self.stop())
        self._make, self._progress = make, progress
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lorakit-open", daemon=True)
        self._thread.start()
        watch(self, self._thread)

    def stop(self) -> None:
        """End what is being fetched; takes no lock and does not wait."""
        self._stopped.set()

    close = stop  # at the end of the process

    def forked(self) -> None:
        """In a forked child, where the thread is not, the model is the parent's: nothing to do."""

    def _run(self) -> None:
        outcome: Model | LorakitError
        try:
            outcome = self._make(self._report)
        except LorakitError as error:
            outcome = error
        except BaseException as error:
            log.exception("the model could not be opened")
            outcome = EngineError(f"the model could not be opened: {error!r}")
        owner = self._owner()
        taken = owner is not None and owner._opened(outcome)
        if not taken and isinstance(outcome, Model):
            outcome.close()

    def _report(self, progress: Progress) -> None:
        if self._stopped.is_set():
            raise ClosedError("the model is closed", hint="open it again")
        if self._progress is not None:
            self._progress(progress)


class FallbackModel(Model):
    """A model on a server, and one in this process as soon as that is open. Thread-safe.

    `warnings` says which answers; `runtime_name` too. Once it moved, adapters that were applied
    meanwhile are active where the model here has them, by their names.
    """

    def __init__(
        self, remote: RemoteModel, reference: str, warnings: Sequence[ModelWarning]
    ) -> None:
        """Made by `open_with_fallback`. reference: the base's, safe to show."""
        self._remote, self._reference = remote, reference
        self._local: Model | None = None
        self._opening: Opening | None = None
        self._failed = self._ended = False
        self._begin(remote._runtime)
        self._moving = MovingTable(remote._table)
        self._table = self._moving
        on_fork(self._table, MovingTable.renew_lock)
        self._use(remote)
        self.warnings = tuple(warnings)
        self._first = remote.adapters

    def _use(self, model: Model) -> None:
        """Every request that begins from here on is this model's."""
        self._current = model
        self._runtime = model._runtime
        self.capabilities, self.defaults = model.capabilities, model.defaults
        self.merged = model.merged

    def begin(self, make: Make, progress: OnProgress | None) -> None:
        """Open the model in this process, in the background."""
        self._progress = progress  # of later downloads
        self._opening = Opening(self, make, progress)

    def _opened(self, outcome: Model | LorakitError) -> bool:
        """Move over to the model that was opened, or stay. False: it was closed meanwhile."""
        with self._table.lock:
            if self._ended or self.closed:
                return False
            if isinstance(outcome, Model):
                try:
                    carried = self._carry(outcome)
                except LorakitError as error:
                    self._stay(error)
                    return False
                self._moving.move(outcome._table)
                self._local = outcome
                self._use(outcome)
                self.warnings = (*outcome.warnings, *carried)
            else:
                self._stay(outcome)
        if self._local is not None:
            log.info("%s is open: it answers now, on %s", self._reference, self.runtime_name)
        return True

    def _carry(self, local: Model) -> list[ModelWarning]:
        """Activate what users activated on the server meanwhile; warnings for what cannot be."""
        before = {info.name: info.scale for info in self._first}
        now = {info.name: info.scale for info in self._remote.adapters}
        there = {info.name for info in local.adapters}
        if now != before:
            own = {info.name: info.scale for info in local.adapters if info.name not in before}
            both = {name: scale for name, scale in now.items() if name in there}
            wanted = own | both
            local.apply({name: scale for name, scale in wanted.items() if scale is not None})
        lost = [name for name, scale in now.items() if scale is not None and name not in there]
        return [self._warning(f"the server's adapter {name!r} is not here", name) for name in lost]

    def _stay(self, error: LorakitError) -> None:
        self._failed = True
        said = f"{self._reference} did not open; {self._remote._remote.server} goes on answering"
        log.warning("%s [%s]: %s", said, error.code, error.message)
        failed = ModelWarning(code=error.code, message=f"{said}: {error}", adapter="")
        self.warnings = (*self.warnings, failed)

    def _warning(self, message: str, adapter: str) -> ModelWarning:
        log.warning("%s", message)
        return ModelWarning(code=FALLBACK, message=message, adapter=adapter)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name in OF_MODEL_IN_USE:
                return getattr(self._current, name)
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def name(self) -> str:
        """The name of the model in use, to show."""
        return self._current.name

    # What differs between the two. A rendered conversation belongs to who rendered it.

    def _of(self, prompt: Prompt | None) -> Model:
        return self._remote if isinstance(prompt, RemotePrompt) else self._current

    def encode(self, prompt: Prompt) -> list[int]:
        return self._of(prompt).encode(prompt)

    async def _prepare(self, prompt: Prompt, params: SamplingParams) -> None:
        await self._of(prompt)._prepare(prompt, params)

    def reader(self, prompt: Prompt | None = None, *, repair: bool = False) -> Reader:
        return self._of(prompt).reader(prompt, repair=repair)

    def parse_reply(
        self, completion: Completion, prompt: Prompt | None = None, *, repair: bool = False
    ) -> ChatReply:
        model = self._remote if isinstance(completion, RemoteCompletion) else self._current
        return model.parse_reply(completion, prompt, repair=repair)

    def _rendered(
        self, messages: Sequence[Message], tools: Tools | None, options: RenderOptions
    ) -> ChatPrompt:
        return self._current._rendered(messages, tools, options)

    def _submit(
        self,
        prompt: Prompt,
        params: SamplingParams,
        adapters: Scales | None,
        timeout: float | None,
        *,
        lookahead: int | None = None,
        wait: bool = False,
    ) -> Generation:
        with self._table.lock:  # so that both are of one side
            names, model = self._names(adapters), self._of(prompt)
        return model._submit(prompt, params, names, timeout, lookahead=lookahead, wait=wait)

    def _names(self, adapters: Scales | None) -> Scales | None:
        return None if adapters is None else self._table.scales(adapters)

    def logits(self, prompt: Prompt, *, adapters: Scales | None = None) -> Logits:
        return self._of(prompt).logits(prompt, adapters=self._names(adapters))

    def embed(
        self,
        prompt: Prompt,
        *,
        adapters: Scales | None = None,
        pooling: Pooling | None = None,
        normalize: bool = True,
    ) -> npt.NDArray[np.float32]:
        model, names = self._of(prompt), self._names(adapters)
        if isinstance(model, RemoteModel):
            return model.embed(prompt, adapters=names, pooling=pooling, normalize=normalize)
        return model.embed(prompt, adapters=names, pooling=pooling or "mean", normalize=normalize)

    def save_state(
        self, prompt: Prompt, path: str | os.PathLike[str], *, adapters: Scales | None = None
    ) -> int:
        return self._of(prompt).save_state(prompt, path, adapters=self._names(adapters))

    def load_state(self, path: str | os.PathLike[str]) -> int:
        return self._current.load_state(path)

    def _load(
        self,
        reference: AdapterRef | AdapterConfig,
        name: str,
        source: Source,
        private: bool | None,
        report: OnProgress,
    ) -> LoadedAdapter:
        """On the model in use; again on the other, where it moved meanwhile."""
        try:
            while True:
                model = self._current
                loaded = model.load_adapter(
                    reference, name, source=source, allow_private=private, progress=report
                )
                with self._table.lock:
                    if model is self._current:
                        return self._moving.own(loaded)
        finally:
            self._table.release(name)

    # Closing.

    @property
    def closed(self) -> bool:
        return self._ended or self._remote.closed

    def close(self) -> None:
        """Close both, and end the opening of the one that is not open yet. Idempotent."""
        self._ended = True
        if self._opening is not None:
            self._opening.stop()
        with self._table.lock:  # it may be moving over
            local = self._local
        self._remote.close()
        if local is not None:
            local.close()
        super().close()

    def __repr__(self) -> str:
        if self._local is not None:
            return repr(self._local)
        base = self._reference
        until = f"as {base} did not open" if self._failed else f"until {base} is open"
        about = "closed" if self.closed else f"{until}, {self._table!r}"
        return f"<Model {shown(self.name)} on {self._remote._remote.server}, {about}>"


def open_with_fallback(
    make: Make,
    remote: Callable[..., RemoteModel],
    *,
    reference: str,
    url: str,
    choices: Sequence[Adapter | AdapterConfig],
    progress: OnProgress | None,
) -> Model:
    """The model on a server, that of `make` once it is open; or that alone, where there is no
    server.

    choices: the adapters that `make` applies; on the server those that it has by their names.
    Raises what `remote` raises but ServerError and DeadlineError, and then what `make` raises.
    """
    try:
        server = remote(timeout=LONGEST_LOOK)
    except (ServerError, DeadlineError) as error:
        message = f"nothing answers before the model is open: {error.message}"
        log.warning("%s", message)
        model = make(progress)
        model.warnings += (ModelWarning(code=error.code, message=message, adapter=""),)
        return model
    try:
        message = f"{describe(url)} answers until {reference} is open"
        log.info("%s", message)
        said = [ModelWarning(code=FALLBACK, message=message, adapter="")]
        said += _applied(server, choices)
        model = FallbackModel(server, reference, said)
    except BaseException:
        server.close()
        raise
    model.begin(make, progress)
    return model


def _applied(server: RemoteModel, choices: Sequence[Adapter | AdapterConfig]) -> list[ModelWarning]:
    """Apply those of the adapters that the server has by their names; warnings for the others."""
    scales: dict[str, float] = {}
    warnings: list[ModelWarning] = []
    for choice in choices:
        name, source = "an adapter from memory", ""
        if isinstance(choice, AdapterConfig):
            name, source = choice.name, describe(choice.path, choice.source)
        reason = _lacks(server, choice)
        if not reason and isinstance(choice, AdapterConfig):
            wanted = scales | {name: 1.0 if choice.scale is None else choice.scale}
            try:
                server.apply(wanted)
                scales = wanted
            except LorakitError as error:
                reason = error.message
        if reason:
            message = f"without {name} until the model is open: {reason}"
            log.warning("%s", message)
            warnings.append(ModelWarning(code=FALLBACK, message=message, adapter=source))
    return warnings


def _lacks(server: RemoteModel, choice: Adapter | AdapterConfig) -> str:
    """Why a server cannot apply an adapter; or nothing."""
    if isinstance(choice, Adapter) or server.find(choice.name) is None:
        return "the server has none of this name"
    return "" if choice.absolute_scale is None else "the server has no absolute scales"
