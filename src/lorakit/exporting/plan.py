"""The plan of an export: everything that can be refused is refused before the long work starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from lorakit.adapter import Adapter
from lorakit.architectures import HEAD, Decoder
from lorakit.base.folder import Base
from lorakit.check import require_fit
from lorakit.engines.onnx.calibration import Calibration
from lorakit.errors import ParameterError, WriteError
from lorakit.exporting.companions import Companions
from lorakit.files.bounded import parse_json, read_bounded
from lorakit.files.room import require_room
from lorakit.formats.express import require_expressible
from lorakit.formats.web import cannot_express
from lorakit.graph.composed import require_composable
from lorakit.graph.decoder import require_supported, wide_modules
from lorakit.graph.web import WebForm
from lorakit.merge.plan import plan as plan_merge
from lorakit.values import among, shown, whole

Kind = Literal["merged", "apart", "dynamic", "composed"]
RECORD, RECORD_FORMAT = "lorakit.json", "lorakit-export"
MAX_RECORD = 1 << 24  # bytes
LEAST_CONTEXT = 16  # for a prompt and an answer to prove it on
MAX_CONTEXT = 8192  # positions, where nobody asks for more
FORMS: tuple[WebForm, ...] = get_args(WebForm)
LINEAR = {"none": 4.0, "fp16": 2.0, "q8": 1.01, "q4": 0.65, "q4f16": 0.65}  # bytes of a weight
WIDE = {"q4": 1.04, "q4f16": 1.04}  # of those that get 8 bits
TABLE = {"none": 4.0, "fp16": 2.0, "q8": 1.01, "q4": 1.01, "q4f16": 1.01}  # of the vocabulary's
BESIDE = 40 << 20  # bytes for the tokenizer, graphs and records


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chosen:
    """An adapter of an export. source: its reference, safe to show."""

    name: str
    source: str
    scale: float
    adapter: Adapter


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExportPlan:
    """What is exported, and where to. context: tokens that the export can hold."""

    base: Base
    adapters: tuple[Chosen, ...]
    kind: Kind
    forms: tuple[WebForm, ...]
    context: int
    output: Path
    overwrite: bool
    companions: Companions
    calibration: Calibration

    @property
    def scaled(self) -> list[tuple[Adapter, float]]:
        return [(chosen.adapter, chosen.scale) for chosen in self.adapters]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(chosen.name for chosen in self.adapters)


def make_plan(
    base: Base,
    adapters: Sequence[Chosen],
    output: Path,
    *,
    kind: Kind,
    forms: Sequence[WebForm],
    context: int | None,
    overwrite: bool,
    calibration: Calibration,
) -> ExportPlan:
    """Raises CapabilityError (an architecture without a graph), BaseModelError (no tokenizer, no
    template), MismatchError and UnsupportedError (adapters), ParameterError, WriteError (no room).
    """
    _require_choices(kind, forms, adapters)
    base.require_weights()
    require_supported(base.decoder, "an ONNX export", "the torch engine runs it in Python")
    companions = Companions.of(base)
    for chosen in adapters:
        require_fit(chosen.adapter, base)
    _require_expressible(base, kind, adapters)
    held = _context(context, base.decoder)
    require_output(output, overwrite=overwrite)
    size = sum(expected_bytes(base.decoder, form) for form in forms) + BESIDE
    require_room(output, size, "the export", about="about ")
    return ExportPlan(
        base=base,
        adapters=tuple(adapters),
        kind=kind,
        forms=tuple(dict.fromkeys(forms)),
        context=held,
        output=output,
        overwrite=overwrite,
        companions=companions,
        calibration=calibration,
    )


def _require_choices(kind: Kind, forms: Sequence[WebForm], adapters: Sequence[Chosen]) -> None:
    if not among(kind, get_args(Kind)):
        raise ParameterError(f"mode is {', '.join(get_args(Kind))}, not {shown(kind)}")
    bad = [shown(form) for form in forms if not among(form, FORMS)]
    if bad or not forms:
        raise ParameterError(
            f"quantize is one or more of {', '.join(FORMS)}, not {', '.join(bad) or 'nothing'}"
        )
    if kind in ("apart", "composed") and not adapters:
        raise ParameterError(
            f"adapters are to be {kind}, and none is named", hint="name one: -a REF[:SCALE]"
        )


def _require_expressible(base: Base, kind: Kind, adapters: Sequence[Chosen]) -> None:
    """Whatever one way of exporting cannot say of an adapter."""
    scaled = [(chosen.adapter, chosen.scale) for chosen in adapters]
    if kind == "merged":
        plan_merge(base, scaled)
    elif kind == "dynamic":
        for adapter, _ in scaled:
            faults = cannot_express(adapter, base.decoder)
            hint = "merge it instead: --adapters merged"
            require_expressible(faults, "an export with adapter inputs", hint)
    else:
        require_composable(scaled)


def _context(wanted: int | None, decoder: Decoder) -> int:
    if wanted is None:
        return min(MAX_CONTEXT, decoder.context)
    if not whole(wanted) or not LEAST_CONTEXT <= wanted <= decoder.context:
        raise ParameterError(
            f"context must be from {LEAST_CONTEXT} to {decoder.context}, the model's own, "
            f"found {shown(wanted)}"
        )
    return wanted


def require_output(folder: Path, *, overwrite: bool) -> None:
    """Raise ParameterError where an export may not be put; an export that is there may be replaced,
    and nothing else."""
    try:
        if folder.exists() and not folder.is_dir():
            raise ParameterError(f"{folder} is a file", hint="name a new folder")
        filled = folder.is_dir() and any(folder.iterdir())
    except OSError as error:
        raise WriteError(f"cannot write {folder}: {error.strerror or error}") from error
    if not filled:
        return
    if not overwrite:
        raise ParameterError(
            f"{folder} exists and is not empty",
            hint="name a new folder, or replace the export in it with overwrite=True",
        )
    others = _beside_export(folder)
    if others:
        raise ParameterError(
            f"{folder} holds something else than an export and is not replaced",
            items=others[:8],
            hint="name a new folder",
        )


def _beside_export(folder: Path) -> list[str]:
    """What lies in a folder and is not of an export, as its record says."""
    try:
        record = parse_json(read_bounded(folder / RECORD, MAX_RECORD) or b"")
    except (OSError, ValueError):
        record = None
    listed = record.get("files") if isinstance(record, dict) else None
    if not isinstance(listed, dict) or record.get("format") != RECORD_FORMAT:
        return [RECORD]
    own = {RECORD, *listed}
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return sorted(name for name in found if name not in own)


def expected_bytes(decoder: Decoder, form: WebForm) -> int:
    """About what a file of this form takes, without its RoPE tables."""
    wide, total = wide_modules(decoder), 0.0
    for name, shape in decoder.modules().items():
        count = shape.in_features * shape.out_features
        if shape.embedding or name == HEAD:
            total += 0 if name == HEAD and decoder.tied else count * TABLE[form]
        else:
            total += count * (WIDE.get(form, LINEAR[form]) if name in wide else LINEAR[form])
    return int(total)
