"""convert: an adapter in one format becomes the same adapter in another, exactly or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorakit.adapter import Adapter
from lorakit.architectures import Decoder
from lorakit.base.exported import Exported
from lorakit.base.folder import Base
from lorakit.base.grown import resized_decoder
from lorakit.check import for_text, require_fit, without_seeing, without_unchanged
from lorakit.errors import ParameterError, UnsupportedError
from lorakit.formats import (
    FORMATS,
    Format,
    FormatName,
    read_adapter,
    read_any,
    require_known,
    require_whole,
)
from lorakit.formats.brought import text_files
from lorakit.formats.express import SHOWN, require_expressible
from lorakit.formats.express import lossy as leave_out
from lorakit.formats.folding import folded
from lorakit.formats.names import is_canonical
from lorakit.formats.peft.write import patterns_note
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
    alpha: float | None = None,
    mlx_version: str | None = None,
    name: str | None = None,
    partial: bool = False,
    uniform: bool = False,
) -> ConvertReport:
    """Read an adapter and write it in the format `to` (a name in formats.FORMATS).

    base: what it is for; GGUF asks for it, the others check the adapter against it where given.
    dtype: "f32", "f16" or "bf16" for the stored values; None keeps them (GGUF: f32).
    lossy: leave out what the format cannot say, and list it in the report.
    allow_pickle, init, alpha, mlx_version, name, partial: as in `formats.read_adapter`.
    uniform: PEFT with one rank and one alpha, for readers that know no patterns.
    An adapter's tokenizer and chat template come along into a folder.
    Without a base, modules must be named as in a model of text: a wrapper's names are refused.
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
    if uniform and to != "peft":
        raise ParameterError("uniform is for PEFT's format", hint="MLX always has one scale")
    row = FORMATS[to]
    if row.needs_base and base is None:
        raise ParameterError(
            f"writing {to} needs the base that the adapter is for", hint="name it with --base"
        )
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ParameterError(f"{target} exists", hint="name a new file or folder")
    decoder = base.decoder if base else None
    if to != "gguf":
        require_known(decoder, f"{to} cannot be written for it")
    adapter = read_adapter(
        source,
        decoder,
        allow_pickle=allow_pickle,
        init=init,
        alpha=alpha,
        mlx_version=mlx_version,
        name=name,
        partial=partial,
    )
    seeing: tuple[str, ...] = ()
    if base is not None and lossy:
        _, seeing = without_seeing(adapter)
        adapter = for_text(adapter)
    if base is not None:
        decoder = _fitted(adapter, base)
        adapter = without_unchanged(adapter, base)
    else:
        _require_canonical(adapter, source)
    notes: tuple[str, ...] = ()
    if base is not None and row.prepare is not None:
        adapter, notes = row.prepare(adapter, base)
    dropped: tuple[str, ...] = ()
    express = row.cannot_express
    if base is not None and base.exported is not None and row.of_export is not None:
        express = row.of_export
        _require_inputs(base.exported)
    if lossy:
        adapter, faults = leave_out(adapter, express, decoder)
        dropped = (*(f"{name}: for a part that sees" for name in seeing), *map(str, faults))
    elif express is not row.cannot_express:
        require_expressible(express(adapter, decoder), "the graph of this export")
    if base is not None and decoder is not None:
        notes = (*notes, *_resized(adapter, base.decoder, decoder, row))
    options, came = _along(source, row)
    notes = (*adapter.reading.notes, *notes, *came)
    options |= {"dtype": dtype} if dtype else {}
    if uniform:
        options["uniform"] = True
    elif to == "peft" and (note := patterns_note(adapter, decoder)):
        notes = (*notes, note)
    row.write(adapter, target, decoder=decoder, **options)
    if dtype is not None and (note := rounding(folded(adapter) if row.folds else adapter, dtype)):
        notes = (*notes, note)
    return ConvertReport(adapter=adapter, path=target, format=to, dropped=dropped, notes=notes)


