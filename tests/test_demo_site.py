"""The example app's server and files, without a browser: what is served, and what never is."""

import gzip
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

from lorakit import demo
from lorakit.cli import demo as command
from lorakit.demo import site
from lorakit.demo.own import ADAPTER, WEIGHTS, own
from lorakit.demo.serving import SiteServer
from lorakit.errors import MissingExtraError, ParameterError
from lorakit.files.cache import digest_of

PAGE = demo.folder() / "browser"


@pytest.fixture
def server(tmp_path):
    (tmp_path / "secret").write_text("of the machine")
    file = tmp_path / "site/app.js"
    file.parent.mkdir()
    file.write_text("run();")
    with SiteServer({"index.html": b"<p>", "app.js": file, "sub/a b.json": b"{}"}, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server, path, method="GET"):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    with closing(connection):
        connection.request(method, path)
        response = connection.getresponse()
        return response, response.read()


@pytest.mark.parametrize(
    ("path", "content", "kind"),
    [
        ("/", b"<p>", "text/html; charset=utf-8"),
        ("/app.js?v=1", b"run();", "text/javascript; charset=utf-8"),
        ("/sub/a%20b.json", b"{}", "application/json"),
    ],
)
def test_what_is_in_the_table_is_served(server, path, content, kind):
    response, found = ask(server, path)
    assert (response.status, found) == (200, content)
    assert response.headers["Content-Type"] == kind
    assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert response.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    head, nothing = ask(server, path, "HEAD")
    assert (head.headers["Content-Length"], nothing) == (str(len(content)), b"")


@pytest.mark.parametrize(
    "path", ["/secret", "/../secret", "/%2e%2e/secret", "/sub/", "/sub", "/app.js/"]
)
def test_nothing_else_is(server, path):
    response, content = ask(server, path)
    assert (response.status, content) == (404, b"not found\n")


