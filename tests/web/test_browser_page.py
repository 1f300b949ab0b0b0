"""The example app in Chromium: what its user does, what fails, and what it says then."""

import json
import shutil
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from chromium import need_chromium, running, serving

import lorakit
from lorakit import demo
from lorakit.chat.tools import get_format
from lorakit.demo import site

PROGRAM = need_chromium()
LIGHTS = "turn the lights off in the kitchen"
SIZE = {"width": 1200, "height": 860}


@pytest.fixture(scope="module")
def browser():
    with running(PROGRAM) as found:
        yield found


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The app as `lorakit demo --browser` serves it."""
    return site.site(tmp_path_factory.mktemp("models"))


@dataclass
class App:
    """The page, and what its user can do."""

    page: object
    answers: int = 0
    asked: list[str] = field(default_factory=list)

    def find(self, selector):
        return self.page.locator(selector)

    def see(self, selector):
        from playwright.sync_api import expect

        return expect(self.page.locator(selector))

    def open(self, address):
        self.page.goto(address)
        self.ready()

    def ready(self):
        outcome = self.find("#model-facts dt, #model-error .error-box").first
        outcome.wait_for(state="attached", timeout=60_000)
        assert self.find("#model-error .error-box").count() == 0, self.text("#model-error")

    def text(self, selector):
        return self.find(selector).inner_text()

    def switch(self, name, on=True):
        self.find(f"#adapter-{name}").set_checked(on)
        if on:
            self.find(f".adapter:not(.idle):not(.loading) #adapter-{name}").wait_for()

    def only(self, name):
        self.page.click("#base-alone")
        self.switch(name)

    def ask(self, text):
        """The last answer: (words, calls)."""
        self.answers += 1
        self.page.fill("#request", text)
        self.page.click("#send")
        self.see("#log .usage, #log .message .error-box").to_have_count(self.answers)
        return answer_in(self.find("#log .message.model").last)

    def add(self, source, path, name=""):
        self.find("details.more:has(#add-adapter)").evaluate("e => { e.open = true }")
        self.page.select_option("#add-source", source)
        if source == "file":
            self.page.set_input_files("#add-files", path)
        else:
            self.page.fill("#add-path", path)
        self.page.fill("#add-name", name)
        self.page.click("#add-adapter button")


def answer_in(place):
    words = " ".join(place.locator("p.words").all_inner_texts())
    calls = []
    for card in place.locator(".call").all():
        names, values = (card.locator(kind).all_inner_texts() for kind in ("dt", "dd"))
        calls.append((card.locator("code").inner_text(), dict(zip(names, values, strict=True))))
    return words, calls


def expected(example):
    """What the evaluation set wants, as a page shows it."""
    parsed = get_format("functiongemma").parse(example.expected)
    return parsed.text, shown_calls(parsed.tool_calls)


def shown_calls(calls):
    return [(c.name, {k: shown_value(v) for k, v in c.arguments.items()}) for c in calls]


def shown_value(value):
    return value if isinstance(value, str) else json.dumps(value)


@contextmanager
def visit(browser, address, keep=None, **options):
    context = browser.new_context(viewport=SIZE, **options)
    app = App(context.new_page())
    context.on("request", lambda request: app.asked.append(request.url))
    try:
        app.open(address)
        yield app
        if keep:
            app.page.screenshot(path=keep)
    finally:
        context.close()


@pytest.fixture(scope="module")
def server(table):
    with serving(table) as found:
        yield found


def right(name):
    """Three examples of an adapter's that Python answers as the evaluation set wants."""
    found = []
    with lorakit.open(demo.base_path()) as model:
        model.load_adapter(demo.adapter_path(name))
        for example in demo.examples(name, "values"):
            reply = model.chat(list(example.messages), adapters={name: 1.0})
            same = (reply.text, shown_calls(reply.tool_calls)) == expected(example)
            found += [example] if same else []
            if len(found) == 3:
                return found
    raise AssertionError(f"{name} answers nothing")


def test_adapters_swap_three_times_and_call_what_they_were_trained_to(browser, server, tmp_path):
    examples = {name: right(name) for name in ("home", "shop")}
    with visit(browser, server.address, tmp_path / "chat.png") as app:
        before = len(app.asked)
        lost = expected(examples["home"][0])
        assert app.ask(examples["home"][0].messages[0]["content"]) != lost  # the base alone
        for turn in range(3):
            for name, cases in examples.items():
                app.only(name)
                asked = cases[turn].messages[0]["content"]
                assert app.ask(asked) == expected(cases[turn]), (name, asked)
        assert not [url for url in app.asked[before:] if "/models/" in url]  # of the base: nothing
        assert not [url for url in app.asked if not url.startswith((server.address, "blob:"))]


