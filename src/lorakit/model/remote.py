"""RemoteModel: the same object for a model on a server, which renders and tokenises by itself.

What only a model in this process can do raises CapabilityError, before anything is sent.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from lorakit.adapter import Adapter
from lorakit.chat.calls import ParsedReply
from lorakit.chat.messages import Message
from lorakit.chat.rendering import RenderOptions
from lorakit.engines.protocol import AdapterSet, EngineOptions, Logits
from lorakit.errors import (
    CapabilityError,
    LorakitError,
    ParameterError,
    ServerError,
)
from lorakit.files.bounded import as_path
from lorakit.model.adapter_config import (
    AdapterChoice,
    AdapterConfig,
    AdapterRef,
    ModelWarning,
    as_choices,
)
from lorakit.model.adapters import AdapterTable, LoadedAdapter, Scales
from lorakit.model.chat_stream import Reader
from lorakit.model.load import unused_name
from lorakit.model.model import Model, Pooling
from lorakit.model.prompts import deadline_of, refuse_conversation, require_lookahead
from lorakit.model.remote_text import RemotePrompt, RemoteReader, TokenIds
from lorakit.model.types import ChatPrompt, ChatReply, Prompt, Tools
from lorakit.processes import on_fork
from lorakit.remote.answers import RemoteCompletion
from lorakit.remote.asking import Content, Conversation, Question
from lorakit.remote.kinds import OnServer
from lorakit.remote.runtime import RemoteRuntime, cannot
from lorakit.remote.server import server_of
from lorakit.remote.waiting import Waits
from lorakit.runtime.generation import Completion, Generation
from lorakit.runtime.params import SamplingParams
from lorakit.runtime.prompts import check_ids, check_prompt
from lorakit.sources import OnProgress, Source
from lorakit.text.tokenizer import TextTokenizer, Tokenizer
from lorakit.values import finite, shown, whole

log = logging.getLogger("lorakit")
KEY = "LORAKIT_API_KEY"
WITH_TOKENIZER = "open it with tokenizer=, the folder of the model's tokenizer"
HERE = ("base", "tokenizer")  # attributes of a Model in this process


class ServerTable(AdapterTable):
    """The adapters of a remote model: those that the server holds are there from the beginning."""

    def reserve(self, name: str) -> None:
        """Claim a name, unless the server itself calls an adapter so."""
        if not isinstance(name, str) or name not in self.own:
            super().reserve(name)

    def begin(self, adapters: Iterable[tuple[OnServer, int]]) -> None:
        """What the server holds, with its handles."""
        self.own: dict[str, OnServer] = {}
        for adapter, handle in adapters:
            self.own[adapter.name] = adapter
            self.enter(adapter.name, handle, None, adapter.path or adapter.name, 1.0)


class RemoteModel(Model):
    """A model on a server. Thread-safe. Made by `open_remote`.

    An answer keeps the adapters with which it began: `apply` acts on the answers that follow.
    """

    def __init__(self, remote: RemoteRuntime, tokenizer: TextTokenizer | None = None) -> None:
        self._runtime = self._remote = remote
        self._begin(remote)
        self.capabilities = remote.capabilities
        self._table = self._server_table = ServerTable(remote)
        on_fork(self._table, AdapterTable.renew_lock)
        if tokenizer is not None:
            self.tokenizer = tokenizer
        kind = remote.facts.kind
        held = remote.facts.adapters if kind.scales or kind.loads else ()
        self._server_table.begin((one, remote.adapters.attach(one)) for one in held)

    @property
    def name(self) -> str:
        """What the server calls the model."""
        return self._remote.facts.model

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            if name == "tokenizer":
                raise _no_tokenizer()
            if name in HERE:
                raise cannot(f"does not show the model's {name}")
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def encode(self, prompt: Prompt) -> list[int]:
        """The token ids of a text, where the model was opened with tokenizer=."""
        if isinstance(prompt, RemotePrompt):
            raise cannot("renders a conversation itself; its token ids are not known here")
        return super().encode(prompt)

    async def _prepare(self, prompt: Prompt, params: SamplingParams) -> None:
        """The server makes its own constraints."""

    def reader(self, prompt: Prompt | None = None, *, repair: bool = False) -> Reader:
        return RemoteReader()

    def parse_reply(
        self, completion: Completion, prompt: Prompt | None = None, *, repair: bool = False
    ) -> ChatReply:
        """The reply, as the server took it apart; repair mends the arguments of its calls."""
        if isinstance(completion, RemoteCompletion):
            parsed = completion.mended if repair else completion.parsed
            return ChatReply(parsed=parsed, completion=completion)
        return ChatReply(parsed=ParsedReply(text=completion.text), completion=completion)

    def embed(
        self,
        prompt: Prompt,
        *,
        adapters: Scales | None = None,
        pooling: Pooling | None = None,
        normalize: bool = True,
    ) -> npt.NDArray[np.float32]:
        """The server's embedding of a prompt, float32 [its size]; it pools as it was started.

        Raises CapabilityError where the server has no embeddings, and for a choice of pooling.
        """
        if pooling is not None:
            raise cannot("pools as it was started; leave pooling= out")
        content = self._content(prompt)
        if isinstance(content, Conversation):
            raise cannot("embeds text, not a conversation")
        with self._table.lock:
            chosen = None if adapters is None else self._table.resolve(adapters)
        vector = _vector(self._remote.embedding(content, chosen), str(self._remote.server))
        length = float(np.linalg.norm(vector)) if normalize else 1.0
        return np.asarray(vector / (length or 1.0), np.float32)

    def logits(self, prompt: Prompt, *, adapters: Scales | None = None) -> Logits:
        raise cannot("gives no logits")

    def save_state(
        self, prompt: Prompt, path: str | os.PathLike[str], *, adapters: Scales | None = None
    ) -> int:
        raise cannot("gives no KV to save")

    def load_state(self, path: str | os.PathLike[str]) -> int:
        raise cannot("takes no saved KV")

    def __repr__(self) -> str:
        state = "closed" if self.closed else repr(self._table)
        return f"<Model {shown(self.name)} on {self._remote.server}, {state}>"

    # Submitting.

    def _rendered(
        self, messages: Sequence[Message], tools: Tools | None, options: RenderOptions
    ) -> ChatPrompt:
        return RemotePrompt(Conversation.of(messages, tools, options))

    def _content(self, prompt: Prompt) -> Content:
        """What is sent for a prompt. Raises ParameterError, ContextFullError, CapabilityError."""
        if isinstance(prompt, RemotePrompt):
            return prompt.conversation
        if isinstance(prompt, str):
            return prompt
        refuse_conversation(prompt)
        self.tokenizer  # noqa: B018  # raises where there is none
        ids = self.encode(prompt)
        if not ids:
            raise ParameterError("the prompt holds no tokens")
        most = self.capabilities.context or len(ids) + 1  # unknown: the server says it
        check_prompt(ids, most, self._vocabulary)
        return tuple(ids)

    @property
    def _vocabulary(self) -> int:
        return self.capabilities.vocabulary or self.tokenizer.vocabulary

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
        """lookahead: how many pieces are read from the server before they are asked for."""
        deadline = deadline_of(timeout)
        require_lookahead(lookahead)
        content = self._content(prompt)
        if self.capabilities.vocabulary:
            named = (*params.stop_tokens, *params.logit_bias)
            check_ids(named, self.capabilities.vocabulary)

        def ask(chosen: AdapterSet | None) -> Generation:
            return self._remote.ask(
                Question(
                    content=content,
                    params=params,
                    adapters=chosen,
                    deadline=deadline,
                    lookahead=lookahead,
                    patient=wait,
                )
            )

        return self._queued(ask, adapters, deadline, wait=wait)

    # Loading.

    def _load(
        self,
        reference: AdapterRef | AdapterConfig,
        name: str,
        source: Source,
        private: bool | None,
        report: OnProgress,
    ) -> LoadedAdapter:
        """Take an adapter by the server's name of it, or a path on the server."""
        try:
            text = self._name_on_server(reference, name, source)
            own, held = self._server_table.own.get(name), self._table.find(name)
            if own is not None and held is not None and own.name == text:
                return held
            adapter = self._remote.adapters.take(text, name)
            handle = self._remote.adapters.attach(adapter)
            return self._table.enter(name, handle, None, adapter.path or adapter.name, 1.0)
        except BaseException:
            self._table.release(name)
            raise

    def _name_on_server(
        self, reference: AdapterRef | AdapterConfig, name: str, source: Source
    ) -> str:
        if isinstance(reference, Adapter):
            self._remote.load(name, reference)
        if isinstance(reference, AdapterConfig):
            source = reference.source
            lacking = [f"{key}={value!r:.40}" for key, value in reference.reading.items()]
            lacking += [f"mode={reference.mode!r}"] if reference.mode != "dynamic" else []
            if reference.absolute_scale is not None:
                lacking.append(f"absolute_scale={reference.absolute_scale:g}")
            if lacking:
                raise CapabilityError(
                    "a server has read its adapters already",
                    items=lacking,
                    hint="only scale= can be chosen, where the server has scales",
                )
            reference = reference.path
        if source not in ("auto", "huggingface"):
            raise CapabilityError(
                f"an adapter of a server is no {source} file of this machine",
                hint="give the server's name of it",
            )
        return os.fspath(reference).removeprefix("hf:")


