"""The programs of the pages run, and print what is shown below them.

The python blocks of a page run top to bottom in one namespace, in an empty folder. A text block
right below one is what it prints.
"""

import atexit
import base64
import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llama_library import need_llama
from llama_serving import demo_files, serving_llama
from pages import ALL, named, shown_files
from projector import png, write_projector

ROOT = Path(__file__).parents[1]
TRUTH = ROOT / "tests/data/truth"
BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```$(?:\n+^```text\n(?P<shown>.*?)^```$)?", re.MULTILINE | re.DOTALL
)
PAGES = [page for page in ALL if BLOCK.search(page.read_text("utf-8"))]


def gguf_files() -> dict[str, object]:
    """What the page on the llama.cpp engine names: the truth folder, a projector, a picture."""
    need_llama()
    picture, content = Path("picture.png"), png(1)
    picture.write_bytes(content)
    return {
        "truth": TRUTH,
        "projector": write_projector("mmproj.gguf"),
        "picture": picture,
        "data_url": f"data:image/png;base64,{base64.b64encode(content).decode()}",
    }


def gguf_and_adapter() -> dict[str, object]:
    """A model and an adapter, under the names that a page gives them."""
    need_llama()
    shutil.copyfile(TRUTH / "gguf/llama.base.f32.gguf", "model.gguf")
    shutil.copytree(TRUTH / "peft/llama/plain", "adapter")
    return {}


def files_of_evaluation() -> dict[str, object]:
    """The files that the page on evaluation shows."""
    for name, content in shown_files(ROOT / "docs/evaluate.md").items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(content, "utf-8")
    return {}


def training() -> dict[str, object]:
    """What training needs, which is an extra."""
    for package in ("torch", "transformers"):
        pytest.importorskip(package, reason="training needs the extra train")
    return {}


def model_on_a_server() -> dict[str, object]:
    """llama.cpp's server with the demo, at the URL that the environment names, until the end."""
    pytest.importorskip("xllamacpp", reason="needs the package that has llama.cpp's server")
    running = contextlib.ExitStack()
    atexit.register(running.close)
    Path("served").mkdir()
    files = demo_files(Path("served").absolute())
    os.environ["OPENAI_BASE_URL"] = running.enter_context(serving_llama("plain", *files))
    return {}


def llama_runs() -> dict[str, object]:
    """Nothing but llama.cpp."""
    need_llama()
    return {}


SETUP: dict[str, Callable[[], dict[str, object]]] = {
    "docs/devices.md": llama_runs,
    "docs/export.md": llama_runs,
    "docs/llama.md": gguf_files,
    "docs/evaluate.md": files_of_evaluation,
    "docs/remote.md": model_on_a_server,
    "docs/train.md": training,
    "docs/howto/gguf.md": gguf_and_adapter,
    "docs/migrate/from-llama-cpp-python.md": gguf_and_adapter,
}


def run(text: str, page: str, names: dict[str, object]) -> None:
    """All programs of a page. Raises AssertionError where one prints what is not shown."""
    for block in BLOCK.finditer(text):
        padding = "\n" * text.count("\n", 0, block.start("code"))  # errors name the page's line
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(padding + block["code"], page, "exec"), names)
        if block["shown"] is not None:
            assert printed.getvalue() == block["shown"]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": page.stem, **SETUP.get(named(page), dict)()}
    run(page.read_text("utf-8"), str(page), names)


def test_the_first_program_of_the_readme_shows_its_output() -> None:
    first = BLOCK.search((ROOT / "README.md").read_text("utf-8"))
    assert first is not None
    assert first["shown"] is not None


def test_another_output_than_the_shown_one_would_be_found() -> None:
    page = "```python\nprint(6 * 7)\n```\n\n```text\n{}\n```\n"
    run(page.format("42"), "page", {})
    with pytest.raises(AssertionError):
        run(page.format("43"), "page", {})


def test_the_page_on_the_command_line_is_what_the_commands_say() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/cli_docs.py"],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    page = (ROOT / "docs/cli.md").read_text("utf-8")
    assert page == done.stdout, "run: python scripts/cli_docs.py > docs/cli.md"