def test_one_request_under_two_adapters_is_one_batch(browser, server, tmp_path):
    with visit(browser, server.address, tmp_path / "side-by-side.png") as app:
        app.page.click("#tab-compare")
        app.page.select_option("#left", "one:home")
        app.page.select_option("#right", "one:shop")
        app.page.fill("#compare-request", "add 3 bananas to my cart")
        app.page.click("#compare-run")
        app.find("#right-answer .usage").wait_for()
        assert answer_in(app.find("#left-answer"))[1] == []
        call = ("add_to_cart", {"item": "bananas", "quantity": "3"})
        assert answer_in(app.find("#right-answer"))[1] == [call]
        assert "one mixed batch" in app.text("#compare-usage")


def test_scales_act_and_a_reload_keeps_them(browser, server):
    with visit(browser, server.address) as app:
        app.only("home")
        assert app.ask(LIGHTS)[1] != []
        app.find("#scale-home").fill("0")
        assert app.ask(LIGHTS)[1] == []
        app.find("#scale-home").fill("0.9")
        app.page.reload()
        app.ready()
        app.answers = 0
        assert app.text(".adapter:has(#scale-home) output") == "\u00d7 0.9"
        assert app.ask(LIGHTS)[1] != []
        assert app.text("#log .chip") == "home \u00d7 0.9"


def test_it_opens_again_without_its_server(browser, table, tmp_path):
    with serving(table) as server:
        context = browser.new_context(viewport=SIZE)
        app = App(context.new_page())
        app.open(server.address)
        app.switch("home")
        app.page.evaluate("navigator.serviceWorker.ready.then(() => true)")
    app.page.reload()  # the server has ended
    app.ready()
    assert "from the cache" in app.text("#model-facts")
    assert app.ask(LIGHTS)[1] == [("set_lights", {"room": "kitchen", "state": "off"})]
    app.page.screenshot(path=tmp_path / "offline.png")
    app.switch("shop")  # was never fetched: that is said, and nothing else is lost
    assert "source_unreachable" in app.text(".adapter.failed")
    context.close()


