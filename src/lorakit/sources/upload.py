"""Files into a repository of the Hugging Face Hub, through its own client, in one commit.

Blobs are sent first and the commit comes last: an upload that breaks off changes nothing that
others see, and the next one does not send a blob again that is there. They go over HTTP and not
through hf_xet, which tells nobody how far it is and is not stopped at once; the Hub takes both.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from lorakit.errors import FormatError, LorakitError, ParameterError, SourceError
from lorakit.sources.hub_client import (
    HOME,
    allowed_seconds,
    client,
    endpoint,
    first_line,
    without_addresses,
)
from lorakit.sources.limits import Limits, OnProgress
from lorakit.sources.reference import Hub, parse
from lorakit.sources.sending import AGAIN, Content, Pace, Told, teller

MAX_BUFFERED = 1 << 20  # bytes that are on their way when nothing seems to move
NOTHING_IGNORED = "\n"  # in place of a .gitignore of the repository, which would drop files unsaid
_COMMIT = re.compile(r"[0-9a-f]{40}")
REFUSED = (400, 402, 413, 422, 423)
_KINDS = ("datasets", "spaces", "kernels", "models")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file of a repository; a large one is known by its sha256, a small one by Git's blob."""

    size: int
    sha256: str | None = None
    blob: str | None = None

    def holds(self, content: Content) -> bool:
        if self.size != content.size:
            return False
        if self.sha256 is not None:
            return self.sha256 == content.sha256
        return self.blob is not None and self.blob == content.blob()


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """A repository as it is. commit: its head; None: there is no such repository yet.

    branch: whether there is the one that was named.
    """

    commit: str | None = None
    private: bool | None = None
    branch: bool = False
    files: Mapping[str, RemoteFile] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploaded:
    """A commit that was made. nbytes: that were sent for it."""

    commit: str
    nbytes: int


def require_place(reference: str) -> Hub:
    """The repository, branch and folder that a reference names. Raises ParameterError."""
    hint = "hf:org/repo[@branch][/subfolder]"
    parsed = parse(reference)
    if not isinstance(parsed, Hub):
        raise ParameterError(f"{reference!r:.120} is no repository of the Hub", hint=hint)
    owner, slash, _ = parsed.repo.partition("/")
    if owner in _KINDS:
        raise ParameterError(
            f"{parsed} is not of a model: lorakit writes to repositories of models", hint=hint
        )
    if not slash:
        raise ParameterError(f"{parsed} does not say whose it is", hint=hint)
    if parsed.revision is not None and _COMMIT.fullmatch(parsed.revision):
        raise ParameterError(f"{parsed} names a commit, which stays as it is", hint="name a branch")
    require_repository(parsed.repo)
    return parsed


def require_repository(name: str) -> None:
    """Raise ParameterError for what cannot be a repository's name, by the client's rules."""
    client()
    from huggingface_hub.errors import HFValidationError

    try:
        _utils().validate_repo_id(name)
    except HFValidationError as error:
        raise ParameterError(f"{name!r:.120} names no repository: {first_line(error)}") from error


def require_token() -> str:
    """The token that the Hub's client has: HF_TOKEN, else that of `hf auth login`.

    Raises SourceError (source_denied); no message ever shows it.
    """
    token: str | None = client().get_token()
    if not token:
        raise SourceError(
            "there is no token for the Hub",
            code="source_denied",
            hint="make one that may write at https://huggingface.co/settings/tokens, then "
            "`hf auth login`, or set HF_TOKEN",
        )
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise SourceError(
            "the token for the Hub is damaged: it holds what no token has",
            code="source_denied",
            hint="`hf auth login --force`, or set HF_TOKEN again",
        )
    return token


