"""Where a checkpoint comes from: what of it is written again, and what comes along."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from lorakit.base.folder import Base
from lorakit.merge.folder import bring_along
from lorakit.merge.plan import Plan
from lorakit.merge.shards import Shard, shards


@dataclass(frozen=True, slots=True, kw_only=True)
class Brought:
    """Names of the files that came along with the weights, and of those that stayed."""

    along: tuple[str, ...]
    left: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Origin(Protocol):
    """A base as a folder: its own, or the one that a GGUF file becomes."""

    @property
    def base(self) -> Base: ...

    def shards(self, plan: Plan, dtype: np.dtype[np.generic] | None) -> tuple[Shard, ...]:
        """The weight files to write."""
        ...

    def bring_along(
        self, folder: Path, plan: Plan, shards: tuple[Shard, ...], dtype: str | None
    ) -> Brought:
        """Write what is no weights into the new folder."""
        ...


@dataclass(frozen=True, slots=True)
class FolderOrigin:
    """A Hugging Face folder."""

    base: Base

    def shards(self, plan: Plan, dtype: np.dtype[np.generic] | None) -> tuple[Shard, ...]:
        return shards(self.base.files, plan, dtype)

    def bring_along(
        self, folder: Path, plan: Plan, shards: tuple[Shard, ...], dtype: str | None
    ) -> Brought:
        along, left = bring_along(self.base, folder, plan, shards, dtype)
        return Brought(along=along, left=left)
