"""convert: an adapter in one format becomes the same adapter in another, exactly or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lorakit.adapter import Adapter
from lorakit.base.folder import Base
from lorakit.check import require_fit, without_unchanged
from lorakit.errors import ParameterError
from lorakit.formats import FORMATS, FormatName, read_adapter
from lorakit.formats.express import lossy as leave_out
from lorakit.formats.folding import folded
from lorakit.formats.readback import DTYPES, Dtype, rounding
from lorakit.values import among, shown


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertReport:
    """What `convert` wrote. `dropped` has a line for each part that is missing in it."""

    adapter: Adapter  # as it was given to the writer
    path: Path
    format: str
    dropped: tuple[str, ...] = ()  # empty unless asked for with lossy=True
    notes: tuple[str, ...] = ()  # what is said in other words, with what that means


def convert(
    source: Path,
    target: Path,
    *,
    to: FormatName,
    base: Base | None = None,
    dtype: Dtype | None = None,
    lossy: bool = False,
    allow_pickle: bool = False,
    init: Path | None = None,
) -> ConvertReport:
    """Read an adapter and write it in the format `to` (a name in formats.FORMATS).

    base: what it is for; GGUF asks for it, the others check the adapter against it where given.
    dtype: "f32", "f16" or "bf16" for the stored values; None keeps them (GGUF: f32).
    lossy: leave out what the format cannot say, and list it in the report.
    allow_pickle, init: as in `formats.read_adapter`.
    Raises ParameterError (unknown format or dtype, a target that exists, a base that is missing),
    MismatchError, SourceError, FormatError, WriteError, and UnsupportedError listing everything
    that the format cannot say; then nothing is written.
    """
    if not among(to, FORMATS):
        raise ParameterError(
            f"there is no format {shown(to)}", hint=f"formats: {', '.join(FORMATS)}"
        )
    if dtype is not None and not among(dtype, DTYPES):
        names = ", ".join(DTYPES)
        raise ParameterError(f"there is no dtype {shown(dtype)}", hint=f"dtypes: {names}")
    row = FORMATS[to]
    if row.needs_base and base is None:
        raise ParameterError(
            f"writing {to} needs the base that the adapter is for", hint="name it with --base"
        )
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ParameterError(f"{target} exists", hint="name a new file or folder")
    decoder = base.decoder if base else None
    adapter = read_adapter(source, decoder, allow_pickle=allow_pickle, init=init)
    if base is not None:
        require_fit(adapter, base)
        adapter = without_unchanged(adapter, base)
    notes: tuple[str, ...] = ()
    if base is not None and row.prepare is not None:
        adapter, notes = row.prepare(adapter, base)
    dropped: tuple[str, ...] = ()
    if lossy:
        adapter, faults = leave_out(adapter, row.cannot_express, decoder)
        dropped = tuple(str(fault) for fault in faults)
    options = {"dtype": dtype} if dtype else {}
    row.write(adapter, target, decoder=decoder, **options)
    if dtype is not None and (note := rounding(folded(adapter) if row.folds else adapter, dtype)):
        notes = (*notes, note)
    return ConvertReport(adapter=adapter, path=target, format=to, dropped=dropped, notes=notes)
