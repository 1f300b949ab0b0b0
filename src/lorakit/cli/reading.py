"""How adapters are read: options of commands that open a model in the library's own words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from lorakit.cli.references import AlphaOption, MlxVersionOption, PartialOption, PickleOption


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The options, of every adapter that is named."""

    alpha: AlphaOption = None
    mlx_version: MlxVersionOption = None
    partial: PartialOption = False
    allow_pickle: PickleOption = False

    @property
    def given(self) -> Mapping[str, Any]:
        """Those that are not the defaults, by the names of AdapterConfig's fields."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {n: value for n, value in values.items() if value is not None and value is not False}
