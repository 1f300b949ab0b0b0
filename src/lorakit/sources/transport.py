"""One HTTP request with the rules that every request has: where it may lead, and what it sends."""

from __future__ import annotations

import base64
import email.utils
import functools
import http.client
import ipaddress
import logging
import re
import socket
import ssl
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from email.message import Message
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from lorakit.errors import ParameterError, SourceError
from lorakit.sources.address import AddressError, Allowed, Reach, connect, fault_of_text, reach
from lorakit.sources.reference import cleaned, is_loopback, require_allowed, shown
from lorakit.sources.wire import Patience, ProtocolError, Response, WireError

log = logging.getLogger("lorakit")
MAX_REDIRECTS = 8
REDIRECTS = (301, 302, 303, 307, 308)
ANSWERS = (200, 206, 304, 404, 410, 416)
_PORTS = {"http": 80, "https": 443}
_SENT = re.compile(r"[\x21-\x7e]+(?: [\x21-\x7e]+)*", re.ASCII)  # what a header may hold
PRIVATE = "allow_private=True allows such addresses"


class UnreachableError(Exception):
    """A failure that may pass. `wait` is what the server asked for, in seconds."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


def request(
    url: str, headers: Mapping[str, str], patience: Patience, *, allow_private: bool = False
) -> Response:
    """Ask for a URL and follow where it redirects; a response of one of ANSWERS.

    allow_private: whether `url` may be of a private network. A redirect leads there only from
    there, and into this machine only within one server that `url` names itself.
    Raises UnreachableError for what may pass and SourceError for what will not.
    """
    place = url
    allowed = allowed_of(url, allow_private)
    for _ in range(MAX_REDIRECTS):
        try:
            response, reached = _ask(place, headers, patience, allowed)
        except AddressError as error:
            mends = place == url and "no single machine" not in str(error)
            raise unreachable(place, str(error), hint=PRIVATE * mends) from error
        if response.status in ANSWERS:
            if _words_of(response, "Content-Encoding") <= {"identity"}:
                return response
            response.close()
            raise unreachable(url, "it answers in a compression that was not asked for")
        with response:
            if response.status not in REDIRECTS:
                raise _refused(url, response.status, response.headers)
            said = {str(value) for value in response.headers.get_all("Location", ())}
            target = _target(place, said.pop() if len(said) == 1 else "")
        allowed = _allowed_next(place, target, allowed, reached)
        place = target
    raise unreachable(url, f"it redirects more than {MAX_REDIRECTS} times")


def _words_of(response: Response, name: str) -> set[str]:
    """The words of a list, which may stand in several fields."""
    values = response.headers.get_all(name, ())
    return {word.strip().lower() for value in values for word in str(value).split(",")}


def allowed_of(url: str, private: bool) -> Allowed:
    """Which addresses a URL of the caller's may have; http:// is for this machine alone."""
    secure = urlsplit(url).scheme == "https"
    return Allowed(public=secure, loopback=is_loopback(url), private=private and secure)


def _allowed_next(place: str, target: str, allowed: Allowed, reached: Reach) -> Allowed:
    """The same of a redirect: no nearer than where it comes from."""
    secure = urlsplit(target).scheme == "https"
    return Allowed(
        public=secure,
        loopback=allowed.loopback and urlsplit(place)[:2] == urlsplit(target)[:2],
        private=allowed.private and secure and reached != "public",
    )


def _target(place: str, location: str) -> str:
    """Where a redirect leads. Raises SourceError where nothing is fetched from there."""
    fault = target = ""
    try:
        target = cleaned(urljoin(place, location))
        urlsplit(target).port  # noqa: B018  # raises where it is no number
        require_allowed(target)
    except ParameterError as error:
        fault = error.message
    except ValueError as error:
        fault = str(error)
    if not location:
        fault = "it does not say where, or several places"
    elif not fault and place.startswith("https:") and not target.startswith("https:"):
        fault = f"{shown(target)} is no https URL"
    if fault:
        raise unreachable(place, f"it redirects where nothing is fetched from: {fault}")
    return target


def _ask(
    url: str, headers: Mapping[str, str], patience: Patience, allowed: Allowed
) -> tuple[Response, Reach]:
    """`exchange` of what is fetched. Raises AddressError, and what `failure` makes of an error."""
    try:
        return exchange(url, headers, patience, allowed)
    except AddressError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise failure(url, error) from error


def exchange(
    url: str,
    headers: Mapping[str, str],
    patience: Patience,
    allowed: Allowed,
    *,
    body: bytes | None = None,
    dialled: Callable[[socket.socket], object] = lambda sock: None,
) -> tuple[Response, Reach]:
    """One request: its response, whatever it says, and where the address that answers is.

    body: what a POST sends; None is a GET. dialled: is given the connection as soon as there is
    one, and again once it is encrypted, so that another thread may end it.
    Raises AddressError, OSError, http.client.HTTPException and ValueError.
    """
    split = urlsplit(url)
    with ExitStack() as stack:
        host = _ascii(split.hostname or "")
        head = _head(split, host, headers, body)
        sock, reached = _dial(split, host, patience, allowed)
        stack.callback(lambda: sock.close())
        dialled(sock)
        if split.scheme == "https":
            sock = _tls().wrap_socket(
                sock, server_hostname=host.rstrip("."), suppress_ragged_eofs=False
            )  # else whoever cuts the line ends a body that has no length
            dialled(sock)
        sock.settimeout(patience.left())  # for all of it
        sock.sendall(head + (body or b""))
        response = Response(sock, patience)
        stack.pop_all()
        return response, reached