def open_remote(
    url: str,
    *,
    api_key: str | None = None,
    model: str | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    adapter: AdapterChoice | Iterable[AdapterChoice] | None = None,
    allow_private: bool = False,
    max_batch: int | None = None,
    max_queue: int = 256,
    waits: Waits | None = None,
    timeout: float | None = None,
) -> RemoteModel:
    """Open a model on a server that speaks OpenAI's API.

    url: of the API, such as https://host/v1; http:// for this machine alone. api_key: sent to this
    server; None is LORAKIT_API_KEY. model: the server's name of it, where it has several.
    tokenizer: the folder of the model's tokenizer, for prompts of token ids. adapter: by the
    server's names. allow_private: allow a machine of a private network. max_batch: connections at
    once. max_queue: how many requests may wait. waits: how long the server may take. timeout: in
    seconds, to say what it is.
    Raises ParameterError, ServerError, DeadlineError, CapabilityError and BaseModelError
    (tokenizer_missing).
    """
    for word, value in (("max_queue", max_queue), ("max_batch", max_batch)):
        if value is not None and not (whole(value) and value >= 1):
            raise ParameterError(f"{word} must be an integer of 1 or more, found {shown(value)}")
    if not isinstance(model, str | None):
        raise ParameterError(f"model is the server's name of it, not {shown(model)}")
    key = api_key if api_key is not None else os.environ.get(KEY, "").strip() or None
    server = server_of(url, key, allow_private=allow_private)
    choices = as_choices(adapter)
    text = None if tokenizer is None else Tokenizer.open(as_path(tokenizer))
    remote = RemoteRuntime(
        server,
        model=model,
        max_batch=EngineOptions().max_batch if max_batch is None else max_batch,
        max_queue=max_queue,
        waits=waits,
        token_id=None if text is None else TokenIds(text),
        deadline=deadline_of(timeout),
    )
    opened = RemoteModel(remote, text)
    try:
        opened.warnings = _apply(opened, choices)
    except BaseException:
        opened.close()
        raise
    log.info("%s: %s on %s", server, opened.name, remote.facts.kind.name)
    return opened


