"""lorakit.json of a merged folder: which adapters are in it, at which scales, of which base.

Adapters are told by their digests, which no format or dtype of their files changes. An export says
the same in its own record. It knows no names and no paths of the machine it was made on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from lorakit.adapter import Adapter
from lorakit.base.exported import FORMAT as EXPORT
from lorakit.base.exported import RECORD
from lorakit.base.folder import MAX_JSON, Base
from lorakit.errors import MismatchError, SourceError
from lorakit.files.bounded import parse_json, read_bounded

FORMAT, VERSION = "lorakit-merge", 1
SAME = 1e-6  # relative; scales in JSON are exact, sums of several are not


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeRecord:
    """adapters: digests with the sum of their scales. content: the record itself."""

    base: str  # the fingerprint of the base
    adapters: Mapping[str, float]
    content: Mapping[str, Any]

    def without(self, adapters: Sequence[tuple[Adapter, float]]) -> dict[str, Any] | None:
        """What is left to record where adapters were taken out: what the base said, if it did."""
        gone = _sums(adapters)
        left = {digest: scale for digest, scale in self.adapters.items() if digest not in gone}
        if left:
            return {**self.content, "adapters": _listed(left)}
        before = self.content.get("before")
        return before if isinstance(before, dict) else None


def made_record(
    base: Base, fingerprint: str, adapters: Sequence[tuple[Adapter, float]]
) -> dict[str, Any]:
    """What to write beside a merge."""
    before = None if base.is_gguf else read_record(base.path)
    return {
        "format": FORMAT,
        "version": VERSION,
        "base": fingerprint,
        "base_name": base.name,
        "adapters": _listed(_sums(adapters)),
        **({} if before is None else {"before": dict(before.content)}),
        "versions": {"lorakit": metadata.version("lorakit")},
    }


def read_record(folder: Path) -> MergeRecord | None:
    """What a folder says was merged into it; None where it says nothing that can be read."""
    try:
        said = parse_json(read_bounded(folder / RECORD, MAX_JSON) or b"")
        key = {FORMAT: "adapters", EXPORT: "from"}[said["format"]]
        sums: dict[str, float] = {}
        for each in said[key]:
            sums[str(each["digest"])] = sums.get(str(each["digest"]), 0.0) + float(each["scale"])
        return MergeRecord(base=str(said["base"]), adapters=sums, content=said)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SourceError):
        return None


def require_merged(
    folder: Path, record: MergeRecord | None, adapters: Sequence[tuple[Adapter, float]]
) -> None:
    """MismatchError where no record says that these adapters are in, at these scales."""
    if record is None:
        why = f"it has no {RECORD} of a merge"
        if (folder / RECORD).exists():
            why = f"its {RECORD} is damaged, or no merge's"
        raise MismatchError(
            f"nothing says that these adapters are in this model: {why}",
            hint="--force takes them out nevertheless, as of a merge by another tool",
        )
    held = record.adapters
    faults = [
        f"{digest[:12]} was merged at {held[digest]:g}, not at {scale:g}" if digest in held else
        f"{digest[:12]} is not in it"
        for digest, scale in _sums(adapters).items()
        if not _same(scale, held.get(digest, 0.0))
    ]  # fmt: skip
    if faults:
        there = ", ".join(f"{digest[:12]} at {scale:g}" for digest, scale in held.items())
        raise MismatchError(
            "this model was merged with other adapters, or at other scales",
            items=faults,
            hint=f"its {RECORD} names: {there or 'none'}; --force takes out what you name",
        )


def differences(
    record: MergeRecord | None, base: Base, adapters: Sequence[tuple[Adapter, float]]
) -> list[str]:
    """In which ways a record says that a folder is no merge of these into this base."""
    if record is None:
        return []
    mine, held = _sums(adapters), record.adapters
    found = [
        f"its {RECORD} says that {digest[:12]} is in at {held.get(digest, 0):g}, "
        f"and it is compared at {mine.get(digest, 0):g}"
        for digest in {**mine, **held}
        if not _same(mine.get(digest, 0.0), held.get(digest, 0.0))
    ]
    if record.base != base.fingerprint:
        found.append(f"its {RECORD} says that it was made of another base")
    return found


def as_bytes(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, indent=2, ensure_ascii=False).encode() + b"\n"


def _sums(adapters: Sequence[tuple[Adapter, float]]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for adapter, scale in adapters:
        if scale:
            sums[adapter.digest] = sums.get(adapter.digest, 0.0) + float(scale)
    return sums


def _listed(sums: Mapping[str, float]) -> list[dict[str, Any]]:
    return [{"digest": digest, "scale": scale} for digest, scale in sums.items()]


def _same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=SAME, abs_tol=1e-12)
