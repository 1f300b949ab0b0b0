"""Repositories of the Hugging Face Hub, through its own client: its cache, tokens and transfers.

It asks for what a reference names, and for nothing else. The client's errors become SourceError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from lorakit.errors import LorakitError, SourceError
from lorakit.files.gguf_parts import first_part
from lorakit.sources.bundle import Get, Kind, collect, files_with
from lorakit.sources.card import CARD, where_it_runs
from lorakit.sources.download import not_cached
from lorakit.sources.hub_client import client, ending, endpoint, first_line
from lorakit.sources.limits import Limits, OnProgress, Progress
from lorakit.sources.reference import IN_FOLDER, ONE_FILE, Hub

LISTING = 1 << 20  # bytes that a listing of files may have


def fetch_hub(
    reference: Hub,
    kind: Kind,
    *,
    offline: bool,
    limits: Limits,
    max_bytes: int,
    progress: OnProgress | None = None,
) -> Path:
    """The folder or file of a repository, in the Hub's cache.

    Raises SourceError: source_not_found (no such repository, revision or file), source_denied
    (gated or private), source_unreachable, source_too_large, offline.
    """
    inside = PurePosixPath(reference.inside)
    with _hub_errors(reference, limits):
        if offline:
            get = partial(_cached, reference)
        else:
            sizes = _sizes(reference, limits)
            get = partial(_get, reference, sizes, _Budget(max_bytes), limits, progress)
        if inside.name.endswith(ONE_FILE):
            names = [str(inside.with_name(name)) for name in files_with(kind, inside.name)]
            for name in names if not offline else ():
                if name not in sizes:  # before the first one is fetched, which may take long
                    raise _no_file(reference, name)
            paths = [path for name in names if (path := get(name)) is not None]
            if len(paths) < len(names):
                raise not_cached(str(reference))
            _require_one_state(reference, (path.parent for path in paths))
            return paths[0]
        folder = inside.parent if inside.name.endswith(IN_FOLDER) else inside
        try:
            files = collect(kind, lambda name: get(str(folder / name)), str(reference))
        except SourceError as error:
            if offline and error.code == "source_not_found":
                raise not_cached(str(reference)) from error
            if not offline:
                if kind == "base" and (said := _export(reference, sizes, folder, get)):
                    raise said from error
                error.items = _choices(kind, sizes, folder)
            raise
        tops = (path.parents[name.count("/")] for name, path in files.items())
        _require_one_state(reference, tops)
        return next(iter(files.values())).parent


def _require_one_state(reference: Hub, folders: Iterable[Path]) -> None:
    """All files are of one commit, each of which has a folder in the cache."""
    if len(set(folders)) > 1:
        raise SourceError(
            f"{reference} changed while it was fetched",
            code="source_unreachable",
            hint="try again, or name a commit: @<commit>",
        )


class _Budget:
    """Bytes that may still be fetched."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.all = left

    def spend(self, size: int, source: str) -> None:
        self.left -= size
        if self.left < 0:
            raise SourceError(
                f"{source} is too large: more than {self.all} bytes",
                code="source_too_large",
                hint="Limits(max_bytes=...) allows more",
            )


def _sizes(reference: Hub, limits: Limits) -> Mapping[str, int]:
    """The files of a revision and their sizes, as the Hub says at this moment."""
    api = client().HfApi(endpoint=endpoint(), library_name="lorakit")
    with ending(str(reference), limits, LISTING):
        info = api.model_info(
            reference.repo, revision=reference.revision, files_metadata=True, timeout=limits.timeout
        )
    return {file.rfilename: file.size or 0 for file in info.siblings or ()}


def _get(
    reference: Hub,
    sizes: Mapping[str, int],
    budget: _Budget,
    limits: Limits,
    progress: OnProgress | None,
    name: str,
) -> Path | None:
    if name not in sizes:
        return None
    budget.spend(sizes[name], str(reference))
    with ending(str(reference), limits, sizes[name]):
        path = client().hf_hub_download(
            reference.repo,
            name,
            revision=reference.revision,
            endpoint=endpoint(),
            library_name="lorakit",
            etag_timeout=limits.timeout,
            tqdm_class=_bar(str(reference), name, progress),
        )
    return Path(path)


