"""An exported model: what `lorakit export --to onnx` wrote, as its record describes it.

It is a base without weights: a config, a tokenizer, and graphs that are run as they are. Somebody
else's ONNX files have no record; they are told apart, with the base that their card names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from lorakit.errors import CapabilityError, FormatError, SourceError
from lorakit.sources.card import CARD, where_it_runs

Kind = Literal["merged", "apart", "dynamic", "composed"]
RECORD, FORMAT = "lorakit.json", "lorakit-export"
FOLDER, SUFFIX = "onnx", ".onnx"
DTYPES = {"fp32": "none"}  # transformers.js's name of a form, where it is not the form's own
HELD = {"fp16": ("fp16",), "int8": ("q8",), "int4": ("q4", "q4f16")}  # forms, by our `quantize`
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Exported:
    """What an export's record says. graphs: paths in the folder, by form. form: which one runs;
    named: whether its user said so.

    kind: what became of the adapters; names: of those. base_name, fingerprint: of the base that it
    was made from. digests: SHA-256 by path in the folder.
    """

    folder: Path
    kind: Kind
    graphs: Mapping[str, str]
    form: str
    names: tuple[str, ...]
    base_name: str
    fingerprint: str
    context: int
    digests: Mapping[str, str]
    named: bool = False

    @property
    def graph(self) -> Path:
        """The file that onnxruntime opens."""
        return self.folder / self.graphs[self.form]

    @property
    def quantize(self) -> str:
        """The form that runs, as the ONNX engine would call it."""
        return next((name for name, forms in HELD.items() if self.form in forms), "none")

    def in_form(self, quantize: str) -> Exported:
        """The same in the form that an engine's `quantize` names; "none" leaves it as it is.

        Raises CapabilityError where the export has no such form.
        """
        if quantize == "none" or self.form in HELD[quantize]:
            return self
        form = next((form for form in HELD[quantize] if form in self.graphs), None)
        if form is None:
            raise CapabilityError(
                f"{self.folder.name} is an exported model without weights in {quantize}",
                items=[f"it holds {path} ({name})" for name, path in self.graphs.items()],
                hint="leave quantize out, name one of its files, or export that form: "
                f"lorakit export BASE --to onnx --quantize {HELD[quantize][0]}",
            )
        return replace(self, form=form, named=True)

    @property
    def held(self) -> tuple[str, ...]:
        """Names of the adapters that are in it, to choose among."""
        return self.names if self.kind == "composed" else ()

    def note(self) -> str:
        """Which form runs, where there was a choice and nobody made it; else nothing."""
        if self.named or len(self.graphs) == 1:
            return ""
        others = ", ".join(path for form, path in self.graphs.items() if form != self.form)
        return (
            f"{self.graphs[self.form]} ({self.form}) runs, the export's default; it holds {others}"
        )


def is_export(path: Path) -> bool:
    """Whether a path is that of an export, or of a graph in one, as far as its files' names say."""
    folder = path.absolute().parent.parent if is_graph(path) else path
    return (folder / FOLDER).is_dir() and (folder / RECORD).is_file()


def is_graph(path: Path) -> bool:
    """Whether a path has the form of a graph in an export: FOLDER/onnx/*.onnx."""
    return path.suffix == SUFFIX and path.absolute().parent.name == FOLDER


