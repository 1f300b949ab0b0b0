"""`export`: a base and adapters become a folder that another runtime loads."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from lorakit.adapter import Adapter
from lorakit.base.folder import Base
from lorakit.base.gguf import open_base
from lorakit.chat.dialogue import Dialogue
from lorakit.engines.onnx.calibration import Calibration
from lorakit.engines.onnx.options import OnnxOptions
from lorakit.errors import LorakitError, ParameterError, WriteError
from lorakit.exporting.bundle import read_facts
from lorakit.exporting.card import card
from lorakit.exporting.checks import make_plan, require_kinds, require_place
from lorakit.exporting.parity import ProofOptions
from lorakit.exporting.plan import Chosen, ExportPlan, Kind, Target, TargetName
from lorakit.exporting.proof import Subject, prove
from lorakit.exporting.record import VERSION, about, digests, record
from lorakit.exporting.recorded import RECORD, as_json
from lorakit.exporting.result import ExportedFile, ExportProgress, ExportResult, OnExport, Phase
from lorakit.exporting.running import Exported
from lorakit.exporting.table import TARGETS
from lorakit.files.atomic import new_folder, spare_folder, write_synced
from lorakit.files.bounded import as_path
from lorakit.formats.brought import templates_of
from lorakit.merge import merge
from lorakit.merge.brought import brought_by
from lorakit.model.adapter_config import AdapterChoice, as_choices
from lorakit.model.growing import resize, with_room
from lorakit.model.load import ready, unused_name
from lorakit.sources import OnProgress, fetch
from lorakit.sources.card import CARD as README
from lorakit.sources.card import named_license
from lorakit.training.data import read_examples
from lorakit.values import among, shown

PARITY, CARD = "parity.json", "README.md"


def export(
    base: Base | str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    to: TargetName = "onnx",
    adapter: AdapterChoice | Iterable[AdapterChoice] | Mapping[str, AdapterChoice] | None = None,
    mode: Kind | None = None,
    quantize: str | Iterable[str] | None = None,
    base_model: str | None = None,
    context: int | None = None,
    split_size: int | None = None,
    calibration: str | os.PathLike[str] | None = None,
    proof: ProofOptions | None = None,
    prove_it: bool = True,
    overwrite: bool = False,
    offline: bool | None = None,
    allow_private: bool = False,
    downloads: OnProgress | None = None,
    progress: OnExport | None = None,
) -> ExportResult:
    """Write a base with adapters as a new folder that another runtime loads.

    base, adapter: as in `open`, or adapters by names of the caller's; scales are those of their
    AdapterConfig. A GGUF base is dequantised first.
    to: "onnx" (transformers.js, onnxruntime), "gguf" (llama.cpp), "safetensors" (transformers), or
    "mlx" (mlx-lm).
    mode: "merged" into the weights; "apart", beside weights that may be quantised; "dynamic", as
    inputs of an ONNX graph, so that any adapter can be used, and those named here are proven alone;
    "composed": up to 16 in one ONNX file, chosen among by number. None is "merged", or for ONNX
    "apart" where the proof finds that it is more accurate in one of the forms.
    quantize: a form, or several in one folder. onnx: "none" (float32), "fp16", "q8" (the default),
    "q4", "q4f16". gguf: "F32", "F16", "BF16", "Q8_0" (the default), "Q4_K_M" and the other types of
    llama.cpp. safetensors: "none" (the default: each weight's own dtype), "f32", "f16", "bf16".
    mlx: the same, "q8" and "q4".
    base_model: what the base is called where others find it, such as org/repo.
    context: tokens that an ONNX export can hold; None is the model's, at most 8192. split_size:
    bytes of a part of a GGUF model; None writes it whole.
    calibration: a text in UTF-8 whose like the model will read, for ONNX forms of few bits.
    proof: on what it is compared with base + adapter in float32, and when it fails; `prove_it` =
    False leaves that out. overwrite: an export that is there may be replaced, and nothing else.
    downloads: called for what is fetched, as `progress` of `open` is.
    progress: called with an ExportProgress; what it raises ends the export.

    Raises what `open` raises for base and adapters, CapabilityError (an architecture without a
    graph), BaseModelError (no tokenizer or template), MismatchError, UnsupportedError (what this
    mode or target cannot express), ParameterError, MissingExtraError (no runtime to prove it in),
    WriteError, and ParityError; nothing is left then.
    """
    started = time.monotonic()
    report = _Reporter(progress)
    report("preparing")
    target = _target(to)
    options = _proof_options(proof, prove_it)
    require_kinds(
        flags={"overwrite": overwrite, "allow_private": allow_private, "offline": offline},
        calls={"progress": progress, "downloads": downloads},
        names={"base_model": base_model},
    )
    text = None if calibration is None else as_path(calibration)
    get = partial(fetch, offline=offline, allow_private=allow_private, progress=downloads)
    given = base if isinstance(base, Base) else open_base(get(base, kind="base"))
    place = as_path(output).absolute()
    require_place(place)
    place = place.resolve() if place.is_symlink() else place  # the link stays what it is
    with _as_folder(given, report) as opened:
        before = opened.decoder.vocabulary
        chosen, places = _chosen(opened, adapter, get)
        adapters = [each.adapter for each in chosen]
        brought, said = brought_by(places)
        opened = with_room(opened, adapters, downloads, brought)
        plan = make_plan(
            opened,
            chosen,
            place,
            target=target,
            kind="merged" if mode is None else mode,
            forms=_forms(quantize, target),
            base_name=base_model or given.name,
            context=context,
            overwrite=overwrite,
            calibration=Calibration.of(OnnxOptions(quantize="int8", calibration=text)),
            calibrated=text is not None,
            split_size=split_size,
            proven=options is not None,
        )
        try:
            with new_folder(place, replace=overwrite) as folder:
                plan, files = _write(
                    plan, folder, options, report, settle=mode is None and target.seamless
                )
                total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                files = [_moved(file, folder, place) for file in files]
        except FileExistsError as error:
            raise ParameterError(str(error), hint="name a new folder") from error
        except OSError as error:
            raise WriteError(f"cannot write {place}: {error.strerror or error}") from error
    return ExportResult(
        output=place,
        to=target.name,
        kind=plan.kind,
        context=plan.context,
        files=tuple(files),
        nbytes=total,
        seconds=time.monotonic() - started,
        notes=tuple(filter(None, [resize(before, opened), said, *_notes(plan)])),
    )


def _target(name: object) -> Target:
    if not among(name, get_args(TargetName)):
        names = ", ".join(get_args(TargetName))
        raise ParameterError(f"an export is to one of {names}, not {shown(name)}")
    return TARGETS[str(name)]


def _proof_options(proof: ProofOptions | None, prove_it: bool) -> ProofOptions | None:
    """What to prove it on; None where it is not to be. Examples are read before the long work."""
    if proof is not None and not isinstance(proof, ProofOptions):
        raise ParameterError(f"proof is a ProofOptions or None, not {shown(proof)}")
    if not isinstance(prove_it, bool):
        raise ParameterError(f"prove_it is True or False, not {shown(prove_it)}")
    if not prove_it:
        if proof not in (None, ProofOptions()):
            raise ParameterError(
                "limits and examples are of the proof, which is left out",
                hint="leave --no-proof out",
            )
        return None
    options = proof or ProofOptions()
    if options.evaluation:
        read_examples(options.evaluation).require()
    return options


def _forms(quantize: object, target: Target) -> tuple[Any, ...]:
    if quantize is None:
        return (target.default,)
    if isinstance(quantize, str) or not isinstance(quantize, Iterable):
        return (quantize,)
    return tuple(quantize)


@contextmanager
def _as_folder(base: Base, report: _Reporter) -> Iterator[Base]:
    """A base whose weights can be read; of a GGUF file they are dequantised into a folder."""
    if not base.is_gguf:
        yield base
        return
    with spare_folder() as place:
        folder = place / base.path.stem
        merge(base, [], folder, progress=lambda done, total: report("preparing", "", done, total))
        yield Base.open(folder)


def _notes(plan: ExportPlan) -> Iterator[str]:
    if plan.companions.replaced:
        yield "the chat template is that of the adapter, which is not the base's"
    for chosen in plan.adapters:
        yield from (f"{chosen.name}: {note}" for note in chosen.adapter.reading.notes)
    if plan.kind == "dynamic" and plan.adapters:
        yield "the adapters were used for the proof only; load them in the page"
    if not plan.proven:  # else they stand with the proof of each form
        yield from dict.fromkeys(
            warning for form in plan.forms for warning in plan.target.warnings(plan, form)
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
) -> tuple[list[Chosen], list[Path]]:
    """Adapters, fetched and read, each under a name of its own; and where they lie."""
    choices = as_choices(list(adapter.values()) if isinstance(adapter, Mapping) else adapter)
    names = list(adapter) if isinstance(adapter, Mapping) else [""] * len(choices)
    for name in names:
        if name != "":
            require_kinds(names={"the name of an adapter": name})
    found: dict[str, Chosen] = {}
    places: list[Path] = []
    for given, choice in zip(names, choices, strict=True):
        config = None if isinstance(choice, Adapter) else choice
        if config is not None and config.on_error == "base":
            raise ParameterError(
                'on_error="base" is for a running model; an export has its adapters or fails'
            )
        scale = config.scale if config else 1.0
        fetched = partial(get, source=config.source) if config else get
        read = ready(choice, base, fetched, text_alone=not base.left_out)
        name = unused_name(given or (config.name if config else "adapter"), found)
        found[name] = Chosen(
            name=name,
            source=read.source,
            scale=float(read.default_scale if scale is None else scale),
            adapter=read.adapter,
            facts={} if read.place is None else read_facts(read.place),
            templates=_templates(read.place),
            license=None if read.place is None else named_license(read.place / README),
        )
        places += [read.place] if read.place is not None else []
    return list(found.values()), places


def _templates(place: Path | None) -> Mapping[str, str]:
    """Those that an adapter brings; none where they cannot be read, of which `brought_by` tells."""
    try:
        return {} if place is None else templates_of(place)
    except LorakitError:
        return {}


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
    plan.target.begin(plan, folder, about(plan))
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
    made = record(plan, folder, files)
    write_synced(folder / CARD, card(plan, made, files).encode())
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


def _converted(plan: ExportPlan, folder: Path, form: str, report: _Reporter) -> ExportedFile:
    started = time.monotonic()
    phase: Phase = "quantising" if form in plan.target.few_bits else "converting"
    total, name = plan.target.expected_bytes(plan, form), Path(plan.target.place(plan, form)).name
    report(phase, name, 0, total)
    paths = plan.target.write(
        plan,
        plan.kind,
        form,
        folder,
        lambda done: report(phase, name, done, max(done, total)),
    )
    return ExportedFile(
        form=form,
        path=paths[0],
        parts=paths,
        nbytes=sum(path.stat().st_size for path in paths),
        seconds=time.monotonic() - started,
    )


def _proven(
    plan: ExportPlan, folder: Path, file: ExportedFile, options: ProofOptions, report: _Reporter
) -> ExportedFile:
    started = time.monotonic()
    name = file.path.name
    report("verifying", name)
    parity = prove(
        _subject(plan, folder, file.form, options),
        base=plan.base,
        adapters={each.name: (each.adapter, each.scale) for each in plan.adapters},
        options=options,
        context=plan.context,
        progress=lambda done, total: report("verifying", name, done, total),
    )
    return replace(file, proof_seconds=time.monotonic() - started, parity=parity)


def _subject(plan: ExportPlan, folder: Path, form: str, options: ProofOptions) -> Subject:
    target, companions = plan.target, plan.companions
    templates = companions.templates if companions.replaced else None
    return Subject(
        exported=target.opened(plan, plan.kind, form, folder),
        form=form,
        kind=plan.kind,
        coarse=form in target.few_bits,
        most=target.limits[form],
        runtime=target.runtime(plan, form),
        stops=frozenset(companions.stops),
        dialogue=lambda model: Dialogue(plan.base.path, model.tokenizer, templates),
        faults=lambda cases: target.faults(plan, folder, form, cases, declare=options.declare),
        other=_other(plan, form),
        warnings=tuple(target.warnings(plan, form)),
    )


def _other(plan: ExportPlan, form: str) -> AbstractContextManager[Exported] | None:
    """Opens the form with adapters kept apart where they are merged, and the other way round."""
    target = plan.target
    if not (form in target.few_bits and plan.adapters and plan.kind in ("merged", "apart")):
        return None
    kind: Kind = "apart" if plan.kind == "merged" else "merged"
    if kind not in target.kinds or not target.can_be_apart(plan):
        return None
    return _built(plan, kind, form)


@contextmanager
def _built(plan: ExportPlan, kind: Kind, form: str) -> Iterator[Exported]:
    with spare_folder() as place:
        other = replace(plan, kind=kind, proven=False)
        plan.target.begin(other, place, about(other))
        plan.target.write(other, kind, form, place, None)
        with plan.target.opened(other, kind, form, place) as exported:
            yield exported


def _moved(file: ExportedFile, folder: Path, place: Path) -> ExportedFile:
    """A file of the temporary folder where it will be."""
    parts = tuple(place / part.relative_to(folder) for part in file.parts)
    return replace(file, path=parts[0], parts=parts)