def look(place: Hub, token: str, limits: Limits) -> Remote:
    """What is there. Raises SourceError."""
    client()
    from huggingface_hub import errors

    api = _api(token)

    def ask(revision: str | None) -> Any:
        return api.model_info(
            place.repo, revision=revision, files_metadata=True, timeout=limits.timeout
        )

    with _hub_errors(place):
        try:
            try:
                info, branch = ask(place.revision), True
            except errors.RevisionNotFoundError:
                info, branch = ask(None), False
        except errors.GatedRepoError:
            raise
        except errors.RepositoryNotFoundError as error:
            if error.response.status_code != 404:
                raise
            return Remote()
    files = {each.rfilename: _remote_file(each) for each in info.siblings or ()}
    return Remote(commit=info.sha, private=bool(info.private), branch=branch, files=files)


def _remote_file(found: Any) -> RemoteFile:
    lfs = found.lfs
    return RemoteFile(
        size=found.size or 0, sha256=None if lfs is None else lfs.sha256, blob=found.blob_id
    )


def exists(repo: str, token: str, limits: Limits) -> bool:
    """Whether a token shows a repository of a model. Raises SourceError."""
    client()
    from huggingface_hub import errors

    with _hub_errors(Hub(repo=repo)):
        try:
            _api(token).model_info(repo, timeout=limits.timeout)
        except (errors.GatedRepoError, errors.DisabledRepoError):
            return True
        except errors.RepositoryNotFoundError:
            return False
    return True


def require_card(text: str, place: Hub, token: str, limits: Limits) -> None:
    """Let the Hub judge a card's front matter, before anything is sent.

    Raises FormatError with what it says, and SourceError.
    """
    utils = _utils()
    with _hub_errors(place):
        answer = utils.get_session().post(
            f"{endpoint() or HOME}/api/validate-yaml",
            json={"content": text, "repoType": "model"},
            headers=utils.build_hf_headers(token=token, library_name="lorakit"),
            timeout=limits.timeout,
        )
        if answer.status_code != 400:
            utils.hf_raise_for_status(answer)
            return
    found = answer.json().get("errors") or [{}]
    raise FormatError(
        "the Hub refuses the front matter of README.md",
        items=[str(each.get("message", "no reason given")) for each in found],
        hint="mend what stands between the lines of dashes at its top",
    )


def upload(
    place: Hub,
    state: Remote,
    files: Mapping[str, Content],
    removed: Sequence[str],
    *,
    private: bool,
    message: str,
    token: str,
    limits: Limits,
    progress: OnProgress | None = None,
) -> Uploaded:
    """Make one commit on top of `state`: files by their paths, and paths that go.

    A repository that is not there is made, private or not, and a branch too. progress: called from
    another thread; what it raises ends the upload, as Ctrl-C does, before the commit.
    Raises SourceError: source_denied, source_unreachable (also where another commit came between).
    """
    pace = Pace(str(place), allowed_seconds(limits, MAX_BUFFERED))
    told = teller(str(place), progress)

    def work() -> Uploaded:
        with ExitStack() as stack:
            opened = {
                name: stack.enter_context(Told(content, name, pace, told))
                for name, content in files.items()
            }
            return _commit(place, state, opened, removed, private, message, token, pace)

    with _quietly_over_http():
        try:
            with _hub_errors(place):
                return pace.run(work)
        except Exception as error:
            if pace.fault is not None:  # what `progress` raised, in whatever the client made of it
                raise pace.fault from error
            raise


def _commit(
    place: Hub,
    state: Remote,
    files: Mapping[str, Told],
    removed: Sequence[str],
    private: bool,
    message: str,
    token: str,
    pace: Pace,
) -> Uploaded:
    hub, api = client(), _api(token)
    if state.commit is None:
        api.create_repo(place.repo, private=private, exist_ok=True)
        if private and not api.model_info(place.repo).private:
            raise SourceError(
                f"{place.repo} was to be private, and the Hub made it public",
                code="source_denied",
                hint="make it private on its page and push again, or say --public",
            )
    if place.revision is not None and not state.branch:
        api.create_branch(place.repo, branch=place.revision, exist_ok=True)
    operations: list[Any] = []
    for name, file in files.items():
        pace.step()
        operation = hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=file)
        file.require_same(operation.upload_info.sha256.hex())
        api.preupload_lfs_files(  # one by one: of several, Ctrl-C would wait for each
            place.repo,
            [operation],
            revision=place.revision,
            free_memory=False,
            gitignore_content=NOTHING_IGNORED,
        )
        operations.append(operation)
    operations += [hub.CommitOperationDelete(path_in_repo=name) for name in removed]
    pace.step()
    made = api.create_commit(
        place.repo,
        operations,
        commit_message=message,
        revision=place.revision,
        parent_commit=state.commit,
    )
    return Uploaded(commit=made.oid, nbytes=sum(file.sent for file in files.values()))


