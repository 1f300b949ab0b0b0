"""The evaluation set of the adapters that call, as data files: what `eval` and `sweep` read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lorakit import demo
from lorakit.chat.tools import get_format

DOMAINS = ("home", "shop")
SPLITS = ("values", "phrasings")


def write(folder: Path) -> None:
    """A file for each of DOMAINS, and beside them the declarations of all their tools."""
    folder.mkdir()
    for domain in DOMAINS:
        lines = "".join(f"{json.dumps(row)}\n" for row in _rows(domain))
        (folder / f"{domain}.jsonl").write_text(lines, encoding="utf-8")
    declared = json.dumps([*_tools().values()], indent=1)
    (folder / "tools.json").write_text(f"{declared}\n", encoding="utf-8")


def _rows(domain: str) -> Iterator[dict[str, Any]]:
    read = get_format("functiongemma").parse
    for example in (each for split in SPLITS for each in demo.examples(domain, split)):
        (call,) = read(example.expected).tool_calls
        said = {"name": call.name, "arguments": call.arguments}
        yield {"request": example.messages[0]["content"], "call": said}


def _tools() -> dict[str, Any]:
    given = (each for name in DOMAINS for each in demo.examples(name, "declared"))
    return {tool["function"]["name"]: tool for each in given for tool in each.tools or ()}
