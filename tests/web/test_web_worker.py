"""lorakit.js in Chromium, in its worker: the page stays alive, and caches are of one content."""

import json
import threading
from contextlib import suppress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from chromium import need_chromium, running
from nodes import DEMO, WEB

PROGRAM = need_chromium()
PAGE = "<!doctype html><meta charset='utf-8'><title>test</title>"
ROUTES = {"/web/": WEB, "/adapters/": DEMO / "adapters"}
SETS = {"base": {}, "home": {"home": 1}, "shop": {"shop": 1}, "mix": {"home": 0.5, "style": 0.3}}
OPEN = """async (options) => {
    const { open } = await import('/web/lorakit.js');
    window.files = [];
    const progress = ({ file, cached }) => window.files.push([file, cached]);
    window.model = await open('model/', { dtype: 'q8', progress, ...options });
    for (const name of ['home', 'shop', 'style']) await model.load({ path: `/adapters/${name}/` });
}"""
ASK = """async ([messages, sets]) => {
    let ticks = 0;
    const timer = setInterval(() => (ticks += 1), 1);
    const ids = {};
    for (const [name, adapters] of Object.entries(sets))
        ids[name] = (await model.chat(messages, { adapters, maxTokens: 48 })).ids;
    const rows = Object.values(sets).map((adapters) => ({ messages, adapters, maxTokens: 48 }));
    const batch = (await model.batch(rows)).map((reply) => reply.ids);
    clearInterval(timer);
    return { ids, batch, ticks };
}"""


class Handler(SimpleHTTPRequestHandler):
    """The modules, the demo's adapters and one exported folder. Isolated: wasm may have threads."""

    extensions_map = {  # noqa: RUF012  # as its base class has it
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
        "": "application/octet-stream",
    }

    def translate_path(self, path):
        for prefix, folder in {**ROUTES, "/model/": self.server.model}.items():
            if path.startswith(prefix):
                return str(folder / path.removeprefix(prefix).partition("?")[0])
        return str(self.server.model / "nothing-here")

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path != "/":
            with suppress(ConnectionError):  # a page may ask for a file only to learn its size
                super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(PAGE.encode())

    def end_headers(self):
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def browser():
    with running(PROGRAM) as browser:
        yield browser


@pytest.fixture
def server(dynamic_export):
    """Serves `server.model`; `server.asked` are the paths in their order."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.model, server.asked = dynamic_export, []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def page(browser, server):
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{server.server_port}/")
    yield page
    context.close()


@pytest.fixture(scope="module")
def asked(dynamic_export, node):
    """A conversation and the ids that Node gives for it."""
    messages = [{"role": "user", "content": "turn the lights off in the kitchen"}]
    adapters = {name: str(DEMO / "adapters" / name) for name in ("home", "shop", "style")}
    given = {"scenario": "answers", "export": str(dynamic_export), "dtype": "q8"}
    given |= {"adapters": adapters, "sets": SETS, "rows": [{"messages": messages}]}
    (answers,) = node.run("model.mjs", given)
    return messages, {name: answer["ids"] for name, answer in answers.items()}


@pytest.mark.parametrize("worker", [True, False])
def test_a_page_gives_what_node_gives(page, asked, worker):
    messages, expected = asked
    page.evaluate(OPEN, {"worker": worker})
    found = page.evaluate(ASK, [messages, SETS])
    assert found["ids"] == expected
    assert found["batch"] == list(expected.values())
    assert found["ticks"] > 10
    assert (
        page.evaluate("model.close().then(() => model.chat([]).catch((e) => e.code))") == "closed"
    )


def test_what_is_cached_is_of_one_export(page, server, asked, dynamic_export, tmp_path):
    """A new export at the same address is fetched; the same is not, and it works offline."""
    messages, expected = asked
    server.model = tmp_path
    for file in dynamic_export.iterdir():
        if file.name != "lorakit.json":
            (tmp_path / file.name).symlink_to(file)
    about = tmp_path / "lorakit.json"
    about.write_text(json.dumps({"files": "first"}))
    names = "caches.keys().then((all) => all.filter((name) => name.startsWith('lorakit-model')))"

    page.evaluate(OPEN, {})
    first = page.evaluate(names)
    assert not any(cached for _, cached in page.evaluate("files"))
    server.asked.clear()
    page.evaluate("model.close()")
    page.reload()
    page.evaluate(OPEN, {})
    assert page.evaluate(names) == first
    assert not any("onnx" in path and path.startswith("/model/") for path in server.asked)
    assert all(cached for _, cached in page.evaluate("files"))

    about.write_text(json.dumps({"files": "second"}))
    page.evaluate("model.close()")
    page.evaluate(OPEN, {})
    (second,) = page.evaluate(names)
    assert [second] != first
    assert any(path.endswith("model_quantized.onnx") for path in server.asked)

    page.evaluate("model.close()")
    about.unlink()
    server.model = tmp_path / "gone"  # 404 for all: not offline, and not a folder of lorakit's
    failed = page.evaluate(OPEN.replace("window.model = await", "return await").replace(
        ", ...options })", ", ...options }).catch((e) => `${e.code}: ${e.message}`)"
    ), {})  # fmt: skip
    assert failed.startswith("source_not_found: ")

    page.route("**/model/**", lambda route: route.abort())  # offline
    page.evaluate(OPEN, {"worker": False})
    assert page.evaluate(ASK, [messages, {"home": {"home": 1}}])["ids"]["home"] == expected["home"]


def test_a_worker_that_cannot_be_loaded_is_an_error(page):
    page.route("**/web/serve.js", lambda route: route.abort())
    code = page.evaluate(
        "import('/web/lorakit.js').then(({ open }) => open('model/')).catch((e) => e.code)"
    )
    assert code == "engine_failed"


def test_without_webgpu_it_is_said(page):
    task = """import('/web/lorakit.js').then(({ open }) =>
        open('model/', { device: 'webgpu', dtype: 'fp32' })).catch((e) => e.code)"""
    assert page.evaluate(task) == "capability_missing"
