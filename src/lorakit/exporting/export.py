"""`export`: a base and adapters become a folder that another runtime loads."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lorakit.adapter import Adapter
from lorakit.base.folder import Base
from lorakit.base.gguf import open_base
from lorakit.engines.onnx.calibration import Calibration
from lorakit.engines.onnx.options import OnnxOptions
from lorakit.errors import ParameterError, UnsupportedError, WriteError
from lorakit.exporting.card import card
from lorakit.exporting.companions import write_config
from lorakit.exporting.onnx import (
    CALIBRATED,
    DTYPES,
    FOLDER,
    file_name,
    part_of,
    summed,
    write_onnx,
)
from lorakit.exporting.parity import ProofOptions
from lorakit.exporting.plan import (
    RECORD,
    Chosen,
    ExportPlan,
    Kind,
    expected_bytes,
    make_plan,
)
from lorakit.exporting.proof import prove
from lorakit.exporting.record import VERSION, about, as_json, digests, graph_metadata, record
from lorakit.exporting.result import ExportedFile, ExportProgress, ExportResult, OnExport, Phase
from lorakit.files.atomic import new_folder, write_synced
from lorakit.files.bounded import as_path
from lorakit.graph.composed import require_composable
from lorakit.graph.web import WebForm
from lorakit.model.adapter_config import AdapterChoice, as_choices
from lorakit.model.load import ready, unused_name
from lorakit.sources import OnProgress, fetch
from lorakit.training.data import read_examples
from lorakit.values import among, shown

Target = Literal["onnx"]
TARGETS: tuple[Target, ...] = ("onnx",)
PARITY, CARD = "parity.json", "README.md"


def export(
    base: Base | str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    to: Target = "onnx",
    adapter: AdapterChoice | Iterable[AdapterChoice] | Mapping[str, AdapterChoice] | None = None,
    mode: Kind | None = None,
    quantize: WebForm | Iterable[WebForm] = "q8",
    context: int | None = None,
    calibration: str | os.PathLike[str] | None = None,
    proof: ProofOptions | None = None,
    prove_it: bool = True,
    overwrite: bool = False,
    offline: bool | None = None,
    allow_private: bool = False,
    downloads: OnProgress | None = None,
    progress: OnExport | None = None,
) -> ExportResult:
    """Write a base with adapters as a new folder that transformers.js and onnxruntime load.

    base, adapter: as in `open`, or adapters by names of the caller's; scales are those of their
    AdapterConfig.
    mode: "merged" into the weights; "apart", beside weights that may be quantised; "dynamic", as
    inputs of the graph, so that any adapter can be used, and those named here are proven alone;
    "composed": up to 16 in one file, chosen among by number. None is "merged", or "apart" where the
    proof finds that it is more accurate in one of the forms.
    quantize: a form, or several in one folder: "none" (float32), "fp16", "q8", "q4", "q4f16".
    context: tokens that the export can hold; None is the model's, at most 8192.
    calibration: a text in UTF-8 whose like the model will read, for forms of few bits.
    proof: on what it is compared with base + adapter in float32, and when it fails; `prove_it` =
    False leaves that out. overwrite: an export that is there may be replaced, and nothing else.
    downloads: called for what is fetched, as `progress` of `open` is.
    progress: called with an ExportProgress; what it raises ends the export.

    Raises what `open` raises for base and adapters, CapabilityError (an architecture without a
    graph), BaseModelError (no tokenizer or template), MismatchError, UnsupportedError (what this
    mode cannot express), ParameterError, WriteError, and ParityError; nothing is left then.
    """
    started = time.monotonic()
    report = _Reporter(progress)
    report("preparing")
    if not among(to, TARGETS):
        raise ParameterError(f"an export is to {' or '.join(TARGETS)}, not {shown(to)}")
    get = partial(fetch, offline=offline, allow_private=allow_private, progress=downloads)
    opened = base if isinstance(base, Base) else open_base(get(base, kind="base"))
    place = as_path(output).absolute()
    plan = make_plan(
        opened,
        _chosen(opened, adapter, get),
        place,
        kind="merged" if mode is None else mode,
        forms=(quantize,) if isinstance(quantize, str) else tuple(quantize),
        context=context,
        overwrite=overwrite,
        calibration=Calibration.of(OnnxOptions(quantize="int8", calibration=calibration)),
    )
    options = (proof or ProofOptions()) if prove_it else None
    if options is None and proof not in (None, ProofOptions()):
        raise ParameterError(
            "limits and examples are of the proof, which is left out", hint="leave --no-proof out"
        )
    if options and options.evaluation:
        read_examples(options.evaluation).require()  # before the long work
    try:
        with new_folder(place, replace=overwrite) as folder:
            plan, files = _write(plan, folder, options, report, settle=mode is None)
            total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    except FileExistsError as error:
        raise ParameterError(str(error), hint="name a new folder") from error
    except OSError as error:
        raise WriteError(f"cannot write {place}: {error.strerror or error}") from error
    return ExportResult(
        output=place,
        kind=plan.kind,
        context=plan.context,
        files=tuple(_moved(file, place) for file in files),
        nbytes=total,
        seconds=time.monotonic() - started,
    )


class _Reporter:
    """Tells whoever wants to know."""

    def __init__(self, progress: OnExport | None) -> None:
        self._progress = progress

    def __call__(self, phase: Phase, file: str = "", done: int = 0, total: int = 0) -> None:
        if self._progress is not None:
            self._progress(ExportProgress(phase=phase, file=file, done=done, total=total))


def _chosen(
    base: Base,
    adapter: AdapterChoice | Iterable[AdapterChoice] | Mapping[str, AdapterChoice] | None,
    get: Any,
) -> list[Chosen]:
    """Adapters, fetched and read, each under a name of its own."""
    choices = as_choices(list(adapter.values()) if isinstance(adapter, Mapping) else adapter)
    names = list(adapter) if isinstance(adapter, Mapping) else [""] * len(choices)
    found: dict[str, Chosen] = {}
    for given, choice in zip(names, choices, strict=True):
        config = None if isinstance(choice, Adapter) else choice
        if config is not None and config.on_error == "base":
            raise ParameterError(
                'on_error="base" is for a running model; an export has its adapters or fails'
            )
        scale = config.scale if config else 1.0
        fetched = partial(get, source=config.source) if config else get
        reference = choice if isinstance(choice, Adapter) else choice.path
        read = ready(reference, base, fetched)
        name = unused_name(given or (config.name if config else "adapter"), found)
        found[name] = Chosen(
            name=name,
            source=read.source,
            scale=float(read.default_scale if scale is None else scale),
            adapter=read.adapter,
        )
    return list(found.values())


def _write(
    plan: ExportPlan,
    folder: Path,
    options: ProofOptions | None,
    report: _Reporter,
    *,
    settle: bool,
) -> tuple[ExportPlan, list[ExportedFile]]:
    """Everything that is in an export, and how it was made in the end.

    settle: keep adapters apart where merging them first is found to cost more.
    """
    plan.companions.write(folder)
    write_config(
        folder,
        part_of(plan, plan.kind).base.config,
        context=plan.context,
        files=[file_name(form) for form in plan.forms],
        dtype=DTYPES[plan.forms[0]],
        about=about(plan),
    )
    files = [_converted(plan, folder, form, report) for form in plan.forms]
    if options is not None:
        files = [_proven(plan, folder, file, options, report) for file in files]
        if settle and any(_better_apart(file) for file in files):
            _empty(folder)
            return _write(replace(plan, kind="apart"), folder, options, report, settle=False)
        for file in files:
            if file.parity is not None:
                file.parity.require()
        proven = {file.path.name: file.parity.to_dict() for file in files if file.parity}
        write_synced(folder / PARITY, as_json({"version": VERSION, "files": proven}))
    made = record(plan, files)
    write_synced(folder / CARD, card(plan.output.name, made, files).encode())
    write_synced(folder / RECORD, as_json({**made, "files": digests(folder)}))
    return plan, files


def _better_apart(file: ExportedFile) -> bool:
    both = file.parity.apart if file.parity else None
    return both is not None and both.better == "apart"


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _converted(plan: ExportPlan, folder: Path, form: WebForm, report: _Reporter) -> ExportedFile:
    started = time.monotonic()
    phase: Phase = "converting" if form in ("none", "fp16") else "quantising"
    total = expected_bytes(plan.base.decoder, form)
    report(phase, file_name(form), 0, total)
    path = write_onnx(
        part_of(plan, plan.kind),
        form,
        folder,
        context=plan.context,
        calibration=plan.calibration,
        metadata=graph_metadata(plan),
        on_bytes=lambda done: report(phase, file_name(form), done, max(done, total)),
    )
    size = path.stat().st_size + path.with_name(f"{path.name}_data").stat().st_size
    return ExportedFile(form=form, path=path, nbytes=size, seconds=time.monotonic() - started)


def _proven(
    plan: ExportPlan, folder: Path, file: ExportedFile, options: ProofOptions, report: _Reporter
) -> ExportedFile:
    started = time.monotonic()
    form, name = file.form, file.path.name
    report("verifying", name)
    parity = prove(
        folder,
        file.path,
        form=form,
        kind=plan.kind,
        base=plan.base,
        adapters={each.name: (each.adapter, each.scale) for each in plan.adapters},
        options=options,
        context=plan.context,
        other=_other(plan, form),
        progress=lambda done, total: report("verifying", name, done, total),
    )
    return ExportedFile(
        form=form,
        path=file.path,
        nbytes=file.nbytes,
        seconds=file.seconds,
        proof_seconds=time.monotonic() - started,
        parity=parity,
    )


def _other(plan: ExportPlan, form: WebForm) -> Callable[[Path], Path] | None:
    """Builds the file with adapters kept apart where they are merged, and the other way round."""
    quantised = form in CALIBRATED and plan.adapters
    if not quantised or plan.kind not in ("merged", "apart"):
        return None
    kind: Kind = "apart" if plan.kind == "merged" else "merged"
    try:
        part = part_of(plan, kind)
        require_composable([(summed(plan), 1.0)])
    except UnsupportedError:  # weights can say what factors cannot
        return None

    def build(place: Path) -> Path:
        return write_onnx(
            part,
            form,
            place,
            context=plan.context,
            calibration=plan.calibration,
            metadata=graph_metadata(plan),
        )

    return build


def _moved(file: ExportedFile, place: Path) -> ExportedFile:
    """A file of the temporary folder where it is now."""
    return ExportedFile(
        form=file.form,
        path=place / FOLDER / file.path.name,
        nbytes=file.nbytes,
        seconds=file.seconds,
        proof_seconds=file.proof_seconds,
        parity=file.parity,
    )
