"""What a function returned, as the text that a model reads.

A text stays as it is; all else is JSON, on one line. What JSON cannot say is an error rather than
a `repr` that nobody meant to show.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import numbers
import uuid
from collections.abc import Mapping, Set
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any

from lorakit.errors import ParameterError

MAX_DEPTH = 64
RESULTS = (
    "return a text, numbers, None, lists, dictionaries, dataclasses, enums or dates; a function "
    "whose result is something else makes one of these of it"
)


def rendered(value: object, limit: int, where: str = "result") -> str:
    """The text for a result. limit: how many characters of it are kept; a remark in brackets says
    how many there were. where: what the value is called in errors.

    Raises ParameterError for what cannot be said.
    """
    said = isinstance(value, str) and not isinstance(value, Enum)
    text = str.__str__(value) if said else _json(value, where)
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text[: limit + 1]):
        raise ParameterError(f"{where}: a text holds half of a surrogate pair", hint=RESULTS)
    if len(text) <= limit:
        return text
    return f"{text[:limit]}\n[cut: {limit} of {len(text)} characters are shown]"


def plain(value: object, where: str, depth: int = 0) -> Any:
    """JSON values for a Python value. Raises ParameterError for what has none."""
    if depth > MAX_DEPTH:
        raise ParameterError(f"{where}: nested deeper than {MAX_DEPTH} levels, or in itself")
    if isinstance(value, Enum):  # before its value's type
        return plain(value.value, where, depth + 1)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        raise ParameterError(f"{where}: JSON has no {value}", hint=RESULTS)
    if isinstance(value, numbers.Integral):  # numpy's
        return int(value)
    if isinstance(value, numbers.Real):
        return plain(float(value), where, depth + 1)
    if isinstance(value, datetime.date | datetime.time):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, PurePath | uuid.UUID | Decimal):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [item.name for item in dataclasses.fields(value)]
        return {name: plain(getattr(value, name), f"{where}.{name}", depth + 1) for name in names}
    if isinstance(value, Mapping):
        return {
            _key(key, where): plain(item, f"{where}[{key!r:.40}]", depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value)]
    if isinstance(value, Set):
        items = [plain(item, where, depth + 1) for item in value]
        return sorted(items, key=lambda item: json.dumps(item, sort_keys=True))  # same every time
    raise ParameterError(
        f"{where}: {type(value).__name__} is nothing a model can read", hint=RESULTS
    )


def _json(value: object, where: str) -> str:
    try:
        return json.dumps(plain(value, where), ensure_ascii=False)
    except ValueError as error:  # an integer of more digits than Python writes
        if isinstance(error, ParameterError):
            raise
        raise ParameterError(f"{where}: {error}", hint=RESULTS) from error


def _key(key: object, where: str) -> str:
    if isinstance(key, Enum):
        key = key.value
    if isinstance(key, str):
        return str.__str__(key)
    if isinstance(key, bool) or key is None:
        return json.dumps(key)
    if isinstance(key, int):
        return str(key)
    if isinstance(key, datetime.date):
        return key.isoformat()
    raise ParameterError(f"{where}: {type(key).__name__} is no key of a JSON object", hint=RESULTS)