def _dial(
    split: SplitResult, host: str, patience: Patience, allowed: Allowed
) -> tuple[socket.socket, Reach]:
    """A connection to a host, through the proxy that the environment names for it."""
    port = split.port or _PORTS[split.scheme]
    proxy = None if is_loopback(split.geturl()) else _proxy(split.scheme, host)
    if proxy is None:
        sock = connect(host, port, allowed, patience.left())
        return sock, reach(ipaddress.ip_address(sock.getpeername()[0]))
    if fault := fault_of_text(host, allowed):
        raise AddressError(fault)
    log.warning(
        "%s is fetched through the proxy %s: whether its address is a private one is not known",
        host, proxy.hostname,
    )  # fmt: skip
    return _tunnel(proxy, _bracketed(host), port, patience), "public"


def _proxy(scheme: str, host: str) -> SplitResult | None:
    said = urllib.request.getproxies().get(scheme)
    if not said or urllib.request.proxy_bypass(host):
        return None
    proxy = urlsplit(said if "://" in said else f"http://{said}")
    if proxy.scheme not in _PORTS or not proxy.hostname:  # both are spoken to in the clear
        raise ValueError(f"proxies of the kind {proxy.scheme} are not supported")
    return proxy


def _tunnel(proxy: SplitResult, host: str, port: int, patience: Patience) -> socket.socket:
    """A connection through a proxy, whose own address is the user's choice (RFC 9110, 9.3.6)."""
    sock = socket.create_connection((proxy.hostname, proxy.port or 80), patience.left())
    try:
        lines = [f"CONNECT {host}:{port} HTTP/1.1", f"Host: {host}:{port}"]
        if proxy.username is not None:
            said = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
            lines.append(f"Proxy-Authorization: Basic {base64.b64encode(said.encode()).decode()}")
        sock.sendall(_encoded(lines))
        if not 200 <= (status := Response(sock, patience).status) < 300:
            raise WireError(f"the proxy {proxy.hostname} answers {status}")
    except BaseException:
        sock.close()
        raise
    return sock


def _head(split: SplitResult, host: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    """The request's bytes before its body. The connection serves this one alone."""
    port = split.port
    place = _bracketed(host) + (f":{port}" if port not in (None, _PORTS[split.scheme]) else "")
    target = split.path + (f"?{split.query}" if split.query else "")
    sent = {
        "Host": place, "User-Agent": "lorakit", "Accept": "*/*", "Accept-Encoding": "identity",
        "Connection": "close", **headers,
    }  # fmt: skip
    if body is not None:
        sent["Content-Length"] = str(len(body))
    method = "GET" if body is None else "POST"
    return _encoded([f"{method} {target} HTTP/1.1", *(f"{k}: {v}" for k, v in sent.items())])


def _encoded(lines: list[str]) -> bytes:
    """Raises ValueError for what would begin a line of its own."""
    odd = [line for line in lines if not _SENT.fullmatch(line)]
    if odd:
        raise ValueError(f"a request cannot hold {odd[0][:60]!a}")
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode("ascii")


def _ascii(host: str) -> str:
    """A host name as DNS has it. Raises UnicodeError."""
    return host if host.isascii() else host.encode("idna").decode("ascii")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@functools.cache
def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    # Python before 3.11.4 sets it where OpenSSL has it: a line that is cut would look like an end.
    context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", ssl.Options(0))
    return context


def failure(url: str, error: Exception) -> UnreachableError | SourceError:
    """What a failed connection or read is: one that may pass, or a final one."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return unreachable(url, f"its certificate is not valid: {error.verify_message}")
    if isinstance(error, ProtocolError | http.client.HTTPException):
        return unreachable(url, words_of(error))
    if isinstance(error, ValueError):
        return unreachable(url, f"the URL cannot be asked for: {error}")
    return UnreachableError(words_of(error))


def unreachable(url: str, reason: str, *, hint: str = "") -> SourceError:
    return SourceError(
        f"cannot fetch {shown(url)}: {reason}",
        code="source_unreachable",
        hint=hint or "offline (LORAKIT_OFFLINE=1) uses what was fetched before",
    )


def _refused(url: str, code: int, headers: Message) -> UnreachableError | SourceError:
    """What a response is that says no: some may pass, the rest is final."""
    said = f"the server answers {code} {http.client.responses.get(code, '')}".rstrip()
    if code in (408, 425, 429) or code >= 500:
        return UnreachableError(said, retry_after(headers.get("Retry-After")))
    if code in (401, 403):
        return SourceError(
            f"cannot fetch {shown(url)}: the server refuses it ({code})",
            code="source_denied",
            hint="lorakit sends no credentials; download it yourself and give the path",
        )
    return unreachable(url, said)


def retry_after(value: str | None) -> float | None:
    """Seconds, from a number of seconds or a date (RFC 9110, 10.2.3)."""
    said = (value or "").strip()
    if not said:
        return None
    if said.isascii() and said.isdecimal():
        return float(said[:18])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    except (ValueError, OverflowError, TypeError):
        return None


def words_of(error: Exception) -> str:
    """A failure of a connection in a few words."""
    if isinstance(error, WireError):
        return str(error)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
