"""The python examples of README.md and docs/*.md run, top to bottom in one namespace per page."""

import base64
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from projector import png, write_projector

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ALL = (ROOT / "README.md", *ROOT.glob("docs/*.md"))
PAGES = sorted(page for page in ALL if BLOCK.search(page.read_text("utf-8")))


def gguf_files() -> dict[str, object]:
    """What the page on GGUF files names: the truth folder, a projector, a picture."""
    pytest.importorskip("llama_cpp.llama_cpp", reason="the llama.cpp engine needs lorakit[llama]")
    picture, content = Path("picture.png"), png(1)
    picture.write_bytes(content)
    return {
        "truth": ROOT / "tests/data/truth",
        "projector": write_projector("mmproj.gguf"),
        "picture": picture,
        "data_url": f"data:image/png;base64,{base64.b64encode(content).decode()}",
    }


SETUP: dict[str, Callable[[], dict[str, object]]] = {"llama": gguf_files}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = page.read_text("utf-8")
    names: dict[str, object] = {"__name__": page.stem, **SETUP.get(page.stem, dict)()}
    for block in BLOCK.finditer(text):
        padding = "\n" * text.count("\n", 0, block.start(1))  # so that errors name the page's line
        exec(compile(padding + block[1], str(page), "exec"), names)


def test_the_page_on_the_command_line_is_what_the_commands_say() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/cli_docs.py"],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    page = (ROOT / "docs/cli.md").read_text("utf-8")
    assert page == done.stdout, "run: python scripts/cli_docs.py > docs/cli.md"


def test_links_between_pages_lead_somewhere() -> None:
    for page in ALL:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
