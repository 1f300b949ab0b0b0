"""Every error that lorakit raises on purpose.

    LorakitError
    ├── SourceError            source_not_found, source_unsupported, source_unreachable,
    │                          source_denied, source_too_large, source_mismatch, offline
    ├── WriteError             write_failed: the disk is full, or the place cannot be written
    ├── FormatError            format_invalid: a file is broken, or says what cannot be read
    │   └── UnsupportedError   format_unsupported: valid, but beyond what lorakit can express;
    │                          pickle_refused
    ├── BaseModelError         base_invalid, architecture_unknown, tokenizer_missing,
    │                          template_missing
    ├── AdapterError           adapter_invalid: parts that contradict each other
    │   ├── MismatchError      adapter_mismatch: the adapter does not fit the base
    │   ├── NameTakenError     name_taken
    │   └── UnknownAdapterError  adapter_unknown
    ├── ParameterError         parameter_invalid: an argument of the caller's (also a ValueError)
    ├── EngineError            engine_failed, out_of_memory
    │   ├── MissingExtraError  extra_missing (also an ImportError)
    │   ├── CapabilityError    capability_missing: this engine cannot do that
    │   └── ContextFullError   context_full
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

    code = "error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        items: Sequence[str] = (),
        hint: str = "",
    ) -> None:
        self.message = visible(message)
        super().__init__(self.message)
        more = len(items) - MAX_ITEMS
        shown = (*items[:MAX_ITEMS], f"and {more} more") if more > 0 else items
        self.items = tuple(visible(item) for item in shown)
        self.hint = visible(hint)
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        lines = [self.message, *(f"  - {item}" for item in self.items)]
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)


class SourceError(LorakitError):
    code = "source_not_found"


class WriteError(LorakitError):
    code = "write_failed"


class FormatError(LorakitError):
    code = "format_invalid"


class UnsupportedError(FormatError):
    code = "format_unsupported"


class BaseModelError(LorakitError):
    code = "base_invalid"


class AdapterError(LorakitError):
    code = "adapter_invalid"


class MismatchError(AdapterError):
    code = "adapter_mismatch"


class NameTakenError(AdapterError):
    code = "name_taken"


class UnknownAdapterError(AdapterError):
    code = "adapter_unknown"


class ParameterError(LorakitError, ValueError):
    code = "parameter_invalid"


class EngineError(LorakitError):
    code = "engine_failed"


class MissingExtraError(EngineError, ImportError):
    code = "extra_missing"


class CapabilityError(EngineError):
    code = "capability_missing"


class ContextFullError(EngineError):
    code = "context_full"


class RequestError(LorakitError):
    code = "request_failed"


class QueueFullError(RequestError):
    code = "queue_full"


class CancelledError(RequestError):
    code = "cancelled"


class DeadlineError(RequestError, TimeoutError):
    code = "deadline_exceeded"


class ClosedError(LorakitError):
    code = "closed"
