"""The values of a GGUF file by key, each of the kind that is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lorakit.errors import FormatError
from lorakit.files.gguf import GgufFile

_WHOLE = ("u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64")
_NUMBERS = (*_WHOLE, "f32", "f64")


class Metadata:
    """Every method takes a key, and what it returns where the file lacks it.

    A key that begins with a dot is below the name of the file's architecture. Raises FormatError
    for a value of another kind.
    """

    def __init__(self, file: GgufFile) -> None:
        self._file = file
        self._architecture = ""
        self._architecture = self.text("general.architecture", "")

    def text(self, key: str, default: str) -> str:
        return str(self._one(key, ("str",), default))

    def whole(self, key: str, default: int | None = None) -> int | None:
        found: int | None = self._one(key, _WHOLE, default)
        return found

    def number(self, key: str, default: float | None = None) -> Any:
        """Of a float32, the shortest number that rounds to it: 1e-06, and not 9.99999997e-07."""
        return self._one(key, _NUMBERS, default)

    def flag(self, key: str, default: bool) -> bool:
        return bool(self._one(key, ("bool",), default))

    def texts(self, key: str) -> tuple[str, ...]:
        found: tuple[str, ...] = tuple(self._many(key, ("str",)) or ())
        return found

    def numbers(self, key: str) -> Sequence[Any] | None:
        """Numbers, or flags."""
        found = self._many(key, (*_NUMBERS, "bool"))
        return None if found is None else np.asarray(found).tolist()

    def is_list(self, key: str) -> bool:
        value = self._file.values.get(self._whole_key(key))
        return value is not None and value.array

    def _whole_key(self, key: str) -> str:
        return f"{self._architecture}{key}" if key.startswith(".") else key

    def _one(self, key: str, kinds: tuple[str, ...], default: Any) -> Any:
        value = self._file.values.get(self._whole_key(key))
        if value is None:
            return default
        if value.array or value.kind not in kinds:
            raise self._wrong(key, kinds[0])
        return float(str(np.float32(value.data))) if value.kind == "f32" else value.data

    def _many(self, key: str, kinds: tuple[str, ...]) -> Any:
        value = self._file.values.get(self._whole_key(key))
        if value is None:
            return None
        if not value.array or value.kind not in kinds:
            raise self._wrong(key, f"an array of {kinds[0]}")
        return value.data

    def _wrong(self, key: str, wanted: str) -> FormatError:
        value = self._file.values[self._whole_key(key)]
        found = f"an array of {value.kind}" if value.array else value.kind
        return FormatError(
            f"{self._file.path}: {self._whole_key(key)} must be {wanted} or the like, found {found}"
        )