def _api(token: str) -> Any:
    return client().HfApi(endpoint=endpoint(), library_name="lorakit", token=token)


def _utils() -> Any:
    client()
    return import_module("huggingface_hub.utils")


@contextmanager
def _quietly_over_http() -> Iterator[None]:
    """The client sends blobs itself, does not warn that it does, shows no bars and logs no
    addresses of storage, which are signed.

    Its bars are the process's: where the environment asks for them they stay.
    """
    utils: Any = _utils()
    constants: Any = import_module("huggingface_hub.constants")
    log = logging.getLogger("huggingface_hub.utils._http")
    before, shown = constants.HF_HUB_DISABLE_XET, not utils.are_progress_bars_disabled()
    silent = shown and constants.HF_HUB_DISABLE_PROGRESS_BARS is None
    constants.HF_HUB_DISABLE_XET = True
    log.addFilter(_shorten)
    if silent:
        utils.disable_progress_bars()
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_XET = before
        log.removeFilter(_shorten)
        if silent:
            utils.enable_progress_bars()


def _shorten(record: logging.LogRecord) -> bool:
    record.msg = without_addresses(str(record.msg))
    return True


# What went wrong.


@contextmanager
def _hub_errors(place: Hub) -> Iterator[None]:
    """Turn what the client raises into SourceError, without a token or an address of storage."""
    try:
        yield
    except LorakitError:
        raise
    except Exception as error:
        raise _mapped(place, error) from error


def _mapped(place: Hub, error: Exception) -> LorakitError:
    from huggingface_hub import errors

    if isinstance(error, OSError) and error.filename is not None:
        return SourceError(f"cannot read {error.filename}: {error.strerror}")
    status = getattr(getattr(error, "response", None), "status_code", None)
    said = _said(error)
    if isinstance(error, errors.RevisionNotFoundError):
        return SourceError(f"{place}: there is no branch {place.revision!r}: {said}")
    if status == 401:
        return SourceError(
            f"{place}: the Hub does not take this token: {said}",
            code="source_denied",
            hint="it may be wrong or have expired: `hf auth login --force`, or set HF_TOKEN",
        )
    if status in (403, 404):
        return SourceError(
            f"{place}: this token may not write there: {said}",
            code="source_denied",
            hint="check the name, and that the token may write to repositories of that owner: "
            "https://huggingface.co/settings/tokens",
        )
    if status in (409, 412):
        return SourceError(
            f"{place} changed while it was pushed to: {said}", code="source_unreachable", hint=AGAIN
        )
    if isinstance(error, ValueError) or status in REFUSED:
        return SourceError(f"{place}: the Hub refuses it: {said}", code="source_denied")
    if isinstance(error, RuntimeError) and isinstance(cause := error.__cause__, Exception):
        said = f"{said} {_said(cause)}"  # a blob: the client says which, the cause why
    return SourceError(
        f"cannot push to {place}: {said}",
        code="source_unreachable",
        hint="push again: what is there already is not sent again, and a commit that was made "
        "after all is found",
    )


def _said(error: Exception) -> str:
    """The Hub's own words where it sent some, with the status."""
    words = getattr(error, "server_message", None)
    if not words:
        return first_line(error)
    status = getattr(getattr(error, "response", None), "status_code", "")
    return f"{status} {first_line(Exception(words))}".strip()
