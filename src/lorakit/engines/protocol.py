"""The narrow waist: what an engine can do for the runtime above it.

An engine turns rows of tokens into logits. A row names a sequence, its new tokens, and the adapters
with their scales that act on those tokens. Sampling, stopping, scheduling, prefix reuse and
threads are above: every method here is called from one thread, the one that owns the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from lorakit.adapter import Adapter
from lorakit.errors import CapabilityError, ParameterError
from lorakit.text.image_ids import Image, Vectors
from lorakit.values import shown, whole

Logits = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int64]
MAX_CONTEXT = 8192  # tokens of a sequence where the user does not say
AdapterSet = tuple[tuple[int, float], ...]  # (handle from attach, scale), in order of application


# Asked by what takes long on an engine's thread; says whether nobody waits for it any more.
abandoned: ContextVar[Callable[[], bool]] = ContextVar("abandoned", default=lambda: False)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What a user may choose of every engine. `None` lets the engine decide.

    What an engine has beyond that is in a subclass of its own, named in its row of engines.table.
    """

    threads: int | None = None  # compute threads; None = physical cores
    context: int | None = None  # tokens per sequence; None = the model's own, up to MAX_CONTEXT
    max_batch: int = 16  # sequences that decode together
    cached_sequences: int = 8  # idle sequences kept for prefix reuse

    def __post_init__(self) -> None:
        """Raises ParameterError."""
        faults = [
            f"{name} must be an integer from {low} to {high}, found {shown(value)}"
            for name, low, high in _LIMITS
            if (value := getattr(self, name)) is not None
            and not (whole(value) and low <= value <= high)
        ]
        if faults:
            raise ParameterError("invalid engine options", items=faults)


