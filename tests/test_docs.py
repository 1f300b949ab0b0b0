"""The programs of the pages run, and print what is shown below them."""

import contextlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llama_library import need_llama
from llama_serving import serving_llama
from page_programs import BLOCK, run_page
from pages import ALL, named, shown_files

ROOT = Path(__file__).parents[1]
PAGES = [page for page in ALL if BLOCK.search(page.read_text("utf-8"))]


def training() -> None:
    """What training needs, which is an extra."""
    for package in ("torch", "transformers"):
        pytest.importorskip(package, reason="training needs the extra train")


def a_server() -> None:
    """llama.cpp's, which a page may start."""
    pytest.importorskip("xllamacpp", reason="needs the package that has llama.cpp's server")


# What has to be installed. Files are made by the commands of the page, or are shown on it.
NEEDS: dict[str, Callable[[], None]] = {
    "docs/devices.md": need_llama,
    "docs/export.md": need_llama,
    "docs/llama.md": need_llama,
    "docs/remote.md": a_server,
    "docs/train.md": training,
    "docs/howto/gguf.md": need_llama,
    "docs/migrate/from-llama-cpp-python.md": need_llama,
}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    NEEDS.get(named(page), bool)()
    for name, content in shown_files(page).items():  # which a reader saves under that name
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(content, "utf-8")
    with contextlib.ExitStack() as running:

        def llama_server(words: list[str]) -> None:
            files = [word for word in words if word.endswith(".gguf")]
            url = running.enter_context(serving_llama("plain", *files))
            monkeypatch.setenv("OPENAI_BASE_URL", url)

        run_page(page.read_text("utf-8"), str(page), {"llama-server": llama_server})


def test_the_first_program_of_the_readme_shows_its_output() -> None:
    first = BLOCK.search((ROOT / "README.md").read_text("utf-8"))
    assert first is not None
    assert first["shown"] is not None


def test_another_output_than_the_shown_one_would_be_found() -> None:
    page = "```python\nprint(6 * 7)\n```\n\n```text\n{}\n```\n"
    run_page(page.format("42"), "page")
    with pytest.raises(AssertionError):
        run_page(page.format("43"), "page")


@pytest.mark.parametrize("shown", ["", "0.0.0\n", "... of a page\n"])
def test_another_output_of_a_command_would_be_found(shown: str) -> None:
    page = "```console\n$ lorakit --version\n{}```\n"
    run_page(page.format("0...\n"), "page")
    with pytest.raises(AssertionError, match="lorakit --version"):
        run_page(page.format(shown), "page")


def test_what_a_command_reads_and_how_it_ends_is_seen() -> None:
    page = "```console\n$ echo hello | lorakit frobnicate \\\n    --loud  # no such thing\n{}```\n"
    run_page(page.format("...no command 'frobnicate'...exit 2\n"), "page")
    with pytest.raises(AssertionError):
        run_page(page.format("...no command 'frobnicate'...exit 1\n"), "page")
    with pytest.raises(AssertionError, match="not closed"):
        run_page("```python\nprint(6 * 7)\n", "page")
    with pytest.raises(AssertionError, match="cannot start rm"):
        run_page("```console\n$ rm -r .\n```\n", "page")


def test_the_page_on_the_command_line_is_what_the_commands_say() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/cli_docs.py"],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    page = (ROOT / "docs/cli.md").read_text("utf-8")
    assert page == done.stdout, "run: python scripts/cli_docs.py > docs/cli.md"
