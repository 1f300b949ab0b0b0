"""A hook of mkdocs: links out of docs/ lead to the repository, as they do on GitHub."""

import posixpath
import re
from typing import Any

REPOSITORY = "https://github.com/lorakit/lorakit/blob/main/"
LINK = re.compile(r"\]\(((?:\.\./)+[^)\s]+)\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Relative links that leave docs/, made absolute."""
    folder = posixpath.join("docs", posixpath.dirname(page.file.src_uri))

    def absolute(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, found[1]))
        return found[0] if target.startswith("docs/") else f"]({REPOSITORY}{target})"

    return LINK.sub(absolute, markdown)
