"""The React page of docs/browser.md, built by Vite and opened."""

import re
import shutil
import subprocess

import pytest
from chromium import need_chromium, running, serving
from nodes import MODULES, WEB

from lorakit import demo
from lorakit.demo import site
from lorakit.exporting.export import export
from pages import ROOT

PROGRAM = need_chromium()
VITE = MODULES / "vite/bin/vite.js"
if not (VITE.is_file() and shutil.which("node")):
    pytest.skip("vite is not installed (make node)", allow_module_level=True)
SHOWN = re.compile(r"^`([\w/.]+)`:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINKED = ("vite", "react", "react-dom", "onnxruntime-web", "@huggingface/transformers")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The page's files, as the documentation shows them, through `vite build`."""
    app = tmp_path_factory.mktemp("app")
    files = dict(SHOWN.findall((ROOT / "docs/browser.md").read_text("utf-8")))
    assert files["src/Lorakit.jsx"].count("\n") <= 60
    for name, content in files.items():
        (app / name).parent.mkdir(exist_ok=True)
        (app / name).write_text(content, "utf-8")
    (app / "package.json").write_text('{"private": true, "type": "module"}')
    shutil.copytree(WEB, app / "node_modules/lorakit", ignore=shutil.ignore_patterns("vendor"))
    for name in LINKED:
        (app / "node_modules" / name).parent.mkdir(exist_ok=True)
        (app / "node_modules" / name).symlink_to(MODULES / name, target_is_directory=True)
    done = subprocess.run(["node", VITE, "build"], cwd=app, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return app / "dist"


def test_the_provider_opens_a_model_and_answers_call(built, tmp_path):
    from playwright.sync_api import expect

    export(demo.base_path(), tmp_path / "demo", mode="dynamic", quantize="none", prove_it=False)
    places = {"": built, "models/demo/": tmp_path / "demo", "adapters/": demo.folder() / "adapters"}
    table = {
        f"{at}{name}": file
        for at, place in places.items()
        for name, file in site.folder(place).items()
    }
    with running(PROGRAM) as browser, serving(table) as server:
        page = browser.new_page()
        page.goto(server.address)
        page.click("button >> text=home", timeout=60_000)
        expect(page.locator("pre")).to_contain_text('set_lights {"room":"kitchen","state":"off"}')
        page.click("button >> text=shop")
        expect(page.locator("p")).to_have_text("Sorry, I have no tool for that.")
        expect(page.locator("pre")).to_have_count(0)
