"""What a reference names: a path, an http(s) URL, or hf:org/repo[@revision][/subfolder].

It only reads the text; nothing here touches the disk or the network.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, get_args
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from lorakit.errors import ParameterError
from lorakit.values import among

Source = Literal["auto", "local", "url", "huggingface"]
ONE_FILE = (".gguf", ".onnx_adapter")  # formats that are one file
IN_FOLDER = (".safetensors", ".json", ".bin")  # a file of a format that is a folder
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_REPO = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
_SHA256 = re.compile(r"sha256=([0-9a-fA-F]{64})")
_LOOPBACK = ipaddress.IPv6Address("::1")
_KEPT = "%/:=&?~+!$,;'@()*[]"  # what `quote` leaves alone in a path or query


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """A path on this machine."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.expanduser().resolve().name


@dataclass(frozen=True, slots=True, kw_only=True)
class Url:
    """An http(s) URL without its fragment. `sha256` is what its file must hash to."""

    url: str
    sha256: str | None = None

    @property
    def name(self) -> str:
        """The last part of the path; the folder's, where it is a file of a folder."""
        parts = [unquote(part) for part in urlsplit(self.url).path.split("/") if part]
        if len(parts) > 1 and parts[-1].endswith(IN_FOLDER):
            parts.pop()
        return parts[-1] if parts else urlsplit(self.url).hostname or "adapter"

    @property
    def file(self) -> str | None:
        """The name of the one file that it names, or None where it is a folder."""
        split = urlsplit(self.url)
        last = unquote(split.path.rpartition("/")[2])
        named = last.lower().endswith(ONE_FILE + IN_FOLDER)
        return (last or "file") if named or split.query or self.sha256 else None

    def beside(self, name: str) -> str:
        """The URL of another file in the folder of this one."""
        split = urlsplit(self.url)
        path = f"{split.path.rpartition('/')[0]}/{quote(name)}"
        return urlunsplit((split.scheme, split.netloc, path, split.query, ""))

    @property
    def folder(self) -> str:
        """The URL of the folder, ending in a slash."""
        split = urlsplit(self.url)
        path = split.path.rpartition("/")[0] if self.file else split.path.rstrip("/")
        return urlunsplit((split.scheme, split.netloc, f"{path}/", "", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """A repository of the Hugging Face Hub; `inside` is a folder or file in it, or empty."""

    repo: str
    revision: str | None = None
    inside: str = ""

    @property
    def name(self) -> str:
        return PurePosixPath(self.inside or self.repo).name

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf:{self.repo}{revision}" + (f"/{self.inside}" if self.inside else "")


Reference = Local | Url | Hub


def parse(reference: str | os.PathLike[str], source: Source = "auto") -> Reference:
    """What a reference names. `source` says of which kind it must be.

    Raises ParameterError for one that cannot be of that kind, an unknown scheme, http:// to another
    machine, and a URL with a user name or a password in it.
    """
    if not among(source, get_args(Source)):
        raise ParameterError(f"source is {' or '.join(get_args(Source))}, not {source!r:.80}")
    if not isinstance(reference, str | os.PathLike):
        raise ParameterError(f"a reference is a path, a URL or hf:org/repo, not {reference!r:.80}")
    text = os.fspath(reference)
    if not text:
        raise ParameterError(
            "an empty reference names nothing", hint="is a variable unset? . is this folder"
        )
    if source == "local" or not isinstance(reference, str):
        return Local(path=Path(text))
    scheme = _SCHEME.match(text)
    if source == "url" or (source == "auto" and scheme):
        return _url(text)
    if source == "huggingface" or text.startswith("hf:"):
        return _hub(text.removeprefix("hf:"))
    return Local(path=Path(text))


def default_name(reference: str | os.PathLike[str]) -> str:
    """The last part of a reference: what an adapter is called where nobody says."""
    return parse(reference).name


def describe(reference: str | os.PathLike[str], source: Source = "auto") -> str:
    """A reference for messages and records, without what a URL may keep secret."""
    try:
        parsed = parse(reference, source)
    except ParameterError:
        text = os.fspath(reference)
        return shown(text) if _SCHEME.match(text) else text
    match parsed:
        case Url():
            return shown(parsed.url)
        case Hub():
            return str(parsed)
    return os.fspath(reference)


def shown(url: str) -> str:
    """A URL for messages and records: without user, password, query and fragment."""
    try:
        split = urlsplit(url)
    except ValueError:
        return "a URL that cannot be read"
    host = split.netloc.rpartition("@")[2]
    return urlunsplit((split.scheme, host, split.path, "", "")) + ("?..." if split.query else "")


def require_allowed(url: str) -> None:
    """Raise ParameterError unless it is https, or http to this very machine."""
    split = urlsplit(url)
    if split.scheme not in ("http", "https") or not split.hostname:
        raise ParameterError(
            f"{shown(url)!r} is no http(s) URL", hint="give a path, https://..., or hf:org/repo"
        )
    if split.username is not None or split.password is not None:
        raise ParameterError(
            f"{shown(url)} came with a user name or a password, which lorakit does not send",
            hint="download the file with a tool of your own and give its path",
        )
    if split.scheme == "http" and not is_loopback(url):
        raise ParameterError(
            f"{shown(url)}: http:// is for this machine only (localhost, 127.0.0.1, ::1)",
            hint="use https://; what comes over http can be changed on the way",
        )


def is_loopback(url: str) -> bool:
    """Whether a URL names this machine in so many words: localhost, 127.0.0.0/8, ::1."""
    host = urlsplit(url).hostname or ""
    try:
        named = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return named.is_loopback and (named.version == 4 or named == _LOOPBACK)


def cleaned(url: str) -> str:
    """A URL as it is asked for: without its fragment, and quoted where it must be."""
    split = urlsplit(url)
    path, query = quote(split.path, safe=_KEPT), quote(split.query, safe=_KEPT)
    return urlunsplit((split.scheme.lower(), split.netloc.lower(), path or "/", query, ""))


def _url(text: str) -> Url:
    try:
        split = urlsplit(text)
        split.port  # noqa: B018  # raises where it is no number
    except ValueError as error:
        raise ParameterError(f"this URL cannot be read: {error}") from error
    require_allowed(text)
    found = _SHA256.fullmatch(split.fragment)
    if split.fragment and not found:
        raise ParameterError(
            f"{shown(text)}: the part after # cannot be read", hint="#sha256= and 64 hex digits"
        )
    url = cleaned(text)
    if found and url.endswith("/"):
        raise ParameterError(f"{shown(text)}: #sha256= is for the URL of a file, not of a folder")
    return Url(url=url, sha256=found[1].lower() if found else None)


def _hub(text: str) -> Hub:
    """org/repo[@revision][/inside]; refs/pr/1 and refs/convert/x are revisions with slashes."""
    head, at, tail = text.partition("@")
    revision = None
    if at:
        repo, parts = head, tail.split("/")
        length = 3 if parts[0] == "refs" else 1
        revision, inside = unquote("/".join(parts[:length])), "/".join(parts[length:])
    else:
        parts = head.split("/")
        repo, inside = "/".join(parts[:2]), "/".join(parts[2:])
    steps = inside.strip("/").split("/") if inside.strip("/") else []
    if not _REPO.fullmatch(repo) or (at and not revision) or {"", ".", ".."} & set(steps):
        raise ParameterError(
            f"hf:{text} names no repository", hint="hf:org/repo[@revision][/subfolder]"
        )
    return Hub(repo=repo, revision=revision, inside="/".join(steps))
