"""The Hub's own client, told to ask for nothing else, and ended when it is too slow."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from urllib.parse import urlsplit

from lorakit.errors import LorakitError, SourceError
from lorakit.sources.limits import Limits

CLOSING = 0.2  # seconds
HOME = "https://huggingface.co"
_URL = re.compile(r"https?://[^\s'\"<>()]+")


def client() -> ModuleType:
    """The Hub's client, told not to ask for more than it is asked for.

    Before its first request it would fetch a list of programs (api/agent-harnesses) to report
    which of them runs it. The setting is read from the environment at import only.
    """
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    import huggingface_hub
    from huggingface_hub import constants

    constants.HF_HUB_DISABLE_TELEMETRY = True
    return huggingface_hub


def endpoint() -> str | None:
    """The Hub's address of this moment; the client itself reads it once, at import."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


def allowed_seconds(limits: Limits, size: int) -> float:
    """How long so many bytes may take."""
    rate = max(limits.min_rate, 1e-9)
    return min(limits.deadline, limits.timeout + limits.rate_time + size / rate)


@contextmanager
def ending(source: str, limits: Limits, size: int) -> Iterator[None]:
    """The client's requests end when bytes came more slowly than the limits allow.

    It has no such limit itself, but its connections can be closed, from another thread.
    """
    seconds = allowed_seconds(limits, size)
    done, late = threading.Event(), threading.Event()

    def close() -> None:
        if done.wait(seconds):
            return
        late.set()
        while not done.wait(CLOSING):  # it connects again, some times
            client().close_session()

    watch = threading.Thread(target=close, name="lorakit-hub", daemon=True)
    watch.start()
    try:
        yield
    except LorakitError:
        raise
    except Exception as error:
        if late.is_set():
            raise SourceError(
                f"cannot fetch {source}: it is not done after {seconds:g} seconds",
                code="source_unreachable",
            ) from error
        raise
    finally:
        done.set()
        watch.join()


def first_line(error: Exception) -> str:
    """What an error of the client says, in one line and without addresses."""
    return without_addresses((str(error).strip() or type(error).__name__).splitlines()[0])


def without_addresses(text: str) -> str:
    """Of a URL its host alone: names of storage and signatures are in the rest."""
    return _URL.sub(lambda found: urlsplit(found[0]).hostname or "a URL", text)