def repair(
    source: Path,
    target: Path,
    *,
    base: Base | None = None,
    allow_pickle: bool = False,
    alpha: float | None = None,
    mlx_version: str | None = None,
    name: str | None = None,
    partial: bool = False,
) -> ConvertReport:
    """Read an adapter and write it clean, in the format that it has.

    Names lose what wrapped the model, and what PEFT cut out of them is put back; with the base they
    become its own. A file of several adapters becomes the one called `name`; weights without a
    config get one. A tokenizer and a chat template come along. Parameters and errors as in
    `convert`.
    """
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ParameterError(f"{target} exists", hint="name a new file or folder")
    decoder = base.decoder if base else None
    given = {"alpha": alpha, "mlx_version": mlx_version, "name": name}
    options = {key: value for key, value in given.items() if value is not None}
    adapter = read_any(source, decoder, allow_pickle=allow_pickle, mend=True, **options)
    if not partial:
        require_whole(adapter, source, decoder)
    if base is not None:
        decoder = _fitted(adapter, base)
    else:
        _require_canonical(adapter, source)
    to = str(adapter.metadata["format"])
    row = FORMATS[to]
    if row.needs_base and base is None:
        raise ParameterError(
            f"writing {to} needs the base that the adapter is for", hint="name it with --base"
        )
    along, came = _along(source, row)
    row.write(adapter, target, decoder=decoder, **along)
    patterns = patterns_note(adapter, decoder) if to == "peft" else ""
    notes = (*adapter.reading.notes, *came, *[patterns] * bool(patterns))
    return ConvertReport(adapter=adapter, path=target, format=to, notes=notes)


def _require_inputs(exported: Exported) -> None:
    if exported.kind != "dynamic":
        raise UnsupportedError(
            f"{exported.folder} was exported without inputs for adapters",
            hint=f"name the base that it was made from: {exported.base_name}; or export that with "
            "--adapters dynamic",
        )


def _fitted(adapter: Adapter, base: Base) -> Decoder:
    """The base's decoder, as large as the adapter makes its vocabulary. Raises MismatchError."""
    larger = resized_decoder(base, [(adapter, 1.0)])
    require_fit(adapter, base if larger is base.decoder else larger)
    return larger


def _resized(adapter: Adapter, before: Decoder, after: Decoder, row: Format) -> tuple[str, ...]:
    """A note on a vocabulary that the adapter resizes; UnsupportedError where that is unsaid."""
    if before.vocabulary == after.vocabulary:
        return ()
    change = f"{before.vocabulary} to {after.vocabulary} tokens"
    if faults := row.cannot_express(adapter, after):
        raise UnsupportedError(
            f"{row.name} cannot say all of an adapter that resizes the vocabulary from {change}",
            items=[str(fault) for fault in faults[:SHOWN]],
            hint="lorakit merge BASE -a ADAPTER -o OUT makes a base of that size with the adapter "
            "in it, which lorakit export writes in other formats",
        )
    return (f"it resizes the vocabulary from {change}; readers have to resize the base, too",)


def _along(source: Path, row: Format) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What a writer of folders is given of the adapter's tokenizer and templates, and a note."""
    files = text_files(source.expanduser()) if row.folder else ()
    if not files:
        return {}, ()
    names = ", ".join(name for name, _ in files)
    return {"along": files}, (f"the adapter's own came along: {names}",)


def _require_canonical(adapter: Adapter, source: Path) -> None:
    """Nothing is written for others in names that only a wrapped model has."""
    names = [*adapter.modules, *(r.name.rpartition(".")[0] for r in adapter.replacements)]
    strange = sorted({name for name in names if not is_canonical(name)})
    if strange:
        raise UnsupportedError(
            f"{source}: its modules are not named as in a model of text",
            items=strange[:20],
            hint="name the base (--base), by which they are told apart",
        )
