"""What a model card says of the base that a model was made from, and of its licence."""

from __future__ import annotations

import re
from pathlib import Path

from lorakit.errors import LorakitError
from lorakit.files.bounded import read_bounded

CARD = "README.md"
MAX_CARD = 1 << 20  # bytes
_FRONT = re.compile(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_BASE = re.compile(
    r"^base_model:[ \t]*(?:\[|\r?\n[ \t]*-)?[ \t]*[\"']?([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)",
    re.ASCII | re.MULTILINE,
)


_LICENSE = re.compile(r"^license:[ \t]*[\"']?([\w.+-]+)[\"']?[ \t]*\r?$", re.ASCII | re.MULTILINE)


def named_base(card: Path) -> str | None:
    """The repository that the front matter of a card calls its base model, the first of several.

    None where it says none, or cannot be read: a hint is all that comes of it.
    """
    return _said(card, _BASE)


def named_license(card: Path) -> str | None:
    """The identifier that the front matter of a card has for its licence; None where it says none,
    or "other", which is another one each time."""
    found = _said(card, _LICENSE)
    return None if found == "other" else found


def _said(card: Path, what: re.Pattern[str]) -> str | None:
    try:
        content = read_bounded(card, MAX_CARD) or b""
    except (OSError, LorakitError):
        return None
    front = _FRONT.match(content.decode("utf-8", "replace"))
    found = what.search(front[1]) if front else None
    return found[1] if found else None


def where_it_runs(card: Path | None) -> str:
    """The hint for ONNX files of others: what runs them, and what to open instead."""
    named = named_base(card) if card is not None else None
    return "it runs in transformers.js and onnxruntime; open the base that it was made from" + (
        f", which its card names: hf:{named}" if named else ""
    )
