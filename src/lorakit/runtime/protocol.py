"""The interface above the engines: what a Model needs of whatever runs its requests.

The engine's thread in this process is one Runtime (thread.py). A remote server and replicas can be
others: nothing here names a scheduler, a job, or an engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from lorakit.adapter import Adapter
from lorakit.engines.protocol import AdapterSet, Capabilities, Logits
from lorakit.runtime.answer import TextDecoder
from lorakit.runtime.constraint import Constraint
from lorakit.runtime.generation import Generation
from lorakit.runtime.params import SamplingParams
from lorakit.runtime.stages import KvPolicy
from lorakit.runtime.state import State
from lorakit.text.image_ids import Image, Vectors


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Submission:
    """A request for one answer.

    prompt: token ids; negative ones name images. decoder: decodes this answer's tokens only; not
    shared. stops: token ids that end it. adapters: None follows the runtime's active set.
    deadline: on the clock of time.monotonic. lookahead: see Generation.
    """

    prompt: tuple[int, ...]
    params: SamplingParams
    decoder: TextDecoder
    stops: frozenset[int] = frozenset()
    constraint: Constraint | None = None
    adapters: AdapterSet | None = None
    deadline: float | None = None
    lookahead: int | None = None
    images: Mapping[int, Vectors] = field(default_factory=dict)


class Runtime(Protocol):
    """Runs requests with adapters. Thread-safe.

    Adapters are named by the handles that `load` returned. Changes, requests and computations take
    effect in the order in which they were called. Futures and generations raise the errors:
    EngineError and its subclasses, QueueFullError, ClosedError once it is closed. docs/engines.md
    states what an answer depends on.
    """

    @property
    def capabilities(self) -> Capabilities:
        """Its limits and features. Waits until it is open; raises what opening it raised."""
        ...

    @property
    def max_queue(self) -> int:
        """How many requests may wait."""
        ...

    def submit(self, submission: Submission) -> Generation:
        """Ask for an answer. Raises QueueFullError and ClosedError."""
        ...

    def wait_for_room(self, deadline: float | None = None) -> None:
        """Wait until the queue has room (another thread may take it first), or it is closed.

        deadline: on the clock of time.monotonic; DeadlineError once it has passed.
        """
        ...

    def load(self, name: str, adapter: Adapter) -> Future[int]:
        """Make an adapter available under a handle, without activating it.

        It is checked, and prepared as far as possible, before this returns. Raises CapabilityError
        and MismatchError.
        """
        ...

    def unload(self, handle: int) -> Future[None]:
        """Free an adapter once the last request that used it has ended."""
        ...

    def activate(self, adapters: AdapterSet, policy: KvPolicy) -> Future[None]:
        """Replace the active set, which requests without adapters of their own follow."""
        ...

    def logits(
        self,
        tokens: Sequence[int],
        adapters: AdapterSet | None,
        images: Mapping[int, Vectors] | None = None,
    ) -> Future[Logits]:
        """Logits of every position, float32 [tokens, vocabulary]; adapters None: the active set."""
        ...

    def hidden(
        self, tokens: Sequence[int], adapters: AdapterSet | None
    ) -> Future[npt.NDArray[np.float32]]:
        """Last hidden states of every position, float32 [tokens, hidden]."""
        ...

    def save_state(self, tokens: Sequence[int], adapters: AdapterSet | None) -> Future[State]:
        """The KV of some tokens."""
        ...

    def load_state(self, state: State) -> Future[None]:
        """Load saved KV, for requests with the same adapters, scales and tokens."""
        ...

    def encode_image(self, content: bytes) -> Image:
        """An image file as a prompt's ids and vectors. Raises CapabilityError."""
        ...

    @property
    def closed(self) -> bool: ...

    def require_open(self) -> None:
        """Raises ClosedError, with the reason, once it is closed."""
        ...

    def begin_close(self) -> None:
        """Start closing; takes no lock and does not wait, so that finalizers may call it."""
        ...

    def close(self) -> None:
        """End all requests with ClosedError and free everything. Idempotent."""
        ...