def test_a_broken_adapter_is_shown_and_the_base_goes_on_only_where_it_may(browser, table, tmp_path):
    place = "adapters/home/adapter_model.safetensors"
    whole, config = table[place].read_bytes(), table["adapters/home/adapter_config.json"]
    told = json.loads(table["site.json"])
    told["adapters"][1]["digest"] = "0" * 64  # shop
    broken = {
        "site.json": json.dumps(told).encode(),
        "cut/adapter_config.json": config,
        "cut/adapter_model.safetensors": whole[: len(whole) // 2],
    }
    with (
        serving({**table, **broken}) as server,
        visit(browser, server.address, tmp_path / "failed.png") as app,
    ):
        app.switch("shop")
        assert "source_mismatch" in app.text(".adapter.failed")
        app.see("#send").to_be_disabled()
        assert "shop failed to load" in app.text("#blocked")
        app.find("#adapter-shop").uncheck()
        app.add("url", f"{server.address}cut/")
        assert "format_invalid" in app.text(".adapter.failed:has(#adapter-cut)")
        app.find("#adapter-cut").uncheck()
        app.add("url", f"{server.address}nothing/here/")
        assert "source_not_found" in app.text(".adapter.failed:has(#adapter-here)")
        app.find("#fallback-here").check()
        app.find(".adapter.fallback").wait_for()
        words, calls = app.ask("hello")
        assert (words, calls) == ("Hello! What can I do for you?", [])
        assert app.text("#log .chip.warn") == "without here, which failed"
        app.switch("home")  # the others go on, and the failure is still said
        assert app.ask(LIGHTS)[1] == [("set_lights", {"room": "kitchen", "state": "off"})]
        assert app.find("#log .chip.warn").count() == 2
        app.page.click("#base-alone")
        folder = demo.adapter_path("style")
        files = [folder / "adapter_config.json", folder / "adapter_model.safetensors"]
        app.add("file", files, "sailor")
        app.find(".adapter.ready #adapter-sailor").wait_for()
        assert app.ask("hello")[0] == "Ahoy, matey! What can I do for ye?"


def test_a_merged_model_calls_and_names_the_export_for_adapters(browser, server, tmp_path):
    with visit(browser, server.address, tmp_path / "merged.png") as app:
        app.page.select_option("#model", "demo-home")
        app.see("#status").to_contain_text("merged")
        assert app.ask(LIGHTS)[1] == [("set_lights", {"room": "kitchen", "state": "off"})]
        app.switch("style")
        said = app.text(".adapter.failed")
        assert "capability_missing" in said
        assert "lorakit export BASE --to onnx --adapters dynamic" in said


def offered(app):
    return app.find("#dtype option").all_inner_texts()


def test_folders_of_ones_own_are_served_beside_it_in_the_forms_they_hold(browser, tmp_path):
    lorakit.export(demo.base_path(), tmp_path / "own/small", mode="dynamic", quantize="q8",
                   prove_it=False)  # fmt: skip
    shutil.copytree(demo.adapter_path("style"), tmp_path / "own/sailor")
    table = site.site(tmp_path / "models", [tmp_path / "own"])
    with serving(table) as server, visit(browser, server.address, tmp_path / "own.png") as app:
        assert offered(app) == ["as exported", "fp32", "q8"]
        app.page.select_option("#model", "own-small")
        app.see("#model-facts").to_contain_text("wasm, q8")
        assert offered(app) == ["as exported", "q8"]
        app.switch("sailor")
        assert app.ask("hello")[0] == "Ahoy, matey! What can I do for ye?"
        app.page.select_option("#model", "url")
        app.page.fill("#model-reference", f"{server.address}own/models/small")
        app.page.click("#open")
        app.see("#model-facts").to_contain_text("wasm, q8")
        assert offered(app) == ["as exported", "q8"]
        app.page.fill("#model-reference", f"{server.address}nothing/")
        app.page.click("#open")
        app.see("#model-error").to_contain_text("source_not_found")
        assert len(offered(app)) == 6  # unknown: all of them


class Endpoint(BaseHTTPRequestHandler):
    """An OpenAI endpoint: two models, streamed answers, one of which has no end."""

    protocol_version = "HTTP/1.1"

    def do_OPTIONS(self):
        self.answer(204, b"")

    def do_GET(self):
        models = {"data": [{"id": "tiny"}, {"id": "endless"}]}
        self.answer(200, json.dumps(models).encode())

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(asked)
        call = {"index": 0, "function": {"name": "set_lights", "arguments": '{"room":'}}
        rest = {"index": 0, "function": {"arguments": ' "hall"}'}}
        deltas = [{"content": "As you "}, {"content": "wish."}, {"tool_calls": [call]}]
        chunks = [{"choices": [{"delta": delta}]} for delta in [*deltas, {"tool_calls": [rest]}]]
        chunks.append({"choices": [], "usage": {"completion_tokens": 9}})
        self.headers_of(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for chunk in chunks[:1] if asked["model"] == "endless" else chunks:
            self.piece(f"data: {json.dumps(chunk)}\n\n".encode())
        if asked["model"] == "endless":
            self.server.left.wait(60)
        self.piece(b"data: [DONE]\n\n")
        self.piece(b"")

    def piece(self, content):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))
        self.wfile.flush()

    def headers_of(self, status):
        self.send_response(status)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("Access-Control-Allow-Headers", "*")

    def answer(self, status, body):
        self.headers_of(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@contextmanager
def http_server(handler):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *args: None
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_server_answers_too_and_stop_stops_it(browser, server, tmp_path):
    with (
        http_server(Endpoint) as remote,
        visit(browser, server.address, tmp_path / "server.png") as app,
    ):
        remote.asked, remote.left = [], threading.Event()
        for choice in app.find(".choice").all():  # what cannot be chosen says why
            off = choice.locator("input").is_disabled()
            assert ("not available: " in choice.inner_text()) == off
        app.page.check("input[value=remote]")
        app.page.fill("#remote-url", f"http://127.0.0.1:{remote.server_port}/v1")
        app.page.click("#remote-model button")
        app.see("#send").to_be_enabled()
        answered = app.ask("lights, please")
        assert answered == ("As you wish.", [("set_lights", {"room": "hall"})])
        assert remote.asked[0]["messages"] == [{"role": "user", "content": "lights, please"}]
        app.page.select_option("#remote-name", "endless")
        app.page.fill("#request", "talk for ever")
        app.page.click("#send")
        app.see("#log .message.model >> nth=1").to_contain_text("As you")
        app.page.click("#stop")
        app.see("#log .usage >> nth=1").to_have_text("stopped")
        app.see("#send").to_be_visible()
        remote.left.set()
        app.page.fill("#remote-url", f"http://127.0.0.1:{unused_port()}/v1")
        app.page.click("#remote-model button")
        app.see("#model-error").to_contain_text("source_unreachable")


def test_a_phone_in_the_dark_has_room_for_all(browser, server, tmp_path):
    context = browser.new_context(
        viewport={"width": 390, "height": 800}, device_scale_factor=2, color_scheme="dark"
    )
    app = App(context.new_page())
    app.open(server.address)
    app.page.click("#setup > summary")
    app.switch("home")
    app.page.screenshot(path=tmp_path / "phone-setup.png")
    app.page.click("#setup > summary")
    assert app.ask(LIGHTS)[1] != []
    app.page.screenshot(path=tmp_path / "phone.png")
    assert app.page.evaluate("document.documentElement.scrollWidth") == 390
    context.close()


def test_a_host_of_static_files_below_a_path_is_enough(browser, table, tmp_path):
    site.write(table, tmp_path / "host/demo")
    handler = partial(QuietFiles, directory=tmp_path / "host")
    with http_server(handler) as host:
        context = browser.new_context()
        app = App(context.new_page())
        app.page.goto(f"http://127.0.0.1:{host.server_port}/demo/")
        # No header of the host isolates it: its service worker does, after one reload.
        app.find(".choice:has(input[value=wasm]):not(:has-text('not cross-origin'))").wait_for()
        app.ready()
        assert app.page.evaluate("crossOriginIsolated") is True
        app.switch("home")
        assert app.ask(LIGHTS)[1] != []
        context.close()


def unused_port():
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return tried.getsockname()[1]


class QuietFiles(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass
