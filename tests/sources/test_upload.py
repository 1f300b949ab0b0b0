"""Uploads by the Hub's own client, to a Hub on loopback: one commit, or nothing that others see."""

import _thread
import hashlib
import os
import traceback
from contextlib import nullcontext
from dataclasses import replace

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import are_progress_bars_disabled

from fake_hub import READER, TOKEN
from lorakit.errors import FormatError, LorakitError, ParameterError, SourceError
from lorakit.sources import Limits, fetch, upload
from lorakit.sources.sending import Content
from lorakit.sources.upload import RemoteFile, look, require_card, require_place, require_token

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's
SECRET = "X-Amz-Signature"
A, B = (bytes([n]) * 100_000 + os.urandom(16) for n in (1, 2))
FILES = {"README.md": b"---\nlicense: mit\n---\n", "a.gguf": A, "b.gguf": B}
HASTY = Limits(timeout=0.2, rate_time=0.2, min_rate=1e9)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """The client waits up to 23 seconds between its tries."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)


def send(to="hf:org/repo", files=FILES, *, removed=(), state=None, limits=HASTY, **options):
    place = require_place(to)
    state = state or look(place, TOKEN, Limits(timeout=5.0))
    contents = {name: Content.of(each) for name, each in files.items()}
    given = {"private": True, "message": "said", "token": TOKEN, "limits": limits, **options}
    return upload.upload(place, state, contents, removed, **given)


def failing(**options):
    with pytest.raises(SourceError) as caught:
        send(**options)
    return caught.value


@pytest.fixture(autouse=True)
def bars():
    """The client's own, which the libraries of other tests switch off for the whole process."""
    huggingface_hub.utils.enable_progress_bars()


def published(hub, repo="org/repo", branch="main"):
    files = hub.repositories[repo].files(branch)
    return {name: body for name, body in files.items() if name != ".gitattributes"}


@pytest.mark.parametrize("part", [None, 30_000], ids=["whole", "in parts"])
def test_a_new_repository_has_all_of_it_in_one_commit(hub, part):
    hub.part = part
    done = send()
    repository = hub.repositories["org/repo"]
    assert published(hub) == FILES
    assert repository.private
    assert repository.titles == ["initial commit", "said"]
    assert repository.branches["main"] == done.commit
    assert done.nbytes == sum(map(len, FILES.values()))
    assert fetch("hf:org/repo/b.gguf").read_bytes() == B


def test_a_public_one_is_public(hub):
    send(private=False)
    assert not hub.repositories["org/repo"].private


def test_one_that_the_hub_makes_public_gets_nothing(hub, monkeypatch):
    """By an organisation's rule, say."""
    made = hub.put
    monkeypatch.setattr(hub, "put", lambda *args, **more: made(*args, **{**more, "private": False}))
    with pytest.raises(SourceError, match="made it public") as caught:
        send()
    assert caught.value.code == "source_denied"
    assert published(hub) == {}


def test_files_change_and_go(hub):
    hub.put(files={"a.gguf": b"old", "c.gguf": b"c", "d.json": b"{}"})
    send(removed=["c.gguf"])
    assert published(hub) == {**FILES, "d.json": b"{}"}


def test_progress_is_by_bytes(hub):
    told = []
    send(progress=told.append)
    for name, body in FILES.items():
        steps = [each.done for each in told if each.file == name]
        assert steps == sorted(steps)
        assert steps[-1] == len(body)
    assert len([each for each in told if each.file == "a.gguf"]) > 1
    assert {each.source for each in told} == {"hf:org/repo"}


# Broken off.


def test_what_breaks_off_changes_nothing_and_goes_on(hub, capfd):
    hub.put(files={"a.gguf": b"old"})
    hub.faults["blob"] = [None, 403]
    error = failing()
    assert error.code == "source_unreachable"
    assert "b.gguf" in error.message
    assert "not sent again" in error.hint
    assert published(hub) == {"a.gguf": b"old"}
    hub.sent.clear()
    done = send()
    assert hub.sent == [hashlib.sha256(B).hexdigest()]
    assert done.nbytes == len(B) + len(FILES["README.md"])
    assert capfd.readouterr() == ("", "")  # the client shows a bar for a blob that is there
    assert not are_progress_bars_disabled()
    assert published(hub) == FILES


def test_a_hub_that_forgets_would_be_seen(hub):
    hub.faults["blob"] = [None, 403]
    failing()
    hub.sent.clear()
    hub.blobs.clear()
    send()
    assert len(hub.sent) == 2


def test_a_connection_that_breaks_in_the_middle(hub):
    hub.faults["blob"] = ["cut"] * 6  # the client tries again, up to five times
    assert failing().code == "source_unreachable"
    assert published(hub) == {}
    hub.faults.clear()
    send()
    assert published(hub) == FILES


@pytest.mark.parametrize("route", ["preupload", "batch", "blob", "verify", "commit"])
def test_a_hub_that_falls_silent_is_left(hub, route):
    """The client itself waits for ever."""
    hub.put()
    hub.faults[route] = ["silent"]
    error = failing()
    assert error.code == "source_unreachable"
    assert "nothing moved" in error.message
    assert published(hub) == {}


def test_one_that_is_silent_from_the_beginning(hub):
    hub.faults["info"] = ["silent"]
    with pytest.raises(SourceError) as caught:
        look(require_place("hf:org/repo"), TOKEN, HASTY)
    assert caught.value.code == "source_unreachable"


class EnoughError(Exception):
    pass


@pytest.mark.parametrize("end", [EnoughError, KeyboardInterrupt])
def test_whoever_is_told_can_end_it(hub, end):
    def told(progress):
        if progress.file == "b.gguf":
            raise end

    with pytest.raises(end):
        send(progress=told)
    assert published(hub) == {}
    assert hub.count("commit") == 0


def test_ctrl_c(hub):
    hub.faults["blob"] = ["silent"]
    with pytest.raises(KeyboardInterrupt):
        send(progress=lambda progress: _thread.interrupt_main(), limits=Limits())
    assert published(hub) == {}
    assert hub.count("commit") == 0


# Somebody else.


def theirs(hub):
    hub.put(files={"theirs.json": b"{}"})


def test_a_commit_in_between_is_not_written_over(hub):
    hub.put()
    hub.faults["commit"] = [theirs]
    error = failing()
    assert error.code == "source_unreachable"
    assert "changed while" in error.message
    assert published(hub) == {"theirs.json": b"{}"}


def test_without_the_parent_it_would_be(hub):
    hub.put()
    state = replace(look(require_place("hf:org/repo"), TOKEN, HASTY), commit=None)
    hub.faults["commit"] = [theirs]
    send(state=state)
    assert len(published(hub)) == 4


def test_a_file_that_changes_meanwhile(hub, tmp_path):
    path = tmp_path / "a.gguf"
    path.write_bytes(A)
    content = Content.of(path)
    path.write_bytes(B)
    place = require_place("hf:org/repo")
    with pytest.raises(SourceError, match="changed while") as caught:
        upload.upload(
            place, look(place, TOKEN, HASTY), {"a.gguf": content}, (),
            private=True, message="m", token=TOKEN, limits=HASTY,
        )  # fmt: skip
    assert caught.value.code == "source_mismatch"
    assert hub.count("blob") == hub.count("commit") == 0


def test_a_gitignore_of_the_repository_drops_nothing(hub, monkeypatch):
    hub.put(files={".gitignore": b"a.gguf\nREADME.md\n"})
    send()
    assert published(hub).items() >= FILES.items()
    hub.put("org/other", {".gitignore": b"a.gguf\nREADME.md\n"})
    monkeypatch.setattr(upload, "NOTHING_IGNORED", None)
    send("hf:org/other")
    assert "a.gguf" not in published(hub, "org/other")


def test_the_clients_own_bars_would_be_seen(hub, capfd, monkeypatch):
    hub.put(files=FILES)
    monkeypatch.setattr(upload, "_quietly_over_http", nullcontext)
    send(files={"c.gguf": A})
    assert "LFS" in capfd.readouterr().err


def test_blobs_go_over_http(hub):
    seen = []
    before = constants.HF_HUB_DISABLE_XET
    send(progress=lambda _: seen.append(constants.HF_HUB_DISABLE_XET))
    assert set(seen) == {True}
    assert constants.HF_HUB_DISABLE_XET is before


# Places.


def test_a_branch_and_a_folder(hub):
    send("hf:org/repo", {"README.md": b"---\nlicense: mit\n---\n"})
    send("hf:org/repo@v2/sub", {"sub/a.gguf": A})
    assert set(published(hub)) == {"README.md"}
    assert set(published(hub, branch="v2")) == {"README.md", "sub/a.gguf"}
    assert fetch("hf:org/repo@v2/sub/a.gguf").read_bytes() == A


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("./here", "no repository"),
        ("https://huggingface.co/org/repo", "no repository"),
        ("hf:datasets/org/repo", "not of a model"),
        ("hf:spaces/org", "not of a model"),
        ("hf:repo", "whose it is"),
        (f"hf:org/repo@{'a' * 40}", "names a commit"),
        ("hf:org/re--po", "-- or .."),
        ("hf:org/-repo", "alphanumeric"),
        ("hf:org/repo.git", ".git"),
    ],
)
def test_what_is_no_place(reference, said):
    with pytest.raises(ParameterError, match=r"hf:|repositor") as caught:
        require_place(reference)
    assert said in str(caught.value)


# Tokens.


def test_no_token(hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(SourceError, match="no token") as caught:
        require_token()
    assert caught.value.code == "source_denied"
    assert "hf auth login" in caught.value.hint


@pytest.mark.parametrize("damaged", ["hf_ab c", "hf_\u20acuro", "hf_a\x07b"])
def test_a_damaged_token_is_not_shown(hub, monkeypatch, damaged):
    monkeypatch.setenv("HF_TOKEN", damaged)
    with pytest.raises(SourceError, match="damaged") as caught:
        require_token()
    assert damaged not in str(caught.value)


DENIED, AWAY = "source_denied", "source_unreachable"
FAULTS = {  # the route, what it answers, the code, what the message says
    "an unknown token": ("info", (401, "Invalid credentials"), DENIED, "take"),
    "nothing to see": ("info", 403, DENIED, "may not"),
    "a gated one": ("info", (403, "gated", "GatedRepo"), DENIED, "may not"),
    "an ill Hub": ("info", 500, AWAY, "500"),
    "another's name": ("create", (403, "no rights for org"), DENIED, "no rights for org"),
    "no right to write": ("preupload", (403, "no right"), DENIED, "no right"),
    "an ill Hub before blobs": ("batch", [500] * 6, AWAY, "500"),
    "an ill storage": ("blob", [503] * 6, AWAY, "a.gguf"),
    "a storage that forgets": ("verify", 404, AWAY, "a.gguf"),
    "a card that is no good": ("yaml", (400, [{"message": "no good"}]), DENIED, "metadata"),
    "too much": ("commit", (413, "too large"), DENIED, "too large"),
    "an ill Hub at the end": ("commit", 502, AWAY, "502"),
    "a full account": ("commit", (403, "storage limit reached"), DENIED, "storage limit reached"),
}  # fmt: skip


@pytest.mark.parametrize(("route", "answer", "code", "said"), FAULTS.values(), ids=FAULTS)
def test_what_the_hub_refuses(hub, route, answer, code, said):
    hub.faults[route] = answer if isinstance(answer, list) else [answer]
    error = failing()
    assert error.code == code
    assert said in error.message
    assert not any(map(published, [hub] * len(hub.repositories)))
    shown = "".join(traceback.format_exception(error))
    assert TOKEN not in shown
    assert SECRET not in str(error)


def test_the_client_logs_no_signatures(hub, caplog):
    hub.faults["blob"] = [503, 503]
    send()
    assert "503" in caplog.text
    assert SECRET not in caplog.text
    assert TOKEN not in caplog.text


def test_the_client_itself_shows_signatures(hub, caplog, monkeypatch):
    hub.faults["blob"] = [503] * 6
    assert SECRET in "".join(traceback.format_exception(failing()))
    caplog.clear()
    monkeypatch.setattr(upload, "_shorten", lambda record: True)
    hub.faults["blob"] = [503]
    send()
    assert SECRET in caplog.text


def test_a_token_that_may_only_read(hub):
    hub.put()
    assert failing(token=READER).code == "source_denied"
    assert hub.sent == []


# What is there.


def test_small_files_are_known_by_gits_names_of_them():
    known = {b"": "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391",
             b"hello\n": "ce013625030ba8dba906f756967f9e9ca394464a"}  # fmt: skip
    for body, blob in known.items():
        assert RemoteFile(size=len(body), blob=blob).holds(Content.of(body))
        assert not RemoteFile(size=len(body), blob="0" * 40).holds(Content.of(body))


def test_what_is_there_is_known(hub):
    hub.put(files=FILES)
    state = look(require_place("hf:org/repo"), TOKEN, HASTY)
    assert state.private
    for name, body in FILES.items():
        assert state.files[name].holds(Content.of(body))
        assert not state.files[name].holds(Content.of(body[::-1] + b"x"))


def test_the_hub_judges_a_card(hub):
    place = require_place("hf:org/repo")
    require_card("---\nlicense: mit\n---\n", place, TOKEN, HASTY)
    with pytest.raises(FormatError) as caught:
        require_card("---\nlicense: mine\n---\n", place, TOKEN, HASTY)
    assert "apache-2.0" in caught.value.items[0]
    hub.faults["yaml"] = [500]
    with pytest.raises(LorakitError) as caught:
        require_card("---\nlicense: mit\n---\n", place, TOKEN, HASTY)
    assert caught.value.code == "source_unreachable"
