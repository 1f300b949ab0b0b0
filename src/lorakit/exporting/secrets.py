"""Secrets in what is to be published: tokens and private keys in the forms that everybody knows.

The forms are those that their issuers document, each with a beginning of its own, so that words of
a vocabulary are none. A secret itself is never said, only its kind and where it stands.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from io import BytesIO
from typing import BinaryIO

from lorakit.files.bounded import open_regular
from lorakit.sources.sending import Content

# The literal first: looking behind at each place would cost a hundred times as much.
KINDS = {
    "a token of the Hub": rb"hf_[A-Za-z0-9]{30,}",
    "an AWS key": rb"A(?:KIA|SIA)(?<![A-Za-z0-9]....)[A-Z0-9]{16}(?![A-Za-z0-9])",
    "a GitHub token": rb"gh[opsur]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{70}",
    "an API key": rb"sk-(?<![\w-]sk-)(?=[\w-]*[0-9])(?=[\w-]*[A-Z])(?=[\w-]*[a-z])[\w-]{20}",
    "a private key": rb"-----BEGIN (?:[A-Z0-9]+ ){0,2}PRIVATE KEY(?: BLOCK)?-----"
    rb"(?:\\[nr]|\s)[\s\S]{0,200}?[A-Za-z0-9+/]{40}",
}
_FORMS = {kind: re.compile(form) for kind, form in KINDS.items()}
BLOCK, OVERLAP = 1 << 20, 1 << 10  # bytes; the longest beginning of a secret fits the second


def secrets(name: str, content: Content) -> Iterator[str]:
    """Where a text holds a secret, each as "NAME, line 3: a GitHub token".

    Of other files, such as weights, the beginning is looked at, where metadata stand.
    """
    source = content.source
    opened = BytesIO(source) if isinstance(source, bytes) else open_regular(source)
    with opened as file:
        yield from (f"{name}, line {line}: {kind}" for line, kind in _found(file))


def _found(file: BinaryIO) -> Iterator[tuple[int, str]]:
    forms, own = dict(_FORMS), os.environ.get("HF_TOKEN", "").encode()
    if own:
        either = re.escape(own) + b"|" + KINDS["a token of the Hub"]
        forms["a token of the Hub"] = re.compile(either)
    said = set()
    before, line = b"", 1  # the end of the last block, and the number of its first line
    while block := file.read(BLOCK):
        binary = b"\0" in block
        text = before + block
        for kind, form in forms.items():
            for match in form.finditer(text):
                at = line + text.count(b"\n", 0, match.start())
                if (at, kind) not in said:
                    said.add((at, kind))
                    yield at, kind
        if binary:
            return
        before = text[-OVERLAP:]
        line += text.count(b"\n", 0, len(text) - len(before))
