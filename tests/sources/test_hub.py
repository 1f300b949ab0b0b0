"""The Hub's own client against a server on loopback that speaks its file protocol."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub
import pytest

import lorakit
from gguf_files import split
from lorakit import demo, read_adapter
from lorakit.base.folder import Base
from lorakit.base.gguf import open_base
from lorakit.errors import BaseModelError, SourceError
from lorakit.sources import Limits, fetch
from lorakit.sources.hub_client import allowed_seconds
from web import FAST, raw_serving

GGUF = Path(__file__).parents[1] / "data" / "truth" / "gguf" / "gemma3.base.f32.gguf"
HOME = demo.adapter_path("home")
COMMIT = "c" * 40
LIMITS = Limits(**{**FAST, "timeout": 2.0})


@pytest.fixture(autouse=True)
def client(web, tmp_path, monkeypatch):
    """The client, pointed at our server and at an empty cache; nobody is logged in."""
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    yield
    huggingface_hub.close_session()


def put_repository(web, files, repo="org/repo", revisions=("main",), commit=COMMIT):
    """A repository: its listing, and its files at every revision."""
    siblings = [{"rfilename": name, "size": len(body)} for name, body in files.items()]
    info = json.dumps({"id": repo, "modelId": repo, "sha": commit, "siblings": siblings}).encode()
    web.put(f"/api/models/{repo}", info, etag=None)
    for revision in (*revisions, commit):
        web.put(f"/api/models/{repo}/revision/{revision}", info, etag=None)
        for name, body in files.items():
            head = {"X-Repo-Commit": commit}
            web.put(f"/{repo}/resolve/{revision}/{name}", body, headers=head)


def files_of(folder, prefix=""):
    return {prefix + file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def refuse(web, status, code=None, path="/api/models/org/repo"):
    headers = {"X-Error-Code": code} if code else {}
    web.put(path, b"{}", statuses=[status], headers=headers, etag=None)


def get(reference="hf:org/repo", **options):
    return fetch(reference, limits=LIMITS, **options)


def code_of(reference="hf:org/repo", **options):
    with pytest.raises(SourceError) as caught:
        get(reference, **options)
    return caught.value.code


def test_an_adapter(web, capfd):
    put_repository(web, {**files_of(HOME), "README.md": b"#", "optimizer.pt": b"big"})
    told = []
    path = get(progress=told.append)
    assert read_adapter(path).digest == read_adapter(HOME).digest
    assert sorted(file.name for file in path.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert told[-1].file == "adapter_model.safetensors"
    assert told[-1].done == told[-1].total
    assert capfd.readouterr() == ("", "")


FETCH = """
import sys
from lorakit.sources import fetch
fetch("hf:org/repo")
"""
BEFORE = {
    "alone": "",
    "beside a program that has the client already": "import huggingface_hub.constants\n",
    "where telemetry is on": "import os; os.environ['HF_HUB_DISABLE_TELEMETRY'] = '0'\n",
}
NOT_SWITCHED_OFF = "import lorakit.sources.hub as h, huggingface_hub as c; h.client = lambda: c\n"
BROKEN = {
    "a file that is not needed": "import os, urllib.request as u\n"
    "u.urlopen(os.environ['HF_ENDPOINT'] + '/org/repo/resolve/main/README.md').read()\n",
}
if tuple(int(part) for part in huggingface_hub.__version__.split(".")[:2]) >= (1, 20):
    BROKEN["the client as it is, which asks which program runs it"] = NOT_SWITCHED_OFF


def all_requests(web, tmp_path, before):
    """What a process of its own asks the Hub for: the client reads its settings at import."""
    put_repository(web, {**files_of(HOME), "README.md": b"#"})
    env = {**os.environ, "HF_ENDPOINT": web.url, "HF_HOME": str(tmp_path / "home")}
    for name in ("HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        env.pop(name, None)
    subprocess.run([sys.executable, "-c", before + FETCH], env=env, check=True)
    return {path: len(heads) for path, heads in web.asked.items() if heads}


@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
def test_nothing_is_asked_for_but_the_listing_and_the_files(web, tmp_path, before):
    folder = "/org/repo/resolve/main"
    assert all_requests(web, tmp_path, before) == {
        "/api/models/org/repo": 1,
        f"{folder}/adapter_config.json": 2,  # HEAD and GET
        f"{folder}/adapter_model.safetensors": 2,
    }


@pytest.mark.parametrize("before", BROKEN.values(), ids=BROKEN)
def test_a_request_that_nobody_asked_for_would_be_seen(web, tmp_path, before):
    assert len(all_requests(web, tmp_path, before)) == 4


def dripping(what):
    """A Hub that sends everything at once but `what`, which it never ends."""
    name = "lora/home.gguf"
    siblings = [{"rfilename": name, "size": 1000}]
    listing = {"id": "org/repo", "modelId": "org/repo", "sha": COMMIT, "siblings": siblings}
    whole = {"listing": json.dumps(listing).encode(), "file": b"GGUF" * 250}

    def script(head):
        kind = "listing" if b" /api/" in head else "file"
        fields = f'Content-Length: {len(whole[kind])}\r\nX-Repo-Commit: {COMMIT}\r\nETag: "1"'
        yield f"HTTP/1.1 200 OK\r\n{fields}\r\nConnection: close\r\n\r\n".encode()
        if head.startswith(b"HEAD"):
            return
        while kind == what:
            yield b" "
            time.sleep(0.02)
        yield whole[kind]

    return script


@pytest.mark.parametrize("what", ["listing", "file"])
def test_a_hub_that_drips_for_ever_is_left(cache, monkeypatch, what):
    """The client itself waits for as long as anything comes."""
    with raw_serving(dripping(what)) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        with pytest.raises(SourceError, match="not done after") as caught:
            fetch("hf:org/repo/lora/home.gguf", limits=Limits(timeout=2.0, deadline=0.6))
    assert caught.value.code == "source_unreachable"


def test_the_least_rate_bounds_a_file_by_its_size():
    seconds = []
    for size in (0, 1000, 10**9):
        limits = Limits(timeout=1.0, rate_time=2.0, min_rate=1000.0, deadline=50.0)
        seconds.append(allowed_seconds(limits, size))
    assert seconds == [3.0, 4.0, 50.0]


def test_an_adapters_tokenizer_and_template_come_with_it(web):
    own = {"tokenizer.json": b"{}", "chat_template.jinja": b"{{ messages }}"}
    put_repository(web, {**files_of(HOME), **own, "optimizer.pt": b"big"})
    path = get()
    assert {name: (path / name).read_bytes() for name in own} == own
    assert not (path / "optimizer.pt").exists()


def test_a_revision_and_a_subfolder(web):
    put_repository(web, files_of(HOME, "adapters/home/"), revisions=("main", "v1"))
    assert read_adapter(get("hf:org/repo@v1/adapters/home")).max_rank
    with pytest.raises(SourceError, match="has no adapter_config") as caught:
        get()
    assert caught.value.items == ("it holds adapters/home",)


def test_one_file(web):
    put_repository(web, {"lora/home.gguf": b"GGUF"})
    assert get("hf:org/repo/lora/home.gguf").read_bytes() == b"GGUF"
    assert code_of("hf:org/repo/lora/away.gguf") == "source_not_found"


def test_a_base(web):
    put_repository(web, files_of(demo.base_path()))
    assert Base.open(get(kind="base")).decoder.hidden == 128


def test_a_base_that_sees_comes_with_its_processors(web):
    names = ("preprocessor_config.json", "processor_config.json")
    put_repository(web, files_of(demo.base_path()) | dict.fromkeys(names, b"{}"))
    path = get(kind="base")
    assert all((path / name).read_bytes() == b"{}" for name in names)
    assert get(kind="base", offline=True) == path


def test_a_base_that_is_one_gguf_file(web):
    put_repository(web, {"q8/model.gguf": GGUF.read_bytes(), "README.md": b"#"})
    assert open_base(get("hf:org/repo/q8/model.gguf", kind="base")).decoder.hidden == 64
    with pytest.raises(SourceError, match=r"config\.json") as caught:
        get(kind="base")
    assert caught.value.items == ("it holds q8/model.gguf",)


def test_a_base_in_several_gguf_files(web, tmp_path):
    split(GGUF, tmp_path / "model", 3)
    files = files_of(tmp_path, "q8/")
    put_repository(web, files)
    first = "hf:org/repo/q8/model-00001-of-00003.gguf"
    base = open_base(get(first, kind="base"))
    assert [path.name for path in base.files] == [
        name.removeprefix("q8/") for name in sorted(files)
    ]
    assert base.fingerprint != open_base(GGUF).fingerprint
    with pytest.raises(SourceError) as caught:
        get(kind="base")
    assert caught.value.items == ("it holds q8/model-00001-of-00003.gguf",)
    assert open_base(get(first, kind="base", offline=True)).fingerprint == base.fingerprint


def test_a_part_that_is_missing_or_not_the_first_costs_no_download(web, tmp_path):
    split(GGUF, tmp_path / "model", 3)
    files = files_of(tmp_path)
    del files["model-00002-of-00003.gguf"]
    put_repository(web, files)
    with pytest.raises(SourceError, match="has no model-00002-of-00003"):
        get("hf:org/repo/model-00001-of-00003.gguf", kind="base")
    with pytest.raises(SourceError, match=r"part 3 of 3(.|\n)*00001-of-00003"):
        get("hf:org/repo/model-00003-of-00003.gguf", kind="base")
    assert not any(asked for path, asked in web.asked.items() if "resolve" in path)


def test_parts_of_two_commits_are_not_taken_for_one_model(web, tmp_path):
    split(GGUF, tmp_path / "model", 2)
    put_repository(web, files_of(tmp_path))
    web.pages["/org/repo/resolve/main/model-00002-of-00002.gguf"].headers["X-Repo-Commit"] = (
        "d" * 40
    )
    with pytest.raises(SourceError, match="changed while it was fetched"):
        get("hf:org/repo/model-00001-of-00002.gguf", kind="base")


def test_the_cap_is_checked_before_anything_is_fetched(web):
    put_repository(web, files_of(HOME))
    with pytest.raises(SourceError) as caught:
        fetch("hf:org/repo", limits=Limits(max_bytes=2000))
    assert caught.value.code == "source_too_large"
    assert not web.asked["/org/repo/resolve/main/adapter_model.safetensors"]


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (404, "RepoNotFound", "source_not_found"),
        (
            401,
            "RepoNotFound",
            "source_not_found",
        ),  # private ones too
        (401, "GatedRepo", "source_denied"),
        (403, "GatedRepo", "source_denied"),
        (403, None, "source_denied"),
        (500, None, "source_unreachable"),
    ],
)
def test_what_the_hub_refuses(web, status, code, expected):
    refuse(web, status, code)
    assert code_of() == expected


def test_a_revision_that_is_not_there(web):
    put_repository(web, files_of(HOME))
    refuse(web, 404, "RevisionNotFound", "/api/models/org/repo/revision/v9")
    with pytest.raises(SourceError, match="no revision 'v9'"):
        get("hf:org/repo@v9")


def test_a_listing_that_is_open_and_files_that_are_not(web):
    put_repository(web, files_of(HOME))
    for name in files_of(HOME):
        refuse(web, 403, "GatedRepo", f"/org/repo/resolve/main/{name}")
    assert code_of() == "source_denied"


def test_nobody_there(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert code_of() == "source_unreachable"


def test_offline_opens_no_socket(web, request):
    put_repository(web, files_of(HOME), revisions=("main", "v1"))
    put_repository(web, {"lora/home.gguf": b"GGUF"}, repo="org/one")
    references = ("hf:org/repo", "hf:org/repo@v1", "hf:org/one/lora/home.gguf")
    paths = [get(reference) for reference in references]
    request.getfixturevalue("no_network")
    assert [get(reference, offline=True) for reference in references] == paths
    for missing in ("hf:org/other", "hf:org/repo@v2", "hf:org/repo/sub", "hf:org/one/b.gguf"):
        assert code_of(missing, offline=True) == "offline"


def test_a_new_commit_is_fetched(web):
    put_repository(web, files_of(HOME))
    old = get()
    put_repository(web, files_of(demo.adapter_path("style")), commit="d" * 40)
    new = get()
    assert read_adapter(new).digest != read_adapter(old).digest


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    place = tmp_path_factory.mktemp("exports") / "home"
    lorakit.export(
        demo.base_path(), place, adapter=HOME, mode="merged", quantize=["none", "q8"],
        prove_it=False,
    )  # fmt: skip
    return place


def below(folder):
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_an_export_comes_with_its_graphs(web, export):
    put_repository(web, {**below(export), "onnx/other.onnx": b"large"})
    path = get(kind="base")
    assert Base.open(path).exported.graphs == Base.open(export).exported.graphs
    assert not (path / "onnx/other.onnx").exists()
    with lorakit.open(path, quantize="int8", threads=1) as model:
        assert model.complete("turn on", max_tokens=2).tokens
    assert get(kind="base", offline=True) == path
    record = {**json.loads((export / "lorakit.json").read_text())}
    for name in ("../secret.onnx", "onnx/../x.onnx", "model.onnx", 3):
        record["forms"] = {"none": {"file": name}}
        files = {**below(export), "lorakit.json": json.dumps(record).encode()}
        put_repository(web, files, commit="d" * 40)
        with pytest.raises(BaseModelError, match=r"lorakit\.json"):
            get(kind="base")


def test_an_export_in_two_states_is_not_taken(web, export):
    files = below(export)
    put_repository(web, files)
    head = {"X-Repo-Commit": "d" * 40}
    name = "onnx/model.onnx_data"
    web.put(f"/org/repo/resolve/main/{name}", files[name], headers=head)
    assert code_of(kind="base") == "source_unreachable"


def test_somebody_elses_export_is_named_for_what_it_is(web, export):
    files = {name: body for name, body in below(export).items() if name != "lorakit.json"}
    put_repository(web, {**files, "README.md": b"---\nbase_model: org/base\n---\n"})
    with pytest.raises(SourceError, match="exported model") as caught:
        get(kind="base")
    assert caught.value.code == "source_unsupported"
    assert caught.value.hint.endswith("hf:org/base")
    assert not list(Path(os.environ["LORAKIT_CACHE"]).rglob("*.onnx"))
