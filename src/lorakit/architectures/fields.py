"""Typed access to a config.json that nobody has checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lorakit.errors import BaseModelError

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Fields:
    """Typed access by our words; `where` is what errors call the config.

    spellings: what this config calls a field that we call otherwise; either word is taken.
    """

    config: Config
    where: str = "config.json"
    spellings: Mapping[str, str] = field(default_factory=dict)

    def get(self, key: str, default: Any = None) -> Any:
        """The value as it stands, whatever its type."""
        other = self.spellings.get(key, key)
        return self.config.get(other, self.config.get(key, default))

    def whole(self, key: str, default: int | None = None, *, limit: int = 1 << 31) -> int:
        value = self.get(key)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= limit:
            raise BaseModelError(
                f"{self.where}: {key} must be a whole number from 1 to {limit}, found {value!r:.80}"
            )
        return value

    def number(self, key: str, default: float | None) -> float:
        value = self.get(key)
        value = default if value is None else value
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e30:
            raise BaseModelError(
                f"{self.where}: {key} must be a positive number, found {value!r:.80}"
            )
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise BaseModelError(f"{self.where}: {key} must be true or false, found {value!r:.80}")
        return value

    def table(self, key: str) -> Config:
        value = self.get(key)
        if value is not None and not isinstance(value, Mapping):
            raise BaseModelError(f"{self.where}: {key} must be an object, found {value!r:.80}")
        return value or {}
