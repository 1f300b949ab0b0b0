"""Text for measuring a real model: rows of tokens of English, code, French and Spanish.

All of it comes from the source distribution of charset-normalizer on the Python index (fetched once
with pip, 120 kB), so that it is the same wherever it runs: its documentation, its code, and the
samples that its tests detect: a biography of Molière and the beginning of Genesis.
"""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from real_model import download

from lorakit.files.atomic import write_atomic
from lorakit.files.cache import cache_root

PACKAGE = "charset-normalizer==3.4.3"
ROW = 512  # tokens, each row a text of its own
FILES = {
    "English": (
        "docs/community/faq.rst",
        "docs/community/why_migrate.rst",
        "docs/community/speedup.rst",
        "docs/user/advanced_search.rst",
        "CONTRIBUTING.md",
    ),
    "code": ("src/charset_normalizer/cd.py", "src/charset_normalizer/models.py"),
    "French": ("data/sample-french.txt",),
    "Spanish": ("data/sample-spanish.txt",),
}
ORDER = ("English", "code", "French", "Spanish", "English", "code")


def rows(tokens: int, encode: Callable[[str], Sequence[int]]) -> list[tuple[str, list[int]]]:
    """About so many tokens, in rows with the kind of their text; the kinds take turns."""
    texts = {kind: list(encode(text)) for kind, text in _texts().items()}
    taken = dict.fromkeys(texts, 0)
    found: list[tuple[str, list[int]]] = []
    for turn in range(max(1, round(tokens / ROW))):
        kind = ORDER[turn % len(ORDER)]
        begin = taken[kind]
        if begin + ROW > len(texts[kind]):
            raise SystemExit(f"there are no {tokens} tokens: {kind} ends after {len(found)} rows")
        taken[kind] += ROW
        found.append((kind, texts[kind][begin : begin + ROW]))
    return found


def _texts() -> dict[str, str]:
    archive = cache_root() / "bench" / f"{PACKAGE.replace('==', '-')}.tar.gz"
    if not archive.exists():
        with tempfile.TemporaryDirectory() as temporary:
            fetched = download(PACKAGE, Path(temporary), "--no-binary", ":all:")
            archive.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(archive, fetched.read_bytes())
    with tarfile.open(archive) as opened:
        root = opened.getnames()[0].split("/")[0]

        def read(name: str) -> str:
            member = opened.extractfile(f"{root}/{name}")
            assert member is not None
            return member.read().decode().replace("\r\n", "\n")

        return {kind: "\n\n".join(map(read, names)) for kind, names in FILES.items()}
