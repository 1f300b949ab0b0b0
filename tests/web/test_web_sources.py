"""Adapters come into a page from an address, the Hub, files and folders; whole, checked, or with an
error that has a code. The server is one of loopback that fails as a test says.
"""

import hashlib
import shutil

import pytest

from folders import DATA, link
from lorakit.formats import read_adapter
from lorakit.formats.web import write_web
from web import serving

PEFT, MLX = DATA / "truth/peft/llama/plain", DATA / "truth/mlx/llama/lora"
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def server():
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("web") / "home.safetensors"
    write_web(read_adapter(PEFT), path)
    return path


def sha256(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run(node, *steps, **options):
    web = {"web": options.pop("web")} if "web" in options else {}
    found = node.run("sources.mjs", {"steps": list(steps), **options}, **web)
    return found["answers"], found["cached"]


def one(node, path, **step):
    (answer,), _ = run(node, {"path": str(path), **step})
    return answer


def test_folders_and_files_of_an_address_are_fetched(plain_node, server, file):
    peft, mlx = server.put_folder("/a/peft", PEFT), server.put_folder("/a/mlx", MLX)
    single = server.put("/b/home.safetensors", file.read_bytes())
    given = [peft, f"{peft}/", f"{peft}/{WEIGHTS}", mlx, single, f"{single}?token=secret"]
    answers, _ = run(plain_node, *({"path": path} for path in given))
    assert [(a["name"], a["rank"]) for a in answers] == [
        ("peft", 8), ("peft", 8), ("peft", 8), ("mlx", 8), ("home", 8), ("home", 8),
    ]  # fmt: skip
    assert [a["files"] for a in answers[2:5]] == [
        ["adapter_config.json", WEIGHTS], ["adapter_config.json", "adapters.safetensors"],
        ["home.safetensors"],
    ]  # fmt: skip
    assert "/a/mlx/adapter_model.safetensors" not in server.asked  # an error in every console
    events = answers[4]["events"]
    size = file.stat().st_size
    assert events[0] == {"file": "home.safetensors", "loaded": 0, "total": size}
    assert events[-1]["loaded"] == size


def test_the_hub_and_a_mirror_of_it(plain_node, server, file):
    hub = {"endpoint": f"{server.url}/mirror/"}
    server.put_folder("/mirror/org/repo/resolve/main", PEFT)
    server.put_folder("/mirror/org/repo/resolve/refs%2Fpr%2F1/deep/home", PEFT)
    server.put("/mirror/org/repo/resolve/v1/home.safetensors", file.read_bytes())
    given = ["hf:org/repo", "hf:org/repo@refs/pr/1/deep/home", "hf:org/repo@v1/home.safetensors"]
    answers, _ = run(plain_node, *({"path": path, "options": hub} for path in given))
    assert [(a.get("name"), a.get("rank"), a.get("code")) for a in answers] == [
        ("repo", 8, None), ("home", 8, None), ("home", 8, None),
    ]  # fmt: skip
    (missing,), _ = run(plain_node, {"path": "hf:org/nothing", "options": hub})
    assert missing["code"] == "source_not_found"


@pytest.mark.parametrize(
    ("page", "code"),
    [
        ({"statuses": [404]}, "source_not_found"),
        ({"statuses": [410]}, "source_not_found"),
        ({"statuses": [401]}, "source_denied"),
        ({"statuses": [403]}, "source_denied"),
        ({"statuses": [500]}, "source_unreachable"),
        ({"statuses": [429]}, "source_unreachable"),
        ({"cut": [5000]}, "source_unreachable"),
        ({"cut": [5000], "chunked": True}, "source_unreachable"),
        ({"announce": 10**9, "cut": [5000]}, "source_unreachable"),
        ({"announce": 3 << 30}, "source_too_large"),
        ({"headers": {"Content-Type": "text/html"}}, "source_not_found"),
    ],
)
@pytest.mark.parametrize("form", ["file", "folder"])
def test_what_a_server_answers_has_a_code(plain_node, server, file, page, code, form):
    if form == "file":
        path = server.put("/home.safetensors", file.read_bytes(), **page)
    else:
        path = server.put_folder("/home", PEFT)
        server.put(f"/home/{WEIGHTS}", (PEFT / WEIGHTS).read_bytes(), **page)
    found = one(plain_node, path)
    assert found["code"] == code, found
    assert server.url in found["message"]
    assert found["hint"]


def test_no_server_and_no_folder(plain_node, server, tmp_path):
    answers, _ = run(
        plain_node,
        {"path": "http://127.0.0.1:9/a"},
        {"path": f"{server.url}/a"},
        {"path": str(tmp_path / "absent")},
        {"path": str(tmp_path)},
    )
    assert [a["code"] for a in answers] == [
        "source_unreachable", "source_not_found", "source_not_found", "source_not_found",
    ]  # fmt: skip


@pytest.mark.parametrize("chunked", [False, True])
def test_sizes_are_bounded_before_and_while_bytes_come(plain_node, server, file, chunked):
    path = server.put("/home.safetensors", file.read_bytes(), chunked=chunked)
    size = file.stat().st_size
    assert one(plain_node, path, options={"maxBytes": size})["rank"] == 8
    assert one(plain_node, path, options={"maxBytes": size - 1})["code"] == "source_too_large"
    folder = server.put_folder("/home", PEFT)
    both = sum((PEFT / name).stat().st_size for name in ("adapter_config.json", WEIGHTS))
    assert one(plain_node, folder, options={"maxBytes": both})["rank"] == 8
    assert one(plain_node, folder, options={"maxBytes": both - 1})["code"] == "source_too_large"
    assert one(plain_node, PEFT, options={"maxBytes": both - 1})["code"] == "source_too_large"


def test_a_digest_is_checked_and_spares_the_request(plain_node, server, file, tmp_path):
    path, digest = server.put("/home.safetensors", file.read_bytes()), sha256(file)
    step = {"path": path, "options": {"digest": f"sha256:{digest}"}}
    wrong = {"path": path, "options": {"digest": "0" * 64}}
    answers, cached = run(plain_node, wrong, step, step, {"path": f"{path}#sha256={digest}"})
    assert [a.get("code") for a in answers] == ["source_mismatch", None, None, None]
    assert len(server.asked["/home.safetensors"]) == 2  # the wrong one's, and the first
    assert [f["digest"] for f in cached["files"]] == [digest]
    assert (cached["bytes"], cached["where"]) == (file.stat().st_size, "the memory of this process")
    folder = server.put_folder("/home", PEFT)
    pinned = {"path": folder, "options": {"digest": sha256(PEFT / WEIGHTS)}}
    answers, _ = run(plain_node, pinned, pinned)
    assert [a["rank"] for a in answers] == [8, 8]
    assert len(server.asked[f"/home/{WEIGHTS}"]) == 1
    for path in (file, PEFT):
        right = sha256(file if path == file else PEFT / WEIGHTS)
        assert one(plain_node, path, options={"digest": right})["rank"] == 8
        assert one(plain_node, path, options={"digest": "0" * 64})["code"] == "source_mismatch"
    both = tmp_path / "both"  # which of them is read, the config says, not the digest
    shutil.copytree(PEFT, both)
    shutil.copy(both / WEIGHTS, both / "adapters.safetensors")
    pinned = {"digest": sha256(PEFT / WEIGHTS)}
    assert one(plain_node, both, options=pinned)["code"] == "source_mismatch"
    assert one(plain_node, file, options={"digest": "home"})["code"] == "parameter_invalid"


@pytest.mark.parametrize("api", [False, True])
def test_offline_the_last_copy_is_used_and_said(plain_node, server, file, api):
    path = server.put("/home.safetensors", file.read_bytes())
    step, away = {"path": path}, {"path": path, "offline": True}
    pinned = {**away, "options": {"digest": "0" * 64}}
    none = {**away, "options": {"cache": False}}
    answers, cached = run(
        plain_node, away, step, away, pinned, none, {"action": "clear"}, away, cacheApi=api
    )
    codes = [a.get("code") for a in answers]
    unreachable = "source_unreachable"
    assert codes == [unreachable, None, None, unreachable, unreachable, unreachable]
    assert answers[1]["warnings"] == []
    assert [w["code"] for w in answers[2]["warnings"]] == ["offline"]
    assert cached["files"] == []
    assert ("Cache API" in cached["where"]) is api


def tampered(node, server, file, **options):
    """What a fetch without a connection gives, after the cached copy was changed."""
    path = server.put("/home.safetensors", file.read_bytes())
    digest = {"digest": sha256(file)}
    away = {"path": path, "offline": True, "options": digest, "read": False}
    answers, _ = run(
        node, {"path": path}, away, {"action": "damage"}, away, cacheApi=True, **options
    )
    assert [a.get("code") for a in answers[:2]] == [None, None]
    return answers[2].get("code")


def test_a_damaged_copy_is_not_used(plain_node, server, file):
    assert tampered(plain_node, server, file) == "source_unreachable"


def test_a_short_body_that_the_runtime_lets_pass_is_seen(plain_node, server, file):
    path = server.put("/home.safetensors", file.read_bytes())
    assert one(plain_node, path, short=5000)["code"] == "source_unreachable"


def test_it_ends_when_it_is_told_to(plain_node, server, file):
    path = server.put("/home.safetensors", file.read_bytes() + bytes(1 << 20))
    answers, _ = run(
        plain_node, {"path": path, "abortAt": 1}, {"path": path, "aborted": True},
        {"path": path, "raiseAt": 1},
    )  # fmt: skip
    assert [a.get("code") for a in answers[:2]] == ["cancelled", "cancelled"]
    assert answers[2]["error"] == "RangeError"


def test_files_that_a_user_chose(plain_node, file):
    folder = [
        {"name": p.name, "relative": f"home/{p.name}", "at": str(p)} for p in sorted(PEFT.iterdir())
    ]
    bare = [{"name": p.name, "at": str(p)} for p in sorted(MLX.iterdir()) if p.is_file()]
    named = [{**f, "relative": f["relative"].replace("home/", "run/home/")} for f in folder]
    steps = [folder, bare, [{"name": file.name, "at": str(file)}], named, folder[1:2]]
    answers, _ = run(plain_node, *({"files": files} for files in steps))
    assert [(a.get("name"), a.get("rank"), a.get("code")) for a in answers] == [
        ("home", 8, None), ("adapter", 8, None), ("home", 8, None),
        (None, None, "format_unsupported"), (None, None, "format_unsupported"),
    ]  # fmt: skip
    assert answers[3]["items"] == ["home"]
    (odd,), _ = run(plain_node, {"files": bare, "options": {"source": "url"}})
    assert odd["code"] == "parameter_invalid"


def test_a_hub_cache_of_links_is_read_and_other_links_are_not(plain_node, tmp_path):
    blobs, snapshot = tmp_path / "repo/blobs", tmp_path / "repo/snapshots/abc"
    for folder in (blobs, snapshot, tmp_path / "out"):
        folder.mkdir(parents=True)
    for name in ("adapter_config.json", WEIGHTS):
        (blobs / f"hash-{name}").write_bytes((PEFT / name).read_bytes())
        link(snapshot / name, blobs / f"hash-{name}")
        link(tmp_path / "out" / name, PEFT / name)
    assert one(plain_node, snapshot)["rank"] == 8
    assert one(plain_node, tmp_path / "out")["code"] == "format_invalid"


REFERENCES = [
    ("ftp://a/b", "auto", "parameter_invalid"),
    ("http://example.org/a", "auto", "parameter_invalid"),
    ("https://user:s3cret@example.org/a", "auto", "parameter_invalid"),
    ("https://example.org/a#part", "auto", "parameter_invalid"),
    (f"https://example.org/a/#sha256={'0' * 64}", "auto", "parameter_invalid"),
    ("hf:../x", "auto", "parameter_invalid"),
    ("hf:a/b@", "auto", "parameter_invalid"),
    ("hf:a/b@main/../c", "auto", "parameter_invalid"),
    ("", "auto", "parameter_invalid"),
    (5, "auto", "parameter_invalid"),
    ("a", "disk", "parameter_invalid"),
    ("adapters/home", "file", "parameter_invalid"),
    ("adapters/home/", "auto", "https://page.example/app/adapters/home/"),
    ("/adapters/home.safetensors", "url", "https://page.example/adapters/"),
    ("http://127.0.0.1:80/a", "auto", "http://127.0.0.1/a/"),
    ("http://[::1]/a", "auto", "http://[::1]/a/"),
    ("hf:org/repo@v1/x", "auto", "https://huggingface.co/org/repo/resolve/v1/x/"),
    ("org/repo", "huggingface", "https://huggingface.co/org/repo/resolve/main/"),
]


@pytest.mark.parametrize(("path", "source", "expected"), REFERENCES)
def test_what_a_reference_names_in_a_page(plain_node, path, source, expected):
    step = {"parse": [path, source]}
    (found,), _ = run(plain_node, step, base="https://page.example/app/index.html")
    assert found.get("code", found.get("folder")) == expected
    assert "s3cret" not in found.get("message", "")


@pytest.mark.parametrize(
    ("name", "text", "replacement"),
    [
        ("cache.js", "if ((await sha256(found.content)) === digest)", "if (true)"),
        ("sources.js", "if (pinned && digest !== pinned)", "if (false)"),
        ("sources.js", "if (total !== null && content.length < total)", "if (false)"),
        ("sources.js", "if (loaded > most)", "if (false)"),
        ("sources.js", "if (total !== null && total > context.most)", "if (false)"),
        ("sources.js", "cache && !pinned ? await lastDigest(url)", "cache ? await lastDigest(url)"),
    ],
)
def test_a_broken_variant_is_seen(plain_node, broken_web, server, file, name, text, replacement):
    web = broken_web({name: (text, replacement)})
    path = server.put("/a.safetensors", file.read_bytes())
    long = server.put("/b.safetensors", file.read_bytes(), chunked=True)
    huge = server.put("/c.safetensors", file.read_bytes(), announce=3 << 30)
    wrong = {"options": {"digest": "0" * 64}}
    steps = [
        {"path": path}, {"path": path, **wrong}, {"path": path, **wrong, "offline": True},
        {"path": long, "options": {"maxBytes": 9999}}, {"path": huge},
        {"path": long, "short": 5000},
    ]  # fmt: skip
    large = "source_too_large"
    right = ["", "source_mismatch", "source_unreachable", large, large, "source_unreachable"]
    good, _ = run(plain_node, *steps)
    assert [a.get("code", "") for a in good] == right
    found, _ = run(plain_node, *steps, web=web)
    codes = [a.get("code", "") for a in found]
    assert codes != right or tampered(plain_node, server, file, web=web) != "source_unreachable"
