"""One HTTP request with the rules that every request has: where it may lead, and what it sends."""

from __future__ import annotations

import email.utils
import http.client
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from lorakit.errors import LorakitError, ParameterError, SourceError
from lorakit.sources.reference import is_loopback, require_allowed, shown

MAX_REDIRECTS = 8
ANSWERS = (304, 404, 410, 416)


class UnreachableError(Exception):
    """A failure that may pass. `wait` is what the server asked for, in seconds."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https, and from http to http; raises SourceError for any other."""

    max_redirections = MAX_REDIRECTS
    max_repeats = 2

    def http_error_302(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any
    ) -> Any:
        target = urllib.parse.urljoin(req.full_url, headers.get("location") or "")
        fault = ""
        try:
            require_allowed(target)
        except ParameterError as error:
            fault = error.message
        if req.full_url.startswith("https:") and not target.startswith("https:"):
            fault = f"{shown(target)} is no https URL"
        if fault:
            fp.close()
            raise unreachable(req.full_url, f"it redirects where nothing is fetched from: {fault}")
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class _Answers(urllib.request.HTTPErrorProcessor):
    """Lets statuses through that are answers, and not errors."""

    def http_response(self, request: urllib.request.Request, response: Any) -> Any:
        return response if response.status in ANSWERS else super().http_response(request, response)

    https_response = http_response


def request(url: str, headers: Mapping[str, str], timeout: float) -> http.client.HTTPResponse:
    """Ask for a URL; a response of status 200, 206, 304, 404, 410 or 416.

    timeout: seconds to connect, and between two pieces that are read later.
    Raises UnreachableError for what may pass and SourceError for what will not.
    """
    direct = [urllib.request.ProxyHandler({})] if is_loopback(url) else []
    opener = urllib.request.build_opener(_Redirects, _Answers, *direct)
    opener.addheaders = []
    sent = {"User-Agent": "lorakit", "Accept": "*/*", "Accept-Encoding": "identity", **headers}
    try:
        response: http.client.HTTPResponse = opener.open(
            urllib.request.Request(url, headers=sent), timeout=timeout
        )
    except urllib.error.HTTPError as error:
        raise _refused(url, error) from error
    except LorakitError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise failure(url, error) from error
    if response.headers.get("Content-Encoding", "identity") != "identity":
        response.close()
        raise unreachable(url, "it answers in a compression that was not asked for")
    return response


def failure(url: str, error: Exception) -> UnreachableError | SourceError:
    """What a failed connection or read is: one that may pass, or a final one."""
    reason = getattr(error, "reason", error)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return unreachable(url, f"its certificate is not valid: {reason.verify_message}")
    if isinstance(error, ValueError | UnicodeError) or isinstance(reason, UnicodeError):
        return unreachable(url, f"the URL cannot be asked for: {reason}")
    return UnreachableError(_words(reason))


def unreachable(url: str, reason: str) -> SourceError:
    return SourceError(
        f"cannot fetch {shown(url)}: {reason}",
        code="source_unreachable",
        hint="offline (LORAKIT_OFFLINE=1) uses what was fetched before",
    )


def _refused(url: str, error: urllib.error.HTTPError) -> UnreachableError | SourceError:
    """What a response is that says no: some may pass, the rest is final."""
    code = error.code
    wait = _retry_after(error.headers.get("Retry-After"))
    error.close()
    if code in (408, 425, 429) or code >= 500:
        return UnreachableError(f"the server answers {code} {error.reason}", wait)
    if 300 <= code < 400:
        return unreachable(url, "it redirects too often, or to nowhere")
    if code in (401, 403):
        return SourceError(
            f"cannot fetch {shown(url)}: the server refuses it ({code})",
            code="source_denied",
            hint="lorakit sends no credentials; download it yourself and give the path",
        )
    return unreachable(url, f"the server answers {code} {error.reason}")


def _retry_after(value: str | None) -> float | None:
    """Seconds, from a number of seconds or a date (RFC 9110, 10.2.3)."""
    if not value:
        return None
    try:
        if value.strip().isdecimal():
            return float(value)
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _words(reason: object) -> str:
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return str(reason) or type(reason).__name__