def raw(server, line):
    """The status of a request whose address no client would send."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as connection:
        connection.sendall(f"GET {line} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        return int(connection.recv(100).split()[1])


@pytest.mark.parametrize("line", ["http://[x/", "http://[::1"])
def test_an_address_that_is_none_is_a_bad_request(server, line, capfd):
    assert raw(server, line) == 400
    assert capfd.readouterr() == ("", "")


def test_a_file_that_is_gone_is_not_found(server, tmp_path, capfd):
    (tmp_path / "site/app.js").unlink()
    assert ask(server, "/app.js")[0].status == 404
    (tmp_path / "site/app.js").mkdir()
    assert ask(server, "/app.js")[0].status == 404
    assert ask(server, "/")[0].status == 200
    assert capfd.readouterr() == ("", "")


def test_a_file_that_became_shorter_ends_the_connection(server, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("lorakit.demo.serving.os.fstat", lambda _: os.stat_result([9] * 10))
    with pytest.raises(http.client.IncompleteRead):
        ask(server, "/app.js")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_it_only_reads(server, method):
    assert ask(server, "/app.js", method)[0].status == 501


def test_a_port_that_is_taken_is_an_error_that_says_what_to_do(server):
    with pytest.raises(ParameterError, match="cannot be used") as caught:
        SiteServer({}, server.server_port)
    assert "--port 0" in caught.value.hint


def test_without_what_it_runs_on_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(site, "VENDORED", ("absent.js",))
    with pytest.raises(MissingExtraError, match=r"transformers\.js") as caught:
        site.site(tmp_path)
    assert "make demo-browser" in caught.value.hint
    assert not list(tmp_path.iterdir())  # before anything was exported


def test_every_module_of_the_page_is_there_and_used():
    text = {path.name: path.read_text("utf-8") for path in PAGE.iterdir()}
    wanted = {"index.html", "offline.js"}  # the page, and what app.js registers
    for name, content in text.items():
        found = re.findall(r"""(?:from|src=|href=|import) ?["']\.?/?([\w.-]+\.\w+)["']""", content)
        wanted |= set(found)
        assert name.endswith(".svg") or "innerHTML" not in content
    assert wanted == set(text)


def test_the_ids_that_the_modules_ask_for_are_in_the_page():
    page = (PAGE / "index.html").read_text("utf-8")
    ids = set(re.findall(r'\bid="([\w-]+)"', page))
    modules = "".join(path.read_text("utf-8") for path in PAGE.glob("*.js"))
    assert set(re.findall(r"byId\('([\w-]+)'\)", modules)) <= ids


@pytest.mark.parametrize(
    "words",
    [
        {"output": Path("x")},
        {"serve": [Path("x")]},
        {"train": True, "browser": True},
        {"export": Path("x"), "browser": True},
        {"export": Path("x"), "train": True},
    ],
)
def test_options_that_contradict_each_other(words):
    with pytest.raises(ParameterError) as caught:
        command.command(**words)
    assert caught.value.hint
    assert not Path("x").exists()


def folders(place):
    """An export of lorakit's, one that is not, and two adapters; as far as a page asks."""
    for name in ("mine", "hub"):
        (place / name / "onnx").mkdir(parents=True)
        (place / name / "config.json").write_text("{}")
        (place / name / "onnx/model_q4.onnx").write_bytes(b"four")
        (place / name / "notes.txt").write_text("not for a page")
    forms = {"q8": {"bytes": 7}, "none": {"bytes": 9}}
    (place / "mine/lorakit.json").write_text(json.dumps({"forms": forms}))
    for name in ("home", "mine"):
        shutil.copytree(demo.adapter_path("home"), place / "adapters" / name)
    return place


def test_folders_of_the_users_are_listed_and_served(tmp_path):
    place = folders(tmp_path)
    found = own([place, place / "adapters"], taken=["home", "shop"])
    mine, hub = sorted(found.models, key=lambda model: model["id"], reverse=True)
    assert (mine["path"], mine["forms"], mine["bytes"]) == ("own/models/mine/", ["fp32", "q8"], 7)
    assert ("forms" in hub, hub["bytes"]) == (False, 4)
    assert [adapter["name"] for adapter in found.adapters] == ["home-2", "mine"]
    assert found.adapters[0]["digest"] == digest_of(demo.adapter_path("home") / WEIGHTS[0])
    assert sorted(found.files) == sorted(
        [
            *(f"own/models/{name}/config.json" for name in ("mine", "hub")),
            *(f"own/models/{name}/onnx/model_q4.onnx" for name in ("mine", "hub")),
            "own/models/mine/lorakit.json",
            *(
                f"own/adapters/{n}/{file}"
                for n in ("home-2", "mine")
                for file in (ADAPTER, WEIGHTS[0])
            ),
        ]
    )
    assert [model["id"] for model in own([place / "mine"]).models] == ["own-mine"]


@pytest.mark.parametrize("name", ["absent", "empty", "mine/config.json"])
def test_a_folder_with_nothing_for_a_page_is_refused(tmp_path, name):
    (folders(tmp_path) / "empty").mkdir()
    with pytest.raises(ParameterError, match="no export and no adapter"):
        own([tmp_path / name])


@pytest.fixture
def placed():
    if not (demo.folder().parent / "web/vendor/transformers.min.js").is_file():
        pytest.skip("transformers.js is not placed (make demo-browser)")


@pytest.mark.usefixtures("placed")
def test_a_site_is_a_folder_with_all_that_it_names(tmp_path):
    table = site.site(tmp_path / "models")
    site.write(table, tmp_path / "out")
    told = json.loads((tmp_path / "out/site.json").read_text("utf-8"))
    assert {"index.html", "lib/lorakit.js", "lib/vendor/transformers.min.js"} <= set(table)
    assert [name for name in told["files"] if not (tmp_path / "out" / name).is_file()] == []
    for model in told["models"]:
        assert model["forms"] == ["fp32", "q8"]
        assert (tmp_path / "out" / model["path"] / "config.json").is_file()
        assert model["bytes"] > 1_000_000
    for adapter in told["adapters"]:
        assert (tmp_path / "out" / adapter["path"] / "adapter_config.json").is_file()
    with pytest.raises(ParameterError, match="exists"):
        site.write(table, tmp_path / "out")


LIMIT = 4_000_000  # bytes that a first visit fetches without a model, in gzip


@pytest.mark.usefixtures("placed")
def test_the_page_without_a_model_is_small(tmp_path):
    table = site.site(tmp_path)
    names = [*json.loads(table["site.json"])["files"], "site.json"]
    assert {"lib/vendor/ort-wasm-simd-threaded.wasm", "index.html", "lib/model.js"} <= set(names)
    contents = [table[name] for name in names]
    size = sum(
        len(gzip.compress(content if isinstance(content, bytes) else content.read_bytes(), 9))
        for content in contents
    )
    assert 3_000_000 < size <= LIMIT


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.usefixtures("placed")
def test_one_command_serves_it_until_ctrl_c():
    process = subprocess.Popen(
        [sys.executable, "-m", "lorakit", "demo", "--browser", "--no-open", "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in background
    )  # fmt: skip
    assert process.stdout is not None
    address = process.stdout.readline().split()[0]
    with urllib.request.urlopen(f"{address}site.json", timeout=60) as response:
        assert json.load(response)["adapters"][0]["name"] == "home"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
