"""The Markdown pages of the repository, their links and the anchors of their headings."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
ALL = sorted(
    {
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("bench/*.md"),
        *ROOT.glob("scripts/**/*.md"),
        *ROOT.glob(".github/**/*.md"),
    }
)
REPOSITORY = "https://github.com/lorakit/lorakit/blob/main/"
CODE = re.compile(r"^(```+).*?^\1$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^(```+).*?^\1$", re.MULTILINE | re.DOTALL)
SHOWN = re.compile(
    r"`(?P<name>[\w/.-]+)`:\n\n```json\n(?P<content>.*?)^```$", re.MULTILINE | re.DOTALL
)
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)|^\[[^\]^]+\]:\s*(\S+)", re.MULTILINE)


def named(page: Path) -> str:
    """A page's path in the repository, for ids of tests."""
    return page.relative_to(ROOT).as_posix()


def links(page: Path) -> list[str]:
    """Where a page's links lead, as written, those in code left out."""
    text = CODE.sub("", page.read_text("utf-8"))
    return [found[1] or found[2] for found in LINK.finditer(text)]


def shown_files(page: Path) -> dict[str, str]:
    """The files that a page shows, each a block of JSON below the paragraph that names it last."""
    found = SHOWN.finditer(page.read_text("utf-8"))
    return {shown["name"]: shown["content"] for shown in found}


def anchors(page: Path) -> set[str]:
    """The fragments of a page's headings, as GitHub makes them; mkdocs.yml makes the same."""
    text = FENCE.sub("", page.read_text("utf-8"))
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?)\s*$", text, re.MULTILINE):
        words = re.sub(r"[`*]|\]\([^)]*\)|[^\w\- ]", "", heading.lower()).replace(" ", "-")
        number, slug = 0, words
        while slug in found:
            number += 1
            slug = f"{words}-{number}"
        found.add(slug)
    return found


def broken_links(page: Path) -> list[str]:
    """The links into the repository that lead to no file, or to no heading of a page."""
    return [link for link in links(page) if not _leads(page, link)]


def _leads(page: Path, link: str) -> bool:
    if not link.startswith(REPOSITORY) and re.match(r"[a-z]+:", link):
        return True  # elsewhere
    path, _, fragment = link.removeprefix(REPOSITORY).partition("#")
    folder = ROOT if link.startswith(REPOSITORY) else page.parent
    target = folder / path if path else page
    if not target.exists():
        return False
    return not fragment or target.suffix != ".md" or fragment in anchors(target)
