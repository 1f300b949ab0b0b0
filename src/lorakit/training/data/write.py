"""Writing examples as JSON lines that read back as the same examples."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from lorakit.errors import WriteError
from lorakit.files.atomic import write_atomic
from lorakit.files.bounded import as_path
from lorakit.training.data.assemble import Tools
from lorakit.training.data.example import Example
from lorakit.training.data.read import read_tools


def write_examples(path: str | os.PathLike[str], examples: Iterable[Example]) -> int:
    """Write a file, whole or not at all; returns how many examples it has.

    Tools are left out of lines where a `tools.json` beside the file declares the same. Raises
    WriteError.
    """
    path = as_path(path)
    beside = path.parent / "tools.json"
    count = 0

    def lines(file: BinaryIO) -> None:
        nonlocal count
        for line in _lines(examples, beside):
            file.write(line)
            count += 1

    try:
        write_atomic(path, lines)
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from error
    return count


def record_of(example: Example, *, tools: bool = True) -> dict[str, Any]:
    """An example as an object of JSON lines. tools: with its declarations."""
    if example.task == "text":
        return {"text": example.text}
    if example.task == "completion":
        return {"prompt": example.prompt, "completion": example.text}
    record: dict[str, Any] = {"messages": list(example.messages)}
    return {**record, "tools": list(example.tools)} if tools and example.tools else record


def _lines(examples: Iterable[Example], beside: Path) -> Iterator[bytes]:
    declared = tuple(read_tools(beside)) if beside.is_file() else ()
    same: dict[int, Tools] = {}  # tools known to be those beside the file, kept alive by being here
    for example in examples:
        if id(example.tools) not in same and example.tools == declared:
            same[id(example.tools)] = example.tools
        record = record_of(example, tools=id(example.tools) not in same)
        yield json.dumps(record, ensure_ascii=False).encode() + b"\n"