def _apply(
    model: RemoteModel, choices: Sequence[Adapter | AdapterConfig]
) -> tuple[ModelWarning, ...]:
    """Load and activate adapters; returns warnings for those that failed and may."""
    scales: dict[str, float] = {}
    warnings = []
    for choice in choices:
        try:
            name = "adapter" if isinstance(choice, Adapter) else str(os.fspath(choice.path))
            loaded = model.load_adapter(choice, unused_name(name, scales))
        except LorakitError as error:
            if isinstance(choice, Adapter) or choice.on_error == "raise":
                raise
            log.warning("going on without the adapter %s [%s]: %s", name, error.code, error.message)
            warnings.append(ModelWarning(code=error.code, message=str(error), adapter=name))
        else:
            said = None if isinstance(choice, Adapter) else choice.scale
            scales[loaded.name] = 1.0 if said is None else said
    model.apply(scales)
    return tuple(warnings)


def _no_tokenizer() -> CapabilityError:
    return CapabilityError(
        "a server tokenises text itself: there are no token ids here", hint=WITH_TOKENIZER
    )


def _vector(said: Any, server: str) -> npt.NDArray[np.float64]:
    """The one embedding that was asked for. Raises ServerError."""
    try:
        (row,) = said["data"]
        numbers = row["embedding"]
        if not numbers or not all(map(finite, numbers)):
            raise ValueError("it is no list of finite numbers")
        return np.asarray(numbers, np.float64)
    except (TypeError, KeyError, ValueError) as error:
        said = json.dumps(said)[:80] if isinstance(said, dict | list) else shown(said)
        raise ServerError(
            f"{server} gives no embedding, but {said}", code="server_invalid"
        ) from error
