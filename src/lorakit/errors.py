"""Every error that lorakit raises on purpose.

    LorakitError
    ├── SourceError            source_not_found, source_unsupported, source_unreachable,
    │                          source_denied, source_too_large, source_mismatch, offline
    ├── WriteError             write_failed: the disk is full, or the place cannot be written
    ├── FormatError            format_invalid: a file is broken, or says what cannot be read;
    │   │                      adapter_incomplete: it lacks what its config promises
    │   └── UnsupportedError   format_unsupported: valid, but beyond what lorakit can express;
    │                          pickle_refused
    ├── BaseModelError         base_invalid, architecture_unknown, tokenizer_missing,
    │                          template_missing
    ├── AdapterError           adapter_invalid: parts that contradict each other
    │   ├── MismatchError      adapter_mismatch: the adapter does not fit the base
    │   ├── NameTakenError     name_taken
    │   └── UnknownAdapterError  adapter_unknown
    ├── ParityError            parity_failed: an export is not what it was made of
    ├── ParameterError         parameter_invalid: an argument of the caller's (also a ValueError);
    │                          output_busy: another run trains into the same folder
    ├── EngineError            engine_failed, out_of_memory
    │   ├── MissingExtraError  extra_missing (also an ImportError)
    │   ├── CapabilityError    capability_missing: this engine cannot do that
    │   ├── ContextFullError   context_full
    │   └── ServerError        server_failed, server_unreachable, server_denied, server_invalid:
    │                          a model behind a URL
    ├── RequestError           request_failed
    │   ├── QueueFullError     queue_full
    │   ├── CancelledError     cancelled
    │   └── DeadlineError      deadline_exceeded (also a TimeoutError)
    └── ClosedError            closed: used after close or unload

`code` is stable and meant for programs; the message is for people and may change.
"""

from __future__ import annotations

from collections.abc import Sequence

MAX_MESSAGE = 4000  # characters of a message, a hint or an item
MAX_ITEMS = 1000
PAGES = "https://lorakit.github.io/lorakit"


def page(name: str) -> str:
    """The address of a page, for a hint: who reads that has no repository."""
    return f"{PAGES}/{name}.html"


def visible(text: str, limit: int = MAX_MESSAGE) -> str:
    """A text that is safe to show: what does not print is escaped, the end is cut off.

    Names from files come into messages; they must not move a terminal's cursor or begin a line.
    """
    text = text if len(text) <= limit else f"{text[:limit]}..."
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class LorakitError(Exception):
    """Base of the tree.

    `code` names the kind of failure, `items` lists every single fault found (one line each),
    `hint` says what the user can do next. Control characters in them are escaped.
    """

    code: str = "error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        items: Sequence[str] = (),
        hint: str = "",
    ) -> None:
        self.message: str = visible(message)
        super().__init__(self.message)
        more = len(items) - MAX_ITEMS
        shown = (*items[:MAX_ITEMS], f"and {more} more") if more > 0 else items
        self.items: tuple[str, ...] = tuple(visible(item) for item in shown)
        self.hint: str = visible(hint)
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        lines = [self.message, *(f"  - {item}" for item in self.items)]
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)


class SourceError(LorakitError):
    """A reference whose file or folder is not there, cannot be read or cannot be fetched."""

    code = "source_not_found"


class WriteError(LorakitError):
    """A place that cannot be written, or a disk that is full; nothing is left half-written."""

    code = "write_failed"


class FormatError(LorakitError):
    """A file that is broken, or says what cannot be read."""

    code = "format_invalid"


class UnsupportedError(FormatError):
    """A valid file, or an adapter, beyond what lorakit or the target format can express."""

    code = "format_unsupported"


class BaseModelError(LorakitError):
    """A base model folder or file that lorakit cannot use."""

    code = "base_invalid"


class AdapterError(LorakitError):
    """An adapter whose parts contradict each other."""

    code = "adapter_invalid"


class MismatchError(AdapterError):
    """An adapter, a saved state or a merge that does not fit this base; all faults in `items`."""

    code = "adapter_mismatch"


class NameTakenError(AdapterError):
    """A name under which another adapter is loaded already."""

    code = "name_taken"


class UnknownAdapterError(AdapterError):
    """A name under which no adapter is loaded, or a handle to one that was unloaded."""

    code = "adapter_unknown"


class ParityError(LorakitError):
    """An export whose logits or answers are further from its source than allowed; it is removed."""

    code = "parity_failed"


class ParameterError(LorakitError, ValueError):
    """An argument that is out of range or of the wrong kind; also a ValueError."""

    code = "parameter_invalid"


class EngineError(LorakitError):
    """What failed in an engine: natively, or for want of memory."""

    code = "engine_failed"


class MissingExtraError(EngineError, ImportError):
    """A package that an engine needs is not installed, or broken; also an ImportError."""

    code = "extra_missing"


class CapabilityError(EngineError):
    """What this engine, or this build of it, cannot do; the hint says which can."""

    code = "capability_missing"


class ContextFullError(EngineError):
    """A prompt that is longer than the model's context."""

    code = "context_full"


class ServerError(EngineError):
    """A server that cannot be reached, gives no access, breaks its word, or fails at a request."""

    code = "server_failed"


class RequestError(LorakitError):
    """A request that failed, beside the others."""

    code = "request_failed"


class QueueFullError(RequestError):
    """A request beyond the `max_queue` that may wait."""

    code = "queue_full"


class CancelledError(RequestError):
    """A request that was cancelled; `Stream` then ends, and `result` raises this."""

    code = "cancelled"


class DeadlineError(RequestError, TimeoutError):
    """A request whose `timeout` passed; also a TimeoutError."""

    code = "deadline_exceeded"


class ClosedError(LorakitError):
    """A model used after `close`, or a child process's copy of its parent's."""

    code = "closed"