def _cached(reference: Hub, name: str) -> Path | None:
    """A file in the Hub's cache; no request is made."""
    path = client().try_to_load_from_cache(reference.repo, name, revision=reference.revision)
    return Path(path) if isinstance(path, str) else None


def _bar(source: str, file: str, progress: OnProgress | None) -> Any:
    """A progress bar for the client that shows nothing and tells the caller."""
    from huggingface_hub.utils.tqdm import tqdm

    class Told(tqdm):
        monitor_interval = 0  # no thread of tqdm's

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})  # type: ignore[no-untyped-call]
            self.n = options.get("initial") or 0
            self.total = options.get("total")
            self.update(0)

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            if progress is not None:
                total = int(self.total) if self.total else None
                progress(Progress(source=source, file=file, done=int(self.n), total=total))

    return Told


def _choices(kind: Kind, sizes: Mapping[str, int], folder: PurePosixPath) -> tuple[str, ...]:
    """What else in a repository could be meant: adapters or bases in subfolders, single files."""
    config, files = {
        "adapter": ("adapter_config.json", ONE_FILE),
        "base": ("config.json", (".gguf",)),
    }[kind]
    below = [PurePosixPath(name) for name in sorted(sizes)]
    found = [str(p.parent) for p in below if p.name == config and p.parent != folder]
    found += [str(p) for p in below if p.name.endswith(files) and first_part(p.name) == p.name]
    inside = [name for name in found if PurePosixPath(name).is_relative_to(folder)]
    return tuple(f"it holds {name}" for name in inside[:20])


def _export(
    reference: Hub, sizes: Mapping[str, int], folder: PurePosixPath, get: Get
) -> SourceError | None:
    """What to say of a repository of ONNX files; None where it holds none."""
    graphs = [name for name in map(PurePosixPath, sizes) if name.suffix == ".onnx"]
    if not any(name.is_relative_to(folder) for name in graphs):
        return None
    return SourceError(
        f"{reference} holds an exported model, in ONNX files that lorakit did not write",
        code="source_unsupported",
        hint=where_it_runs(get(str(folder / CARD))),
    )


def _no_file(reference: Hub, name: str) -> SourceError:
    return SourceError(f"{reference}: the repository has no {name}")


@contextmanager
def _hub_errors(reference: Hub, limits: Limits) -> Iterator[None]:
    """Turn what the client raises into SourceError."""
    try:
        yield
    except LorakitError:
        raise
    except Exception as error:  # its transport has errors of its own in each major version
        raise _mapped(reference, error) from error


def _mapped(reference: Hub, error: Exception) -> SourceError:
    from huggingface_hub import errors

    table: list[tuple[type[Exception], Callable[[], SourceError]]] = [
        (errors.GatedRepoError, lambda: _denied(reference)),
        (errors.RevisionNotFoundError, lambda: SourceError(
            f"{reference}: the repository has no revision {reference.revision!r}",
            hint="a branch, a tag or a commit",
        )),
        (errors.RepositoryNotFoundError, lambda: SourceError(
            f"{reference}: there is no such repository, or it is private",
            hint="check the name; `hf auth login` gives access to private ones",
        )),
        (errors.EntryNotFoundError, lambda: SourceError(f"{reference}: {first_line(error)}")),
        (errors.HFValidationError, lambda: SourceError(
            f"{reference} names no repository: {first_line(error)}",
            hint="hf:org/repo[@revision][/subfolder]",
        )),
    ]  # fmt: skip
    for kind, make in table:
        if isinstance(error, kind):
            return make()
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return _denied(reference)
    return SourceError(
        f"cannot fetch {reference}: {first_line(error)}",
        code="source_unreachable",
        hint="offline (LORAKIT_OFFLINE=1) uses what was fetched before",
    )


def _denied(reference: Hub) -> SourceError:
    return SourceError(
        f"{reference}: the Hub gives access only to those it knows",
        code="source_denied",
        hint="ask for access on the repository's page, then `hf auth login` or set HF_TOKEN",
    )
