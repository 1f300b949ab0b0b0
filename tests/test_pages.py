"""The links of the pages lead somewhere, and the site holds every page."""

import re
from pathlib import Path

import pytest

import lorakit
from pages import ALL, ROOT, anchors, broken_links, links, named


@pytest.mark.parametrize("page", ALL, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page) == []


def test_links_of_the_readme_hold_on_the_package_index() -> None:
    assert [link for link in links(ROOT / "README.md") if not link.startswith("https://")] == []


def test_a_broken_link_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# One *thing*: `x`\n## One thing x\n```\n# no\n```\n")
    assert anchors(tmp_path / "other.md") == {"one-thing-x", "one-thing-x-1"}
    (page := tmp_path / "page.md").write_text(
        "[a](other.md) [b](other.md#one-thing-x) ![c](no.png) [d](other.md#no) [e][e] [f](#no)\n"
        "`[g](in-code.md)`\n\n[e]: no.md\n"
    )
    assert broken_links(page) == ["no.png", "other.md#no", "#no", "no.md"]


def test_the_reference_holds_every_public_name() -> None:
    pages = "".join(page.read_text("utf-8") for page in ROOT.glob("docs/reference/*.md"))
    documented = {
        name.rpartition(".")[2] for name in re.findall(r"^::: (\S+)", pages, re.MULTILINE)
    }
    rows = re.findall(r"^\| (?:`lorakit\.\S+`) \| (.+) \|$", page_of_names(), re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    modules = {name for name in lorakit.__all__ if (ROOT / "src/lorakit" / name).is_dir()}
    public = {*lorakit.__all__, *named} - modules - {"__version__", "check", "errors"}
    errors = {name for name in public if name.endswith("Error")}  # of lorakit.errors, as a whole
    assert len(named) > 50
    assert public - errors - documented == set()


def page_of_names() -> str:
    return (ROOT / "docs/api.md").read_text("utf-8")


def test_the_site_holds_every_page() -> None:
    nav = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:\n")[2]
    listed = re.findall(r"[-:] ([\w/-]+\.md)$", nav, re.MULTILINE)
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in ROOT.glob("docs/**/*.md")]
    assert sorted(listed) == sorted(pages)
