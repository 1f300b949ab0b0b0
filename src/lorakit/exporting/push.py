"""push: a folder becomes a repository of the Hugging Face Hub, or the next commit of one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from lorakit.errors import ParameterError, SourceError
from lorakit.exporting.contents import Contents, contents, require_folder
from lorakit.exporting.published import Published, published
from lorakit.files.bounded import as_path
from lorakit.sources.hub_client import HOME, endpoint
from lorakit.sources.limits import Limits, OnProgress, is_offline
from lorakit.sources.reference import Hub
from lorakit.sources.sending import Content
from lorakit.sources.upload import (
    Remote,
    exists,
    look,
    require_card,
    require_place,
    require_token,
    upload,
)
from lorakit.values import shown, truth

OWN = ".gitattributes"  # the Hub's, in every repository
WEIGHTS = (".safetensors", ".gguf", ".onnx", ".onnx_data", ".onnx_adapter", ".npz", ".bin")
WORDS = ("private", "delete", "force", "dry_run")


@dataclass(frozen=True, slots=True, kw_only=True)
class PushResult:
    """What a push does, or did. Paths are those of the repository.

    to: the reference under which others find it. commit: its head, the new one where one was made;
    None: there is no such repository yet.
    kept: what is there and not in the folder. left: what is in the folder and is not published.
    nbytes: of what is added and changed; where it was pushed, those that were sent.
    """

    to: str
    url: str
    commit: str | None
    private: bool
    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    nbytes: int = 0
    notes: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether the repository has all of it already."""
        return not (self.added or self.changed or self.removed)

    def to_dict(self) -> Mapping[str, Any]:
        """Plain values, for JSON."""
        lists = ("added", "changed", "removed", "unchanged", "kept", "left", "notes")
        return {
            "to": self.to,
            "url": self.url,
            "commit": self.commit,
            "private": self.private,
            **{name: list(getattr(self, name)) for name in lists},
            "bytes": self.nbytes,
        }


OnPlan = Callable[[PushResult], None]


def push(
    folder: str | os.PathLike[str],
    to: str,
    *,
    private: bool = True,
    message: str | None = None,
    base_model: str | None = None,
    delete: bool = False,
    force: bool = False,
    dry_run: bool = False,
    limits: Limits | None = None,
    planned: OnPlan | None = None,
    progress: OnProgress | None = None,
) -> PushResult:
    """Publish an export, a trained adapter, another adapter's folder or a merged model on the Hub.

    One commit takes all of it, after its blobs were sent: where a push breaks off nothing changes,
    and the next one does not send again what is there. Files that are no part of it stay here.

    to: hf:org/repo[@branch][/subfolder]; what is not there is made. private: of a new repository;
    one that is there stays as it is. message: of the commit. base_model: org/repo of the base,
    where the folder knows it by a path only. delete: files that are there and not in the folder
    go. force: also where files are not what lorakit.json says, or look like holding a secret.
    dry_run: only say what would change.
    planned: called with that before anything is sent; what it raises ends it. progress: called from
    another thread for each piece that is sent; what it raises ends it too.
    Raises ParameterError, SourceError (source_denied: no token, or one that may not write;
    source_mismatch: files that changed after they were measured; source_unreachable; offline),
    FormatError (a card that the Hub does not take, paths of this machine in it, secrets).
    """
    asked = {"private": private, "delete": delete, "force": force, "dry_run": dry_run}
    for name, value in asked.items():
        if not truth(value):
            raise ParameterError(f"{name} must be True or False, found {shown(value)}")
    for name, text in (("message", message), ("base_model", base_model)):
        if text is not None and not (isinstance(text, str) and text.strip()):
            raise ParameterError(f"{name} must be a text or None, found {shown(text)}")
    place, limits = require_place(to), limits or Limits()
    if is_offline(None):
        raise SourceError(f"cannot push to {place}: offline mode is on", code="offline")
    require_folder(as_path(folder))
    token = require_token()
    state = look(place, token, limits)
    try:
        found = contents(as_path(folder))
        if found.changed and not force:
            raise _changed(found)
        ready = published(found, place, base_model, force=force)
    except OSError as error:
        said = error.strerror or error
        raise SourceError(f"cannot read {error.filename or folder}: {said}") from error
    require_card(ready.card, place, token, limits)
    new = state.commit is None
    removed = tuple(sorted(_others(place, state, ready))) if delete else ()
    files, plan = _compared(place, state, ready, removed)
    notes = _notes(place, state, plan, private)
    notes += tuple(f"published, and looks like a secret: {each}" for each in ready.secrets)
    notes += tuple(
        f"{base} is named as the base, and the Hub shows no such model"
        for base in ready.base_models
        if not exists(base, token, limits)
    )
    plan = replace(
        plan, left=found.left, notes=notes, private=private if new else bool(state.private)
    )
    if planned is not None:
        planned(plan)
    if dry_run or plan.empty:
        return plan
    done = upload(
        place,
        state,
        files,
        removed,
        private=private,
        message=message or f"Publish {found.folder.resolve().name} with lorakit",
        token=token,
        limits=limits,
        progress=progress,
    )
    return replace(plan, commit=done.commit, nbytes=done.nbytes)


def _changed(found: Contents) -> SourceError:
    return SourceError(
        f"{found.folder} is not what lorakit.json says: it changed after it was measured",
        code="source_mismatch",
        items=found.changed,
        hint="export or train again; force=True publishes it as it is, and its card says so",
    )


def _others(place: Hub, state: Remote, ready: Published) -> set[str]:
    """What the repository has in the place of the folder, and the folder has not."""
    ours = {_there(place, name) for name in ready.files}
    inside = f"{place.inside}/" if place.inside else ""
    return {name for name in state.files if name.startswith(inside)} - ours - {OWN}


def _there(place: Hub, name: str) -> str:
    return f"{place.inside}/{name}" if place.inside else name


def _compared(
    place: Hub, state: Remote, ready: Published, removed: tuple[str, ...]
) -> tuple[dict[str, Content], PushResult]:
    """The files to send, by their paths there, and what changes."""
    files = {_there(place, name): content for name, content in ready.files.items()}
    added = [name for name in files if name not in state.files]
    same = [n for n, content in files.items() if n in state.files and state.files[n].holds(content)]
    changed = [name for name in files if name not in added and name not in same]
    sent = {name: files[name] for name in (*added, *changed)}
    return sent, PushResult(
        to=str(place),
        url=_url(place),
        commit=state.commit,
        private=False,
        added=tuple(added),
        changed=tuple(changed),
        removed=removed,
        unchanged=tuple(same),
        kept=tuple(sorted(_others(place, state, ready) - {*removed})),
        nbytes=sum(content.size for content in sent.values()),
    )


def _notes(place: Hub, state: Remote, plan: PushResult, private: bool) -> tuple[str, ...]:
    found = []
    if state.private is False and private:
        found.append(f"{place.repo} is public already and stays so")
    if state.private and not private:
        found.append(f"{place.repo} is private already and stays so; its settings change that")
    weights = [name for name in plan.kept if name.endswith(WEIGHTS)]
    if weights:
        said = ", ".join(weights[:5]) + (f" and {len(weights) - 5} more" if weights[5:] else "")
        found.append(f"weights of an earlier upload stay there: {said}; delete=True removes them")
    return tuple(found)


def _url(place: Hub) -> str:
    revision = quote(place.revision or "main", safe="")
    deeper = f"/tree/{revision}" if place.revision or place.inside else ""
    inside = f"/{quote(place.inside)}" if place.inside else ""
    return f"{endpoint() or HOME}/{place.repo}{deeper}{inside}"
