"""What an export must hold to be begun: everything that can be refused is, before the long work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import gettempdir
from typing import get_args

from lorakit.architectures import Decoder
from lorakit.base.folder import Base
from lorakit.check import require_fit
from lorakit.engines.onnx.calibration import Calibration
from lorakit.errors import ParameterError, WriteError
from lorakit.exporting.bundle import bundled_template
from lorakit.exporting.companions import Companions
from lorakit.exporting.plan import TOKENIZER, Chosen, ExportPlan, Kind, Target
from lorakit.exporting.recorded import RECORD, RECORD_FORMAT
from lorakit.files.bounded import parse_json, read_bounded
from lorakit.files.room import require_room
from lorakit.merge.plan import plan as plan_merge
from lorakit.text.tokenizer import Tokenizer
from lorakit.values import among, shown, truth, whole

MAX_RECORD = 1 << 24  # bytes
LEAST_CONTEXT = 16  # for a prompt and an answer to prove it on
MAX_CONTEXT = 8192  # positions, where nobody asks for more
FILES = (".gguf", ".onnx", ".safetensors")
BESIDE = 40 << 20  # bytes for the tokenizer, graphs and records


def make_plan(
    base: Base,
    adapters: Sequence[Chosen],
    output: Path,
    *,
    target: Target,
    kind: Kind,
    forms: Sequence[str],
    base_name: str | None,
    context: int | None,
    overwrite: bool,
    calibration: Calibration,
    calibrated: bool,
    split_size: int | None,
    proven: bool,
) -> ExportPlan:
    """Raises CapabilityError (an architecture without a graph), BaseModelError (no tokenizer, no
    template), MismatchError and UnsupportedError (adapters), ParameterError, WriteError (no room).
    """
    _require_choices(target, kind, adapters)
    taken = _forms(target, forms)
    if split_size is not None and target.name != "gguf":
        raise ParameterError("only a GGUF model is written in parts", hint="leave split_size= out")
    if calibrated and target.name != "onnx":
        raise ParameterError(
            f"a text to calibrate on is for ONNX; {target.title} takes none",
            hint="leave calibration= out",
        )
    if context is not None and target.name != "onnx":
        raise ParameterError(
            f"only an ONNX export has a context of its own; {target.title} has the model's",
            hint="leave context= out",
        )
    base.require_weights()
    target.require(base)
    kept = target.read(base)
    mute = target.name != "onnx"  # transformers.js asks for a template before it answers
    tokenizer = Tokenizer.open(base.path)
    companions = Companions.of(base, tokenizer, bundled_template(adapters), mute=mute)
    for chosen in adapters:
        require_fit(chosen.adapter, base)
    if kind == "merged":
        plan_merge(base, [(chosen.adapter, chosen.scale) for chosen in adapters])
    made = ExportPlan(
        base=base,
        base_name=base_name or base.name,
        adapters=tuple(adapters),
        target=target,
        kind=kind,
        forms=taken,
        context=_context(context, base.decoder) if target.name == "onnx" else base.decoder.context,
        output=output,
        overwrite=overwrite,
        companions=companions,
        calibration=calibration,
        split_size=split_size,
        proven=proven,
        kept={**kept, TOKENIZER: tokenizer},
    )
    target.check(made)
    del made.kept[TOKENIZER]  # that of a large vocabulary takes 400 MB
    require_output(output, overwrite=overwrite)
    size = sum(target.expected_bytes(made, form) for form in taken) + BESIDE
    require_room(output, size, "the export", about="about ")
    if proven and (beside := _for_the_proof(made)):
        temporary = Path(gettempdir()) / "lorakit"
        require_room(temporary, beside, "what the proof compares with", about="about ")
    return made


def _for_the_proof(plan: ExportPlan) -> int:
    """About how many bytes the proof writes to the system's folder for temporary files: the other
    of merged and apart, and MLX's values as float32."""
    target = plan.target
    compared = [form for form in plan.forms if form in target.few_bits and plan.adapters]
    sizes = [target.expected_bytes(plan, form) for form in compared if "apart" in target.kinds]
    if target.name == "mlx":
        sizes = [(4 if sizes else 2) * 2 * plan.base.nbytes]
    return max(sizes, default=0)


def require_kinds(
    *,
    flags: Mapping[str, object] | None = None,
    calls: Mapping[str, object] | None = None,
    names: Mapping[str, object] | None = None,
) -> None:
    """Raise ParameterError for a flag that is none, what cannot be called, a name that cannot be
    shown; None is right everywhere."""
    for name, value in (flags or {}).items():
        if value is not None and not truth(value):
            raise ParameterError(f"{name} is True or False, not {shown(value)}")
    for name, value in (calls or {}).items():
        if value is not None and not callable(value):
            raise ParameterError(f"{name} is a function, not {shown(value)}")
    for name, value in (names or {}).items():
        good = isinstance(value, str) and value.strip() and value.isprintable()
        if value is not None and not good:
            raise ParameterError(
                f"{name} is a text on one line, such as org/repo, not {shown(value)}"
            )


def require_place(folder: Path) -> None:
    """Raise ParameterError for a folder that no export can take the place of."""
    if not folder.name.isprintable():  # it stands in the card and names files
        raise ParameterError(f"{folder.name!r} is no name for an export")
    if folder.resolve() in (here := Path.cwd().resolve(), *here.parents):
        raise ParameterError(
            f"an export would take the place of {folder}, in which this runs",
            hint="name a new folder in it",
        )


def _require_choices(target: Target, kind: Kind, adapters: Sequence[Chosen]) -> None:
    if not among(kind, get_args(Kind)):
        raise ParameterError(f"mode is {', '.join(get_args(Kind))}, not {shown(kind)}")
    if kind not in target.kinds:
        raise ParameterError(
            f"adapters of an export to {target.name} are {' or '.join(target.kinds)}, not {kind}",
            hint="merge them: --adapters merged",
        )
    if kind in ("apart", "composed") and not adapters:
        raise ParameterError(
            f"adapters are to be {kind}, and none is named", hint="name one: -a REF[:SCALE]"
        )


def _forms(target: Target, forms: Sequence[str]) -> tuple[str, ...]:
    """As the target calls them, each once."""
    found = [target.form(each) if isinstance(each, str) else None for each in forms]
    bad = [shown(each) for each, form in zip(forms, found, strict=True) if form is None]
    if bad or not found:
        raise ParameterError(
            f"quantize of an export to {target.name} is one or more of "
            f"{', '.join(target.limits)}, not {', '.join(bad) or 'nothing'}"
        )
    taken = tuple(dict.fromkeys(form for form in found if form is not None))
    if len(taken) > 1 and not target.several:
        raise ParameterError(
            f"a folder of {target.title} holds one form, and {', '.join(taken)} are asked for",
            hint="export each to a folder of its own",
        )
    return taken


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
    if folder.suffix.lower() in FILES and not folder.is_dir():
        raise ParameterError(
            f"an export is a folder, and {folder.name} is the name of a file",
            hint=f"-o {folder.stem}: the files in it bear that name",
        )
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
