"""lorakit inspect: what is in an adapter."""

from __future__ import annotations

import json as json_
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from lorakit.cli.heatmap import show
from lorakit.cli.output import console, print_json, print_table, say, size
from lorakit.cli.references import (
    AdapterArgument,
    AlphaOption,
    JsonOption,
    MlxVersionOption,
    NameOption,
    PickleOption,
    PrivateOption,
    fetched,
    open_base,
)
from lorakit.cli.signature import option
from lorakit.errors import ParameterError, WriteError
from lorakit.files.atomic import write_atomic
from lorakit.formats import read_adapter
from lorakit.inspect.plot import grid, plot
from lorakit.inspect.report import ModuleReport, Report, inspect
from lorakit.training.facts import read_facts

if TYPE_CHECKING:
    from lorakit.adapter import Reading

SMALL = 256_000_000  # bytes; the values of a larger adapter are read only on demand
METADATA = 400  # characters of it that are shown


def command(
    adapter: AdapterArgument,
    values: Annotated[
        bool | None,
        option(
            "--values/--structure",
            help="Read the values too, for norms and digest; or names and shapes alone. "
            "[default: values up to 256 MB]",
        ),
    ] = None,
    spectrum: Annotated[
        bool, option("--spectrum", help="Singular values of every delta; reads the values.")
    ] = False,
    picture: Annotated[
        Path | None,
        option(
            "--plot", metavar="FILE.png", help="Draw norms and singular values into a PNG file."
        ),
    ] = None,
    base: Annotated[
        str | None,
        option(
            "--base",
            "-b",
            help="The base: some GGUF files need it, and it decides what other formats can say.",
        ),
    ] = None,
    name: NameOption = None,
    alpha: AlphaOption = None,
    mlx_version: MlxVersionOption = None,
    allow_pickle: PickleOption = False,
    allow_private: PrivateOption = False,
    json: JsonOption = False,
) -> None:
    """Show format, ranks, effective scales, modules, sizes, norms and spectra of an adapter."""
    if values is False and (spectrum or picture):
        raise ParameterError("--structure reads no values, --spectrum and --plot need them")
    if picture is not None and picture.suffix.lower() != ".png":
        raise ParameterError(f"--plot writes PNG: name a .png file, not {picture.name}")
    decoder = open_base(base, allow_private=allow_private).decoder if base else None
    path = fetched(adapter, allow_private=allow_private)
    read = read_adapter(
        path,
        decoder,
        allow_pickle=allow_pickle,
        alpha=alpha,
        mlx_version=mlx_version,
        name=name,
        partial=True,
    )
    spectrum = spectrum or picture is not None
    wanted = read.nbytes <= SMALL if values is None else values
    report = inspect(read, values=wanted, spectrum=spectrum, decoder=decoder)
    if picture is not None:
        _write(picture, plot(report, title=path.name))
    files, facts = _files(path.expanduser()), read_facts(path.expanduser())
    if json:
        said = {"files": files, "trained": facts, "reading": asdict(read.reading)}
        print_json(report.to_dict() | said)
        return
    rows = _summary(report) | {"files": ", ".join(f"{f} {size(n)}" for f, n in files.items())}
    rows |= _trained(facts) | _read(read.reading)
    for name, value in rows.items():
        say((f"{name:<12}", "bold"), str(value))
    _show_modules(report.modules)
    if spectrum:
        say()
        _show_spectra(report.modules)
    if (heat := grid(report.modules)) is not None:
        say()
        show(heat, console())
    if picture is not None:
        say(f"wrote {picture}")


def _read(reading: Reading) -> dict[str, str]:
    """What reading it found: names that were changed, what its config promises and it lacks."""
    names = [
        f"{before or '(nothing)'} -> {after or '(nothing)'}" for before, after in reading.renamed
    ]
    rows = {"renamed": ", ".join(names), "incomplete": "; ".join(reading.missing)}
    rows["notes"] = "; ".join(reading.notes)
    return {name: text for name, text in rows.items() if text}


