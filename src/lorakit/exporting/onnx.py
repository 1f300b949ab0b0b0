"""One ONNX file of an export, with its weights beside it, written as a stream."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lorakit.adapter import Adapter, Array
from lorakit.algebra.combine import combine
from lorakit.base.folder import Base
from lorakit.engines.onnx.calibration import Calibration, Watcher
from lorakit.engines.onnx.device import CPU
from lorakit.engines.onnx.semantics import window_reading
from lorakit.exporting.plan import ExportPlan, Kind, OnBytes
from lorakit.files.atomic import write_synced
from lorakit.graph import HEAD, Sight, unseen, wide_modules
from lorakit.graph.composed import Composed
from lorakit.graph.web import Adapting, WebForm, build_web, with_inputs, without_adapters
from lorakit.graph.weights import FileStore
from lorakit.merge.view import merged_view

FOLDER = "onnx"
SUFFIXES: dict[WebForm, str] = {  # transformers.js's, by its own names of dtypes
    "none": "",
    "fp16": "_fp16",
    "q8": "_quantized",
    "q4": "_q4",
    "q4f16": "_q4f16",
}
DTYPES: dict[WebForm, str] = {form: form for form in SUFFIXES} | {"none": "fp32"}
CALIBRATED: tuple[WebForm, ...] = ("q8", "q4", "q4f16")


def file_name(form: WebForm) -> str:
    """What transformers.js calls the graph of a form."""
    return f"model{SUFFIXES[form]}.onnx"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What goes into a graph: a base, and what acts beside its linears."""

    base: Base
    adapting: Adapting


def part_of(plan: ExportPlan, kind: Kind) -> Part:
    """A plan's base and adapters, brought together in one of the ways."""
    if kind == "merged":
        base = merged_view(plan.base, plan.scaled) if plan.adapters else plan.base
        return Part(base=base, adapting=without_adapters)
    if kind == "dynamic":
        return Part(base=plan.base, adapting=with_inputs(plan.base.decoder))
    chosen = kind == "composed"
    adapters = plan.scaled if chosen else [(summed(plan), 1.0)]
    return Part(
        base=plan.base,
        adapting=lambda writer, dtype: Composed(
            writer=writer, adapters=adapters, dtype=dtype, chosen=chosen
        ),
    )


def summed(plan: ExportPlan) -> Adapter:
    """All adapters at their scales as one, ranks side by side."""
    adapter, _ = combine(plan.scaled)
    return adapter


def write_onnx(
    part: Part,
    form: WebForm,
    folder: Path,
    *,
    context: int,
    calibration: Calibration,
    metadata: dict[str, str],
    on_bytes: OnBytes | None = None,
) -> Path:
    """Write `onnx/model*.onnx` into a folder; returns its path.

    on_bytes: what it raises ends the export. Raises OSError, and what `build_web` and calibrating
    raise.
    """
    place = folder / FOLDER
    place.mkdir(exist_ok=True)
    path = place / file_name(form)
    store = _Counted(place, f"{path.name}_data", on_bytes)
    try:
        model = build_web(
            part.base,
            form,
            store,
            context=context,
            adapting=part.adapting,
            sight=_sight(part.base, form, calibration),
            metadata=metadata,
        )
    finally:
        store.close()
    write_synced(path, model)
    return path


def _sight(base: Base, form: WebForm, calibration: Calibration) -> Sight:
    """What linears read of the calibration text, for forms of few bits."""
    if form not in CALIBRATED:
        return unseen
    narrow = set(base.decoder.modules()) - wide_modules(base.decoder) - {HEAD}
    return Watcher(
        base,
        calibration.tokens(base),
        narrow=narrow if form != "q8" else (),
        threads=None,
        device=CPU,
        window=window_reading(CPU, ()),
    )


class _Counted(FileStore):
    """Says how many bytes there are."""

    def __init__(self, folder: Path, name: str, on_bytes: OnBytes | None) -> None:
        super().__init__(folder, name)
        self._on_bytes, self._written = on_bytes, 0

    def extend(self, name: str, array: Array) -> int:
        count = super().extend(name, array)
        self._written += count
        if self._on_bytes is not None:
            self._on_bytes(self._written)
        return count