_LIMITS = (
    ("threads", 1, 1024),
    ("context", 1, 1 << 24),
    ("max_batch", 1, 1024),
    ("cached_sequences", 0, 4096),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What this engine can do, so that the layers above need not ask which engine it is.

    kv_identity names the engine and its build, the form of its weights, the type of its KV cache
    and the rules by which a context changes what is computed. KV is never used under another one.
    """

    engine: str  # "onnx", "llama", "torch", "fake"
    vocabulary: int
    context: int  # most tokens in one sequence
    max_batch: int  # most rows in one forward
    max_sequences: int  # most sequences open at once, idle ones included
    mixed_batch: bool  # rows with different adapters run in one step, not one after another
    kv_identity: str  # all that KV depends on beside base, tokens and adapters; see below
    prefill_chunk: int  # how many new tokens of one row are a good step beside rows that decode
    prefill_alone: int = 0  # and how many where no row decodes; 0: as many as beside others
    longest: int = 0  # the largest context that the model could be opened with; 0: not known
    few: int = 0  # how many columns Row.among may name; 0: it is never given
    lookup: bool = False  # whether logits of several positions of a row cost far less than steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One sequence's part in a step.

    tokens: int64 [n], n >= 1, appended to the sequence's KV cache.
    adapters: act on these tokens only; what the cache already holds stays as it was computed. An
    adapter with invocation tokens acts on all of them: the runtime says from which token on.
    logits: "last" gives [1, vocabulary], "all" [n, vocabulary], "none" [0, vocabulary], and
    ascending positions within the row [positions, vocabulary]. Within an image nothing is
    predicted: its positions but the last give NaN.
    among: where given, with logits of one position, only these columns of it are wanted, [1, ids]:
    int64, ascending, at most `Capabilities.few`.
    images: the vectors of the images that negative tokens name (text.image_ids), by digest; a row
    holds all positions of an image or none. Engines without images refuse negative tokens.
    """

    sequence: int
    tokens: npt.NDArray[np.int64]
    adapters: AdapterSet = ()
    logits: Literal["last", "all", "none"] | tuple[int, ...] = "last"
    images: Mapping[int, Vectors] = field(default_factory=dict)
    among: Tokens | None = None

    @property
    def positions(self) -> Sequence[int]:
        """The positions within the row whose logits are wanted, ascending."""
        if isinstance(self.logits, tuple):
            return self.logits
        count = len(self.tokens)
        return range({"last": count - 1, "all": 0, "none": count}[self.logits], count)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    """An adapter that `Engine.prepare` has checked. content: in a form of that engine's own."""

    adapter: Adapter
    content: Any = None


class Engine(Protocol):
    """A model that is loaded and can run.

    Errors: CapabilityError for an adapter of a kind that the engine cannot apply at run time,
    MismatchError for one that does not fit the base, ContextFullError where a row would outgrow
    `capabilities.context`, EngineError for a native failure. Any of them leaves the engine and
    all its sequences as they were before the call.
    """

    @property
    def capabilities(self) -> Capabilities: ...

    def shortest_row(self, adapters: AdapterSet) -> int:
        """The fewest tokens of a prompt that round in a row as they would in any longer one."""
        ...

    def prepare(self, adapter: Adapter) -> Prepared:
        """Check an adapter, and do what of attaching it may be done beside the running engine.

        May be called from any thread. Raises CapabilityError and MismatchError with all that this
        engine cannot apply, or that does not fit its base.
        """
        ...

    def attach(self, prepared: Prepared) -> int:
        """Make an adapter available; returns its handle. Costs about the adapter's own bytes."""
        ...

    def detach(self, handle: int) -> None:
        """Free an adapter. No later row may name it."""
        ...

    def open_sequence(self) -> int:
        """A new, empty sequence."""
        ...

    def length(self, sequence: int) -> int:
        """How many tokens the sequence's KV cache holds."""
        ...

    def reusable(self, sequence: int, length: int) -> int:
        """How many of the first `length` tokens a truncation or a fork can keep, whole in every
        layer: `length`, or less where the engine's memory has let go of what that needs.
        """
        ...

    def truncate(self, sequence: int, length: int) -> None:
        """Forget all but the first `length` tokens. Raises EngineError where `reusable` is less."""
        ...

    def fork(self, sequence: int, length: int) -> int:
        """A new sequence with a copy of the first `length` tokens. Errors as of `truncate`."""
        ...

    def close_sequence(self, sequence: int) -> None:
        """Forget a sequence."""
        ...

    def save_sequence(self, sequence: int) -> bytes:
        """The KV of a sequence, in the engine's own form, for `load_sequence` on the same base."""
        ...

    def load_sequence(self, state: bytes, length: int) -> int:
        """A new sequence with the KV of `length` tokens that `save_sequence` gave.

        Raises EngineError for what is of another base or engine.
        """
        ...

    def hidden(self, parts: Sequence[tuple[Tokens, AdapterSet]]) -> npt.NDArray[np.float32]:
        """Hidden states after the last norm, float32 [tokens, hidden size], of a text on its own.

        parts: its tokens int64 [n], cut where other adapters begin to act.
        """
        ...

    def encode_image(self, content: bytes) -> Image:
        """A picture file as a prompt's ids and vectors; may be called from any thread.

        Raises CapabilityError where the model sees no images, ParameterError and FormatError.
        """
        ...

    def interrupt(self) -> None:
        """Let a running `forward` end early with CancelledError, where the engine can.

        May be called from any thread; what does not run is not stopped.
        """
        ...

    def forward(self, rows: Sequence[Row]) -> list[Logits]:
        """Run one step: float32 logits for each row, in order (see Row.logits).

        At most `capabilities.max_batch` rows, each of another sequence. The arrays belong to the
        caller until the next call of forward.
        """
        ...

    def close(self) -> None:
        """Free everything. Calling it twice does no harm."""
        ...


def no_images(engine: str) -> CapabilityError:
    """What an engine says that sees none."""
    return CapabilityError(
        f"the {engine} engine sees no images",
        hint="open a GGUF vision model with mmproj=, the file of its projector",
    )
