"""What a server turns out not to take, though the API has it, and how the same is said without it.

Some models of OpenAI's refuse `max_tokens` for `max_completion_tokens`, and a neutral `top_p` or
penalty. A refusal names the parameter; the request is then said again without it, once, and later
ones at once. What is not neutral is never left out: its refusal is the caller's to see.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorakit.remote.refusals import RefusalError

NEUTRAL: Mapping[str, Any] = {"top_p": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
RENAMED = {"max_tokens": "max_completion_tokens"}


class Learned:
    """The refusals of one server. Thread-safe: a set that only grows."""

    def __init__(self) -> None:
        self._refused: set[str] = set()

    def said(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A request's fields without those that were refused."""
        kept = {name: value for name, value in body.items() if not self._drops(name, value)}
        renamed = self._refused & RENAMED.keys()
        return {RENAMED[name] if name in renamed else name: kept[name] for name in kept}

    def takes(self, refusal: RefusalError, sent: Mapping[str, Any]) -> bool:
        """Whether what was sent is worth saying again, without what was refused of it.

        Another request may have learned the same meanwhile: what counts is what this one had said.
        """
        name = refusal.fields.get("param")
        if refusal.status != 400 or refusal.fields.get("code") != "unsupported_parameter":
            return False
        if not isinstance(name, str) or name not in sent:
            return False
        if name not in RENAMED and (name not in NEUTRAL or sent[name] != NEUTRAL[name]):
            return False
        self._refused.add(name)
        return True

    def _drops(self, name: str, value: object) -> bool:
        return name in self._refused and name in NEUTRAL and value == NEUTRAL[name]