def _trained(facts: Mapping[str, Any] | None) -> dict[str, str]:
    """What a training run of lorakit's says of it, in a line; all of it is in --json."""
    sentences = facts.get("verdict") if facts else None
    said = sentences[0] if isinstance(sentences, list) and sentences else None
    return {"trained": said} if isinstance(said, str) else {}


def _files(path: Path) -> dict[str, int]:
    """The adapter's files with their bytes."""
    files = sorted(path.glob("adapter*")) if path.is_dir() else [path]
    return {file.name: file.stat().st_size for file in files if file.is_file()}


def _write(path: Path, content: bytes) -> None:
    try:
        write_atomic(path, content)
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from error


def _summary(report: Report) -> dict[str, Any]:
    rows = {
        "format": report.format,
        "base": report.base,
        "features": ", ".join(report.features),
        "modules": len(report.modules),
        "ranks": _counts(report.ranks),
        "scales": _counts(report.scales),
        "parameters": f"{report.parameters:,}",
        "stored as": ", ".join(f"{name} ({n:,})" for name, n in report.dtypes.items()),
        "size": size(report.nbytes),
        "replaced": ", ".join(report.replacements),
        "magnitudes": report.magnitudes or None,
        "invocation": ", ".join(map(str, report.invocation_tokens)),
        "norm": "not read (--values reads it)" if report.norm is None else f"{report.norm:.4g}",
        "digest": report.digest,
        "metadata": _metadata(report),
        **{f"as {name}": _express(faults) for name, faults in report.expressible.items()},
    }
    return {name: value for name, value in rows.items() if value not in (None, "")}


def _express(faults: tuple[str, ...]) -> str:
    """ "exactly", or each reason once with how many parts it concerns."""
    reasons = Counter(fault.partition(": ")[2] or fault for fault in faults)
    said = [f"{reason} ({n} parts)" if n > 1 else reason for reason, n in reasons.items()]
    return f"no: {'; '.join(said)}" if said else "exactly"


def _metadata(report: Report) -> str:
    """What the file says beside its tensors, in one line; all of it is in --json."""
    said = _said({k: v for k, v in report.to_dict()["metadata"].items() if k != "format"})
    text = json_.dumps(said, ensure_ascii=False) if said else ""
    return text if len(text) <= METADATA else f"{text[:METADATA]}... (all of it: --json)"


def _said(value: Any) -> Any:
    """Without the keys that say nothing: null, false and what is empty."""
    if not isinstance(value, dict):
        return value
    kept = {key: _said(item) for key, item in value.items()}
    return {key: item for key, item in kept.items() if item or type(item) in (int, float)}


def _counts(counts: Mapping[Any, int]) -> str:
    return ", ".join(f"{value:g} in {count} modules" for value, count in counts.items())


def _show_modules(modules: tuple[ModuleReport, ...]) -> None:
    rows = [
        (
            _name(m), m.site, str(m.rank), str(m.in_features), str(m.out_features), f"{m.scale:g}",
            "" if m.norm is None else f"{m.norm:.4g}",
        )
        for m in modules
    ]  # fmt: skip
    titles = ("module", "site", "rank", "in", "out", "scale", "norm")
    print_table(titles, rows, left=("module", "site"))


def _show_spectra(modules: tuple[ModuleReport, ...]) -> None:
    """Of experts the largest and least of all, the mean of the ranks, and the most for 99%."""
    rows = []
    for m in modules:
        found = m.spectra or ()
        values = [value for each in found for value in each.values] or [0.0]
        effective = sum(each.effective_rank for each in found) / max(len(found), 1)
        stable = sum(each.stable_rank for each in found) / max(len(found), 1)
        needed = str(max((each.rank99 for each in found), default=0))
        rows.append(
            (
                _name(m), f"{max(values):.3g}", f"{min(values):.3g}", f"{effective:.3g}",
                f"{stable:.3g}", needed,
            )
        )  # fmt: skip
    titles = ("singular values of", "largest", "least", "effective", "stable", "for 99%")
    print_table(titles, rows, left=titles[:1])


def _name(module: ModuleReport) -> str:
    return module.module + ("" if module.experts is None else f" ({module.experts} experts)")