def read_exported(
    folder: Path, record: Mapping[str, Any], config: Mapping[str, Any], file: str | None = None
) -> Exported:
    """What the record of an export says. file: the name of the graph that is to run.

    Raises FormatError with all that is wrong with it, SourceError where a graph is missing.
    """
    forms, names, digests = record.get("forms"), record.get("names"), record.get("files")
    faults = list(_faults(record))
    if faults or not isinstance(forms, dict) or not isinstance(digests, dict):
        raise FormatError(
            f"{folder / RECORD} does not describe an ONNX export", items=faults, hint="export again"
        )
    graphs = {form: said["file"] for form, said in forms.items()}
    missing = [path for path in graphs.values() if not (folder / path).exists()]
    if missing:
        raise SourceError(f"{folder} lacks graphs that its record names", items=missing[:20])
    page = config.get("transformers.js_config")
    dtype = page.get("dtype") if isinstance(page, dict) else None
    default = DTYPES.get(dtype, dtype) if isinstance(dtype, str) else ""
    chosen: str | None = next((f for f, p in graphs.items() if PurePosixPath(p).name == file), None)
    usual = default if default in graphs else next(iter(graphs))
    if file and chosen is None:
        raise SourceError(
            f"{file} is no graph of the export {folder}",
            items=[f"it holds {path}" for path in graphs.values()],
        )
    return Exported(
        folder=folder.absolute(),
        kind=record["adapters"],
        graphs=graphs,
        form=chosen or usual,
        named=chosen is not None,
        names=tuple(names or ()),
        base_name=record["base_name"],
        fingerprint=record["base"],
        context=record["context"],
        digests=digests,
    )


def _faults(record: Mapping[str, Any]) -> Iterator[str]:
    forms, names, digests = record.get("forms"), record.get("names"), record.get("files")
    if record.get("version") != 1:
        yield f"version is 1, found {record.get('version')!r:.40}"
    if record.get("adapters") not in get_args(Kind):
        yield f"adapters are {', '.join(get_args(Kind))}, found {record.get('adapters')!r:.40}"
    if not isinstance(base := record.get("base"), str) or not _HEX.fullmatch(base):
        yield "base is a fingerprint of 64 hex digits"
    if not isinstance(record.get("base_name"), str):
        yield "base_name is a text"
    context = record.get("context")
    if not isinstance(context, int) or isinstance(context, bool) or not 0 < context <= 1 << 24:
        yield "context is a number of tokens"
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        yield "names are a list of texts"
    elif len(set(names)) < len(names):
        yield "names are each another"
    if not isinstance(forms, dict) or not forms or not all(map(_is_form, forms.items())):
        yield f"forms are graphs in {FOLDER}/, by their names"
    if not isinstance(digests, dict) or not all(
        isinstance(d, str) and _HEX.fullmatch(d) for d in digests.values()
    ):
        yield "files are digests by path"
    elif isinstance(forms, dict) and all(map(_is_form, forms.items())):
        graphs = [said["file"] for said in forms.values()]
        unknown = {each for path in graphs for each in (path, f"{path}_data")} - digests.keys()
        yield from (f"{path} has no digest" for path in sorted(unknown))


def _is_form(item: tuple[str, Any]) -> bool:
    """Whether a graph is a plain file of the one folder that graphs are in."""
    file = item[1].get("file") if isinstance(item[1], dict) else None
    if not isinstance(file, str) or "\\" in file or ":" in file or not file.isprintable():
        return False
    path = PurePosixPath(file)
    return path.parts[:1] == (FOLDER,) and len(path.parts) == 2 and path.suffix == SUFFIX


def holds_graphs(folder: Path) -> bool:
    """Whether a folder holds ONNX files, where exports have them, and no pickled weights."""
    if next(folder.glob("*.bin"), None) is not None:
        return False
    return any(next(place.glob(f"*{SUFFIX}"), None) for place in (folder / FOLDER, folder))


def require_more_than_graphs(folder: Path) -> None:
    """Raise SourceError for a folder of ONNX files alone, which no config.json is beside."""
    described = any((folder / name).exists() for name in ("config.json", RECORD))
    if not described and holds_graphs(folder):
        raise foreign(folder)


def foreign(folder: Path) -> SourceError:
    """What to say of ONNX files that lorakit did not write."""
    return SourceError(
        f"{folder} holds an exported model, in ONNX files that lorakit did not write",
        code="source_unsupported",
        hint=where_it_runs(folder / CARD),
    )
