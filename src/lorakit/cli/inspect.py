"""lorakit inspect: what is in an adapter, alone and beside another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from lorakit.cli import heatmap
from lorakit.cli.inspecting import (
    metadata,
    reading_rows,
    say_row,
    show_modules,
    show_overlap,
    show_ranks,
    show_spectra,
    summary,
)
from lorakit.cli.output import console, patience, print_json, say, size
from lorakit.cli.outputs import OverwriteOption
from lorakit.cli.pictures import require_picture
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
    read_reference,
    with_weights,
)
from lorakit.cli.signature import option
from lorakit.drawing import Drawing
from lorakit.errors import ParameterError
from lorakit.formats import read_adapter
from lorakit.inspect.charts import plot_overlap, plot_ranks
from lorakit.inspect.grid import grid
from lorakit.inspect.overlap import overlap
from lorakit.inspect.plot import number_of, plot, unit_of, written_of
from lorakit.inspect.ranks import rank_curve
from lorakit.inspect.report import Report, inspect
from lorakit.sources import default_name
from lorakit.training.facts import read_facts

if TYPE_CHECKING:
    from lorakit.adapter import Adapter

SMALL = 256_000_000  # bytes; the values of a larger adapter are read only on demand


def command(
    adapter: AdapterArgument,
    modules: Annotated[
        bool, option("--modules", help="Also a table: a row for each module.")
    ] = False,
    values: Annotated[
        bool | None,
        option(
            "--values/--structure",
            help="Read the values too, for norms and digest; or names and shapes alone. "
            "[default: values up to 256 MB]",
        ),
    ] = None,
    spectrum: Annotated[
        bool, option("--spectrum", help="Also a table of singular values; reads the values.")
    ] = False,
    ranks: Annotated[
        bool, option("--ranks", help="In place of it: what `resize` would keep at each rank.")
    ] = False,
    other: Annotated[
        str | None,
        option(
            "--overlap",
            metavar="OTHER",
            help="In place of it: how much another adapter has to do with this one, before "
            "`combine`.",
        ),
    ] = None,
    picture: Annotated[
        Path | None,
        option("--plot", metavar="FILE.svg", help="Draw what is shown: .svg, or .png."),
    ] = None,
    overwrite: OverwriteOption = False,
    base: Annotated[
        str | None,
        option(
            "--base",
            "-b",
            help="The base: for strengths relative to its weights and for what other formats can "
            "say; some GGUF files need it.",
        ),
    ] = None,
    name: NameOption = None,
    alpha: AlphaOption = None,
    mlx_version: MlxVersionOption = None,
    allow_pickle: PickleOption = False,
    allow_private: PrivateOption = False,
    json: JsonOption = False,
) -> None:
    """Show what is in an adapter: format, ranks, scales and sizes, and its strength by layer."""
    if values is False and (spectrum or picture or ranks or other):
        raise ParameterError(
            "--structure reads no values, which --spectrum, --plot, --ranks and --overlap need"
        )
    alone = [word for word, given in (("--ranks", ranks), ("--overlap", other)) if given]
    tables = [word for word, given in (("--modules", modules), ("--spectrum", spectrum)) if given]
    if len([*alone, *tables]) > 1 and alone:
        raise ParameterError(
            f"{' and '.join([*alone, *tables])} show different things", hint="ask for one of them"
        )
    if picture is not None:
        require_picture(picture, overwrite=overwrite)
    model = open_base(base, allow_private=allow_private) if base else None
    decoder = None if model is None else model.decoder
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
    if ranks:
        view = _of_ranks(read, path.name)
    elif other is not None:
        beside = read_reference(
            other, decoder, allow_pickle=allow_pickle, allow_private=allow_private
        )
        view = _of_both(read, beside, f"{path.name} and {default_name(other)}")
    else:
        wanted = read.nbytes <= SMALL if values is None else values
        spectra = spectrum or picture is not None
        held = with_weights(model) if model is not None and (wanted or spectra) else None
        with patience("reading the weights of the base ..."):
            report = inspect(read, values=wanted, spectrum=spectra, decoder=decoder, base=held)
        view = _of_one(report, read, path, modules=modules, spectrum=spectrum)
    if picture is not None:
        view.draw().save(picture, overwrite=overwrite)
    if json:
        print_json(view.said)
        return
    view.show()
    if picture is not None:
        say(f"wrote {picture}")


@dataclass(frozen=True, slots=True)
class _View:
    """What is shown: for programs, for people, and as a picture."""

    said: dict[str, Any]
    show: Callable[[], None]
    draw: Callable[[], Drawing]


def _of_ranks(adapter: Adapter, title: str) -> _View:
    curve = rank_curve(adapter)
    return _View(curve.to_dict(), lambda: show_ranks(curve), lambda: plot_ranks(curve, title=title))


def _of_both(first: Adapter, second: Adapter, title: str) -> _View:
    found = overlap(first, second)
    return _View(
        found.to_dict(), lambda: show_overlap(found), lambda: plot_overlap(found, title=title)
    )


def _of_one(
    report: Report, adapter: Adapter, path: Path, *, modules: bool, spectrum: bool
) -> _View:
    files, facts = _files(path.expanduser()), read_facts(path.expanduser())

    def show() -> None:
        rows = summary(report) | {"files": ", ".join(f"{f} {size(n)}" for f, n in files.items())}
        for key, value in (rows | _trained(facts) | reading_rows(adapter.reading)).items():
            say_row(key, str(value))
        if (heat := grid(report.modules, number_of(report))) is not None:
            say()
            heatmap.show(heat, console(), unit_of(report), written_of(report))
        if described := metadata(report):
            say()
            say_row("metadata", described)
        if modules:
            say()
            show_modules(report.modules)
        if spectrum:
            say()
            show_spectra(report.modules)

    said = {"files": files, "trained": facts, "reading": asdict(adapter.reading)}
    return _View(report.to_dict() | said, show, lambda: plot(report, title=path.name))


def _trained(facts: Mapping[str, Any] | None) -> dict[str, str]:
    """What a training run of lorakit's says of it, in a line; all of it is in --json."""
    sentences = facts.get("verdict") if facts else None
    said = sentences[0] if isinstance(sentences, list) and sentences else None
    return {"trained": said} if isinstance(said, str) else {}


def _files(path: Path) -> dict[str, int]:
    """The adapter's files with their bytes."""
    files = sorted(path.glob("adapter*")) if path.is_dir() else [path]
    return {file.name: file.stat().st_size for file in files if file.is_file()}
