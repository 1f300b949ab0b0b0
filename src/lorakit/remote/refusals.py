"""What a server says that refuses a request, as one of lorakit's errors.

Servers agree on {"error": {"message", "type", "code", "param"}} only roughly: text, other places
and missing fields are taken as they come.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from lorakit.errors import (
    CapabilityError,
    ContextFullError,
    LorakitError,
    ParameterError,
    QueueFullError,
    ServerError,
    UnknownAdapterError,
)
from lorakit.files.bounded import parse_json
from lorakit.remote.server import Server

Broken = Callable[[str], LorakitError]  # Connection.broken: the error for a server that lies
MAX_SAID = 500  # characters of a server's own words
_CONTEXT = re.compile(
    r"exceed_context|context_length_exceeded|context[ _](length|size|window)|maximum context"
    r"|max_model_len|prompt is too long|too many tokens",
    re.IGNORECASE,
)


class RefusalError(Exception):
    """An answer with a status that says no, or an error within a stream.

    wait: seconds after which to come again, where the server says so.
    """

    def __init__(self, status: int, content: bytes | Mapping[str, Any], wait: float | None) -> None:
        super().__init__(status)
        self.status = status
        self.wait = wait
        self.fields = content if isinstance(content, Mapping) else _fields(content)

    @classmethod
    def within(cls, error: object) -> RefusalError:
        """One that came as an event: {"error": ...}."""
        fields = error if isinstance(error, Mapping) else {"message": str(error)}
        code = fields.get("code")
        status = code if isinstance(code, int) and 400 <= code < 600 else 500
        return cls(status, fields, None)

    @property
    def words(self) -> str:
        """All that names the kind of the refusal."""
        return " ".join(str(self.fields.get(name, "")) for name in ("code", "type", "message"))

    def error(self, server: Server, *, model: str = "", adapter: bool = False) -> LorakitError:
        """As one of lorakit's errors. model: what was asked for; adapter: it names an adapter."""
        text = str(self.fields.get("message") or "") or f"status {self.status}"
        said = server.without_key(text)[:MAX_SAID].rstrip()
        if self.status in (401, 403) or "insufficient_quota" in self.words:
            mend = "check the API key" if server.key else "give api_key=, or set LORAKIT_API_KEY"
            message = f"{server} gives no access ({self.status}): {said}"
            return ServerError(message, code="server_denied", hint=mend)
        if self.status == 429:
            after = "" if self.wait is None else f" in {self.wait:.0f} seconds"
            return QueueFullError(f"{server} is busy: {said}", hint=f"try again{after}")
        if self.status in (400, 413, 422, 500) and _CONTEXT.search(self.words):
            return ContextFullError(
                f"{server}: {said}", hint="shorten the prompt; the context is the server's"
            )
        if self.status in (404, 405, 501):
            return self._missing(server, said, model, adapter)
        if 400 <= self.status < 500 and self.status not in (408, 425):
            return ParameterError(f"{server} refuses the request ({self.status}): {said}")
        hint = "is it still loading its model" if self.status == 503 else ""
        return ServerError(f"{server} failed ({self.status}): {said}", hint=hint)

    def _missing(self, server: Server, said: str, model: str, adapter: bool) -> LorakitError:
        """A model, or a whole call of the API, that is not there."""
        if self.status == 404 and model and model in str(self.fields.get("message", "")):
            if adapter:
                return UnknownAdapterError(
                    f"{server} has no adapter {model!r} any more: {said}",
                    hint="it was unloaded there; load it again",
                )
            return ServerError(f"{server} has no model {model!r}: {said}", hint="give model=")
        return CapabilityError(
            f"{server} cannot do that ({self.status}): {said}",
            hint="open the model itself, from its files",
        )


def _fields(content: bytes) -> Mapping[str, Any]:
    """The fields of an error, whatever form it has; the text as `message` where it has none."""
    text = content.decode("utf-8", "replace").strip()
    try:
        found = parse_json(content)
    except ValueError:
        return {"message": text}
    if isinstance(found, Mapping):
        inner = found.get("error", found.get("detail", found))
        if isinstance(inner, Mapping):
            return inner
        return {"message": inner if isinstance(inner, str) else text}
    return {"message": text}
