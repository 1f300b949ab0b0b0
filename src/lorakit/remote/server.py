"""Where a server is: its URL, the key that it is given, and which addresses it may have."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

from lorakit.errors import ParameterError
from lorakit.sources.address import Allowed
from lorakit.sources.reference import cleaned, require_allowed, shown
from lorakit.sources.transport import allowed_of

VERSION = "/v1"
MAX_KEY = 4096  # characters
TOLD = 8  # characters of a key that tell of it; a third of a long one
HIDDEN = "***"
_KEY = re.compile(r"[\x21-\x7e]+", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server. base: what the paths of OpenAI's API are added to, such as https://host/v1."""

    base: str
    allowed: Allowed
    key: str | None = field(default=None, repr=False)

    @property
    def root(self) -> str:
        """What the paths of llama-server's own calls are added to."""
        return self.base.removesuffix(VERSION)

    @property
    def headers(self) -> dict[str, str]:
        sent = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        return {**sent, "Authorization": f"Bearer {self.key}"} if self.key else sent

    def without_key(self, text: str) -> str:
        """What a server said, for a message: it may have said the key too, or its beginning where
        the message was cut."""
        for form in {self.key, json.dumps(self.key)[1:-1]} if self.key else ():
            least, at = max(TOLD, len(form) // 3), 0
            while (at := text.find(form[:least], at)) >= 0:
                longer = range(len(form), least, -1)
                said = next((n for n in longer if text.startswith(form[:n], at)), least)
                text = f"{text[:at]}{HIDDEN}{text[at + min(said, len(form)) :]}"
                at += len(HIDDEN)
        return text

    def __str__(self) -> str:
        return shown(self.base)


def names_server(reference: object) -> bool:
    """Whether a reference is the URL of an API, http(s)://host/.../v1, and not of a file."""
    if not isinstance(reference, str):
        return False
    try:
        parts = urlsplit(reference)
    except ValueError:
        return False
    return parts.scheme in ("https", "http") and parts.path.rstrip("/").endswith(VERSION)


def server_of(url: str, key: str | None, *, allow_private: bool = False) -> Server:
    """The server of a URL. Raises ParameterError."""
    if not isinstance(url, str):
        raise ParameterError(f"a server is named by its URL, not {url!r:.80}")
    try:
        split = urlsplit(url)
        split.port  # noqa: B018  # raises where it is no number
    except ValueError as error:
        raise ParameterError(f"this URL cannot be read: {error}") from error
    if split.username is not None or split.password is not None:
        raise ParameterError(
            f"{shown(url)} came with a user name or a password in it",
            hint="give a key as api_key= or in LORAKIT_API_KEY",
        )
    require_allowed(url)
    if split.query or split.fragment:
        raise ParameterError(
            f"{shown(url)}: the URL of an API has no part after ? or #",
            hint="give it up to its version, such as https://host/v1",
        )
    if key and not (isinstance(key, str) and len(key) <= MAX_KEY and _KEY.fullmatch(key)):
        raise ParameterError(
            "the API key must be printable ASCII text without spaces",
            hint="check api_key= or LORAKIT_API_KEY; was a line break copied with it",
        )
    whole = urlsplit(cleaned(url))
    base = urlunsplit((whole.scheme, whole.netloc, whole.path.rstrip("/"), "", ""))
    return Server(base=base, allowed=allowed_of(url, allow_private), key=key or None)
