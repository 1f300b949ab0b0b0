"""The record of an export, lorakit.json: its name, its mark, how it is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

RECORD, RECORD_FORMAT = "lorakit.json", "lorakit-export"


def as_json(value: Mapping[str, Any]) -> bytes:
    """JSON for people too."""
    return json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"
