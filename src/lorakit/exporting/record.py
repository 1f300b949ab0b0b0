"""lorakit.json of an export: what made it, and a digest of everything in it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from lorakit.exporting.bundle import kept_facts
from lorakit.exporting.plan import ExportPlan
from lorakit.exporting.recorded import RECORD_FORMAT
from lorakit.exporting.result import ExportedFile
from lorakit.files.cache import digest_of

VERSION = 1


def about(plan: ExportPlan) -> dict[str, Any]:
    """What the page has to know; it is in config.json, which it reads anyway."""
    return {
        "base": plan.base.fingerprint,
        "base_name": plan.base_name,
        "adapters": plan.kind,
        "names": list(plan.names),
        "tool_format": plan.companions.tool_format,
        "context": plan.context,
    }


def record(plan: ExportPlan, folder: Path, files: Sequence[ExportedFile]) -> dict[str, Any]:
    """What made the folder."""
    return {
        "format": RECORD_FORMAT,
        "version": VERSION,
        "to": plan.target.name,
        **about(plan),
        "from": [
            {
                "name": each.name,
                "source": each.source,
                "scale": each.scale,
                "digest": each.adapter.digest,
                "facts": kept_facts(each),
            }
            for each in plan.adapters
        ],
        "forms": {
            file.form: {"file": file.path.relative_to(folder).as_posix(), "bytes": file.nbytes}
            for file in files
        },
        "versions": {"lorakit": metadata.version("lorakit")},
    }


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 by path, of every file that is there."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): digest_of(path) for path in paths}
