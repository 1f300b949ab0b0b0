"""The folder that a run leaves: a PEFT adapter, and beside it all that is known of it.

PEFT and every reader of PEFT folders take it as it is. lorakit.json holds what a registry carries:
the base and its fingerprint, the template and the tool format that the prompts were made with, the
data's digests, the settings, and what was measured. The folder is written whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lorakit.adapter import Adapter, Precondition
from lorakit.base.folder import Base
from lorakit.chat.dialogue import Dialogue
from lorakit.errors import BaseModelError, FormatError, ParameterError, WriteError
from lorakit.files.atomic import new_folder, write_synced
from lorakit.files.cache import digest_of
from lorakit.formats.peft import write_peft
from lorakit.text.tokenizer import Tokenizer
from lorakit.training.card import card
from lorakit.training.evaluate.evaluation import Evaluation
from lorakit.training.facts import FACTS, VERSION, lorakit_version
from lorakit.training.metrics import Line, curves, written
from lorakit.training.result import SweepPoint
from lorakit.training.verdict import headline, verdict

CARD, CURVES, METRICS = "README.md", "curves.svg", "metrics.jsonl"
OWN_FILES = frozenset(
    {FACTS, CARD, CURVES, METRICS, "adapter_config.json", "adapter_model.safetensors"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """A file that was used. role: "train", "eval", "keep" or "replay"."""

    role: str
    name: str
    sha256: str
    examples: int

    @classmethod
    def of(cls, role: str, path: Path, examples: int) -> DataFile:
        return cls(role=role, name=path.name, sha256=digest_of(path), examples=examples)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """An adapter that was trained, and what is known of it.

    base_model: what the base is called where others find it, such as org/repo; else its name.
    declared: share of the training prompts that declared the tools. settings: plain values.
    measured, sweep: as a TrainResult has them. phrasings: those of the training examples.
    leaked: how many of the measured examples are among those. log: the lines of the run's metrics.
    """

    adapter: Adapter
    base: Base
    base_model: str
    tools: Sequence[Mapping[str, Any]]
    declared: float
    settings: Mapping[str, Any]
    data: Sequence[DataFile]
    steps: int
    seconds: float
    measured: Mapping[str, Evaluation | None]
    log: Sequence[Line] = ()
    phrasings: Collection[str] = frozenset()
    leaked: int = 0
    sweep: Sequence[SweepPoint] = ()
    default_scale: float = 1.0


def require_place(folder: Path, *, overwrite: bool) -> None:
    """Raise ParameterError where a folder may not take what a run leaves; asked before it starts.

    overwrite: an adapter that is there may be replaced, and nothing else.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise ParameterError(f"{folder} is a file", hint="name a new folder")
        names = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    except OSError as error:  # a name that is too long, a folder of somebody else's
        raise WriteError(f"cannot write {folder}: {error.strerror or error}") from error
    others = sorted(names - OWN_FILES)
    if overwrite and others:
        raise ParameterError(
            f"{folder} holds other files than an adapter and is not replaced",
            items=others[:20],
            hint="name a new folder",
        )
    if names and not overwrite:
        raise ParameterError(
            f"{folder} exists and is not empty",
            hint="name a new folder, or replace the adapter in it with overwrite=True",
        )


def write_bundle(folder: Path, trained: Trained, *, overwrite: bool = False) -> Adapter:
    """Write an adapter with all that is known of it, and return it as it was written.

    Raises ParameterError as `require_place` does, UnsupportedError for what PEFT cannot express,
    and WriteError where the disk refuses; then nothing is written.
    """
    require_place(folder, overwrite=overwrite)
    origin = Precondition(name=trained.base_model, fingerprint=trained.base.fingerprint)
    adapter = replace(trained.adapter, precondition=origin)
    facts = facts_of(folder.resolve().name, trained)
    before = trained.measured.get("before")
    base = None if before is None else headline(before).value
    title = f"{facts['name']}: {trained.steps:,} steps on {trained.base_model}"
    texts = {
        FACTS: json.dumps(facts, indent=2, ensure_ascii=False) + "\n",
        CARD: card(facts, trained.measured),
        CURVES: curves(trained.log, title=title, base=base),
        METRICS: "".join(map(written, trained.log)),
    }
    try:
        with new_folder(folder, replace=overwrite) as temporary:
            write_peft(adapter, temporary / "peft", decoder=trained.base.decoder)
            for file in sorted((temporary / "peft").iterdir()):
                file.rename(temporary / file.name)
            (temporary / "peft").rmdir()
            for name, text in texts.items():
                write_synced(temporary / name, text.encode())
    except FileExistsError as error:
        raise ParameterError(str(error), hint="name a new folder") from error
    except OSError as error:
        raise WriteError(f"cannot write {folder}: {error.strerror or error}") from error
    return adapter


def facts_of(name: str, trained: Trained) -> dict[str, Any]:
    """What lorakit.json holds."""
    base, adapter = trained.base, trained.adapter
    kind = "DoRA" if "dora" in adapter.features else "LoRA"
    measured = {
        key: None if found is None else found.to_dict(outcomes=False)
        for key, found in trained.measured.items()
    }
    return {
        "version": VERSION,
        "lorakit": lorakit_version(),
        "name": name,
        "base": {
            "name": trained.base_model,
            "fingerprint": base.fingerprint,
            "architecture": base.decoder.architecture.model_type,
        },
        "default_scale": trained.default_scale,
        "adapter": {
            "kind": kind,
            "digest": adapter.digest,
            "rank": adapter.max_rank,
            "parameters": adapter.parameters,
        },
        "prompt": _prompt(base, trained),
        "added_tokens": _added_tokens(base, adapter),
        "verdict": list(verdict(trained.measured, trained.phrasings, trained.leaked)),
        "evaluation": measured,
        "scales": [_point(point) for point in trained.sweep],
        "data": [
            {key: getattr(file, key) for key in ("role", "name", "sha256", "examples")}
            for file in trained.data
        ],
        "training": {
            "steps": trained.steps,
            "seconds": round(trained.seconds, 1),
            "settings": dict(trained.settings),
        },
    }


def _point(point: SweepPoint) -> dict[str, Any]:
    """How good it is at another scale."""
    return {
        "scale": point.scale,
        "headline": point.evaluation.headline,
        "kept": None if point.kept is None else point.kept.headline,
    }


def _prompt(base: Base, trained: Trained) -> dict[str, Any]:
    """How the prompts were made, so that others can make the same."""
    dialogue = Dialogue(base.path, Tokenizer.open(base.path))
    try:
        template: str | None = dialogue.template.source(tools=bool(trained.tools))
    except (BaseModelError, FormatError):  # plain text needs none
        template = None
    tool_format = dialogue.tool_format
    return {
        "tool_format": tool_format.name if tool_format else None,
        "stop_tokens": sorted(dialogue.stop_tokens),
        "declared": trained.declared,
        "tools": list(trained.tools),
        "template": template,
    }


def _added_tokens(base: Base, adapter: Adapter) -> list[dict[str, Any]]:
    """Tokens whose rows were trained whole."""
    rows = {int(row) for part in adapter.replacements if part.rows is not None for row in part.rows}
    tokenizer = Tokenizer.open(base.path)
    return [{"id": row, "text": tokenizer.decode([row])} for row in sorted(rows)]
