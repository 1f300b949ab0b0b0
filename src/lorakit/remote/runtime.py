"""RemoteRuntime: requests that a server answers, each on a connection and a thread of its own.

At most `max_batch` connections are open at once; further requests wait, with their deadlines. An
answer keeps the adapters with which it began: a server cannot change them in its midst.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from typing import Any, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt

from lorakit.adapter import Adapter
from lorakit.engines.protocol import AdapterSet, Capabilities, Logits
from lorakit.errors import (
    CancelledError,
    CapabilityError,
    ClosedError,
    EngineError,
    LorakitError,
    QueueFullError,
    ServerError,
)
from lorakit.processes import watch
from lorakit.remote.answers import Answer, TokenId
from lorakit.remote.asking import STREAMED, Conversation, Question
from lorakit.remote.connection import Connection
from lorakit.remote.facts import Facts, look
from lorakit.remote.job import Job
from lorakit.remote.kinds import Chosen
from lorakit.remote.learned import Learned
from lorakit.remote.on_server import ServerAdapters
from lorakit.remote.refusals import RefusalError
from lorakit.remote.server import Server
from lorakit.remote.turns import Turns
from lorakit.remote.waiting import Waiting, Waits
from lorakit.runtime.generation import Completion, Generation
from lorakit.runtime.protocol import Submission
from lorakit.runtime.stages import KvPolicy
from lorakit.runtime.state import State
from lorakit.text.image_ids import Image, Vectors

log = logging.getLogger("lorakit")
T = TypeVar("T")
ENGINE = "api"  # what Capabilities.engine says
PER_TOKEN, PER_ALTERNATIVE, ELSE = 4096, 256, 1 << 20  # bytes that an answer may have
FROM_FILES = "open the model itself, from its files"


class RemoteRuntime:
    """A server, as a Runtime: see runtime.protocol. Made by asking it once what it is."""

    def __init__(
        self,
        server: Server,
        *,
        model: str | None = None,
        max_batch: int = 16,
        max_queue: int = 256,
        waits: Waits | None = None,
        token_id: TokenId | None = None,
        deadline: float | None = None,
    ) -> None:
        """token_id: the id of a token, where a server gives log probabilities without ids.
        deadline: until when it has to say what it is, on the clock of time.monotonic.

        Raises ServerError, DeadlineError, and ParameterError for a model that it does not have.
        """
        self.server, self.max_queue = server, max_queue
        self._waits, self._token_id, self._max_batch = waits or Waits(), token_id, max_batch
        self._turns = Turns(max_batch, max_queue)
        self._closed: ClosedError | None = None
        self._ended = threading.Event()
        self._jobs: set[Job] = set()  # changed and copied in one step each
        self._active: AdapterSet = ()
        self._learned = Learned()
        self.facts: Facts = self._call(
            lambda link: look(server, model, link.ask, link.broken), deadline
        )
        self.adapters = ServerAdapters(server, self.facts, self._call)
        watch(self)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            engine=ENGINE,
            vocabulary=self.facts.vocabulary,
            context=self.facts.context,
            max_batch=self._max_batch,
            max_sequences=self._max_batch,
            mixed_batch=True,
            kv_identity="",  # no KV comes from there
            prefill_chunk=1,
        )

    # Requests.

    def submit(self, submission: Submission) -> Generation:
        """Ask about token ids. Raises QueueFullError, CapabilityError and ClosedError."""
        return self.ask(
            Question(
                content=submission.prompt,
                params=submission.params,
                adapters=submission.adapters,
                deadline=submission.deadline,
                lookahead=submission.lookahead,
            )
        )

    def ask(self, question: Question) -> Generation:
        """Ask for an answer. Raises QueueFullError and ClosedError; and CapabilityError for what
        the server cannot do, before anything is sent."""
        prompt = question.content if isinstance(question.content, tuple) else ()
        adapters = self._active if question.adapters is None else question.adapters
        chosen = self.adapters.chosen(adapters)
        generation = Generation(
            prompt,
            question.params,
            adapters=adapters,
            deadline=question.deadline,
            lookahead=question.lookahead,
        )
        job = Job(
            question=question,
            generation=generation,
            chosen=chosen,
            body=self._body(question, chosen),
        )
        generation.wake = job.poke.set
        generation.interrupt = job.interrupt
        self.require_open()
        self._turns.join()
        self._jobs.add(job)
        thread = threading.Thread(target=self._run, args=(job,), name="lorakit-api", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the system gives no more of them
            self._jobs.discard(job)
            self._turns.leave()
            raise EngineError(f"the request cannot begin: {error}") from error
        return generation

    def wait_for_room(self, deadline: float | None = None) -> None:
        """Wait until the queue has room, and a busy server may be asked again. DeadlineError."""
        self._turns.wait_for_room(deadline, self._ended)

    def _body(self, question: Question, chosen: Chosen) -> dict[str, Any]:
        """The JSON of a request. Raises CapabilityError for what this kind of server has not."""
        kind, content = self.facts.kind, question.content
        chat = isinstance(content, Conversation)
        body = self.adapters.fields(chosen) | STREAMED
        if question.params.logprobs is not None and not kind.ids and self._token_id is None:
            raise CapabilityError(
                f"{kind.name} names the tokens of logprobs by their text, not their ids",
                hint="open it with tokenizer=, the folder of the model's tokenizer",
            )
        body |= kind.sampling(question.params, chat)
        if isinstance(content, Conversation):
            return body | content.fields(kind.reasoning) | kind.rendering(content)
        return body | {"prompt": list(content) if isinstance(content, tuple) else content}

    # A request's thread.

    def _run(self, job: Job) -> None:
        generation = job.generation
        outcome: Completion | LorakitError
        try:
            outcome = self._patiently(job)
        except LorakitError as error:
            outcome = error
        except BaseException as error:
            log.exception("a request to %s failed", self.server)
            outcome = EngineError(f"the request failed: {error!r}")
        finally:
            self._jobs.discard(job)
        generation.finish(self._closed or outcome)

    def _patiently(self, job: Job) -> Completion:
        """An answer; where the question is patient, a busy server is asked until it has room."""
        joined = True
        while True:
            with self._turns.turn(job.generation, joined=joined):
                try:
                    return self._answer(job)
                except QueueFullError:
                    if not job.question.patient:
                        raise
            joined = False
            self.wait_for_room(job.question.deadline)

    def _answer(self, job: Job) -> Completion:
        while True:
            body = self._learned.said(job.body)
            try:
                return self._ask_once(job, body)
            except RefusalError as refusal:
                if not self._learned.takes(refusal, body):
                    raise self._refused(refusal, job) from None

    def _ask_once(self, job: Job, body: Mapping[str, Any]) -> Completion:
        params, generation = job.question.params, job.generation
        link = job.connection = self._connection(job.question.deadline)
        if generation.cancelled or self.closed:  # before there was a connection to end
            raise CancelledError("the request was cancelled")
        top = params.logprobs
        answer = Answer(link.broken, self._token_id, top)
        limit = ELSE + params.max_tokens * (PER_TOKEN + PER_ALTERNATIVE * (top or 0))
        first = 0.0
        url = f"{self.server.base}{job.question.path}"
        self.adapters.require_same(job.chosen, link)
        with closing(link.stream(url, body, limit)) as stream:
            for event in stream:
                if deltas := answer.take(event):
                    first = first or time.monotonic()
                    job.give(deltas)
        if answer.finish is None:
            raise ServerError(
                f"{self.server} ended its answer in the middle",
                code="server_unreachable",
                hint="ask again; the server or something before it closed the connection",
            )
        if top is not None and answer.text and not answer.tokens:
            raise CapabilityError(
                f"{self.server} gives no log probabilities", hint="ask without them"
            )
        return job.completion(answer, first)

    def _refused(self, refusal: RefusalError, job: Job) -> LorakitError:
        if refusal.status == 429:
            self._turns.busy(refusal.wait)
        model = str(job.body["model"])
        return refusal.error(self.server, model=model, adapter=model != self.facts.model)

    # Adapters.

    def load(self, name: str, adapter: Adapter) -> NoReturn:
        raise CapabilityError(
            "a server takes adapters by its own names, not their weights",
            hint='load_adapter("its name there"); the server is started with the file',
        )

    def unload(self, handle: int) -> Future[None]:
        """Forget an adapter; one that was loaded there for this model is unloaded there too."""
        self.require_open()
        self.adapters.release(handle)
        return _done(None)

    def activate(self, adapters: AdapterSet, policy: KvPolicy) -> Future[None]:
        """Replace the active set, of the requests to come. Raises CapabilityError."""
        self.require_open()
        if policy != "keep":
            raise CapabilityError(
                "a server computes nothing anew: running answers keep their adapters",
                hint='leave kv= at "keep"',
            )
        self.adapters.fields(self.adapters.chosen(adapters))
        self._active = adapters
        return _done(None)

    # What is asked beside the requests.

    def embedding(self, content: str | Sequence[int], chosen: AdapterSet | None) -> Any:
        """What /embeddings says of a text. Raises CapabilityError where there is none."""
        adapters = self.adapters.chosen(self._active if chosen is None else chosen)
        if adapters and self.facts.kind.scales:
            raise CapabilityError(
                f"{self.facts.kind.name} embeds with the base alone",
                items=[adapter.name for adapter, _ in adapters],
                hint="adapters={} embeds with the base",
            )
        body = self.adapters.fields(adapters)
        body |= {"input": content, "encoding_format": "float"}
        return self._call(lambda link: link.ask(f"{self.server.base}/embeddings", body))

    def logits(
        self,
        tokens: Sequence[int],
        adapters: AdapterSet | None,
        images: Mapping[int, Vectors] | None = None,
    ) -> Future[Logits]:
        raise cannot("gives no logits")

    def hidden(
        self, tokens: Sequence[int], adapters: AdapterSet | None
    ) -> Future[npt.NDArray[np.float32]]:
        raise cannot("gives no hidden states")

    def save_state(self, tokens: Sequence[int], adapters: AdapterSet | None) -> Future[State]:
        raise cannot("gives no KV")

    def load_state(self, state: State) -> Future[None]:
        raise cannot("takes no KV")

    def encode_image(self, content: bytes) -> Image:
        raise cannot("encodes no image apart from a conversation")

    def _connection(self, deadline: float | None = None) -> Connection:
        return Connection(self.server, Waiting(self._waits, deadline))

    def _call(self, work: Callable[[Connection], T], deadline: float | None = None) -> T:
        """Something that is asked at once."""
        try:
            return work(self._connection(deadline))
        except RefusalError as refusal:
            raise refusal.error(self.server) from None

    # Closing.

    @property
    def closed(self) -> bool:
        return self._closed is not None

    def require_open(self) -> None:
        if self._closed is not None:
            raise ClosedError(self._closed.message, hint=self._closed.hint)

    def begin_close(self) -> None:
        """End all connections. Takes no lock and does not wait, so that finalizers may call it."""
        self._end(ClosedError("the model is closed", hint="open it again"))

    def close(self) -> None:
        """End all requests with ClosedError, and unload what was loaded there. Idempotent."""
        was_open = not self.closed
        self.begin_close()
        if was_open:
            self.adapters.release_all()

    def forked(self) -> None:
        """In a forked child: the connections are the parent's, and are left alone."""
        self._closed = ClosedError(
            "the model was opened before this process was forked, and belongs to its parent",
            hint="open it in this process",
        )
        self._turns = Turns(self._max_batch, self.max_queue)
        for job in list(self._jobs):
            job.generation.forked(self._closed)

    def _end(self, reason: ClosedError) -> None:
        if self._closed is None:
            self._closed = reason
        self._ended.set()
        for job in list(self._jobs):
            job.end(self._closed)
            job.poke.set()


def cannot(what: str) -> CapabilityError:
    """What a server cannot do."""
    return CapabilityError(f"a server {what}", hint=FROM_FILES)


def _done(value: None) -> Future[None]:
    future: Future[None] = Future()
    future.set_result(value)
    return future
