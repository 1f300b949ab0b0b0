"""The one rule for what a command writes: nothing is overwritten, unless --overwrite says so.

A file then takes the place of a file, and a folder that of one of the same kind, in which nothing
else lies. What was there stays until the new one is whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from lorakit.cli.signature import option
from lorakit.errors import ParameterError, WriteError
from lorakit.files.atomic import replacing

OverwriteOption = Annotated[bool, option("--overwrite", help="Replace what is there.")]
Kind = Literal["file", "adapter", "model", "demo", "site"]
HINT = "name another, or give --overwrite"
SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class _Folder:
    """A kind of folder. mark: what each has. suffixes, folders: of all that may be in it."""

    mark: str
    suffixes: frozenset[str] = frozenset()
    folders: frozenset[str] = frozenset()


_TEXTS = frozenset({".json", ".jinja", ".md", ".txt", ".model", ".safetensors", ".jsonl"})
KINDS = {
    "adapter": _Folder(mark="adapter_config.json", suffixes=_TEXTS | {".bin", ".svg", ".csv"}),
    "model": _Folder(mark="config.json", suffixes=_TEXTS),
    "demo": _Folder(
        mark="evaluation/tools.json",
        suffixes=_TEXTS,
        folders=frozenset({"base", "adapters", "evaluation", "training"}),
    ),
    "site": _Folder(
        mark="site.json",
        suffixes=_TEXTS | {".html", ".js", ".mjs", ".css", ".svg", ".ico", ".png", ".webmanifest"},
        folders=frozenset({"lib", "models", "adapters"}),
    ),
}


@contextmanager
def written(
    output: Path, kind: Kind, *, overwrite: bool, inputs: Sequence[str | Path | None] = ()
) -> Iterator[Path]:
    """Where to write: `output`, or what takes its place once the block succeeds.

    inputs: references that are read, which an output may not replace. Raises ParameterError and
    WriteError.
    """
    require_free(output, kind, overwrite=overwrite, inputs=inputs)
    if not (overwrite and _taken(output)):
        yield output
        return
    try:
        with replacing(output.resolve()) as place:  # through a link, not in its place
            yield place
    except OSError as error:
        raise WriteError(f"cannot write {output}: {error.strerror or error}") from error


def require_free(
    output: Path, kind: Kind, *, overwrite: bool, inputs: Sequence[str | Path | None] = ()
) -> None:
    """Raise ParameterError where `output` may not be written; asked before anything slow."""
    try:
        if not _taken(output):
            return
        if not overwrite:
            raise ParameterError(f"{output} exists", hint=HINT)
        if any(each is not None and _same(output, Path(each)) for each in inputs):
            raise ParameterError(
                f"{output} is what is read, and is not replaced", hint="name another"
            )
        _require_kind(output, kind)
    except OSError as error:  # a name that is too long, a folder of somebody else's
        raise WriteError(f"cannot write {output}: {error.strerror or error}") from error


def require_folder(output: Path) -> None:
    """Raise ParameterError where there is no folder to write a file into."""
    if not output.parent.is_dir():
        raise ParameterError(f"there is no folder {output.parent} to write {output.name} into")


def _taken(path: Path) -> bool:
    """Whether something is there; an empty folder is nothing."""
    if path.is_dir():
        return any(path.iterdir())
    return path.exists() or path.is_symlink()


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other.expanduser())
    except (OSError, ValueError, RuntimeError):  # a URL, or a path that is no path
        return False


def _require_kind(output: Path, kind: Kind) -> None:
    if kind == "file" or not output.is_dir():
        if output.is_dir() or kind not in ("file", "adapter"):
            was, wanted = ("folder", "file") if output.is_dir() else ("file", "folder")
            raise ParameterError(
                f"{output} is a {was}, and a {wanted} does not replace it", hint="name another"
            )
        return
    folder = KINDS[kind]
    others = sorted(
        path.name
        for path in output.iterdir()
        if (path.name not in folder.folders if path.is_dir() else not _belongs(path, folder))
    )
    if others or not (output / folder.mark).is_file():
        raise ParameterError(
            f"{output} holds something else than what this command writes, and is not replaced",
            items=others[:SHOWN],
            hint="name another",
        )


def _belongs(path: Path, folder: _Folder) -> bool:
    return path.suffix.lower() in folder.suffixes or path.name == "LICENSE"
