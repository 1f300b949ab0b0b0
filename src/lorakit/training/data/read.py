"""Reading data sets: JSON lines, a JSON list, or CSV, one line at a time.

Every line becomes an example or a fault with its number; nothing is skipped but empty lines. Calls
stay Python values all the way: Arrow would merge the arguments of different tools into one record.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from lorakit.errors import FormatError, SourceError
from lorakit.files.bounded import as_path, open_regular, parse_json, read_text, read_up_to
from lorakit.training.data.assemble import Declarations, assemble
from lorakit.training.data.example import Dataset, Example, Fault
from lorakit.training.data.shapes import SHAPES, BadRowError, Parts, shape_of

MAX_FILE = 4 << 30  # bytes
MAX_LINE = 4 << 20
MAX_LIST = 64 << 20  # a JSON list is parsed as a whole
MAX_LIST_ITEMS = 20_000_000
MAX_FAULTS = 10_000  # then the rest is not read
COLUMNS = ("user_content", "tool_name", "tool_arguments")  # of a CSV file without a header
HEADERS = {"user prompt": COLUMNS[0], "tool name": COLUMNS[1], "tool args json": COLUMNS[2]}
KEYS = frozenset(key for shape in SHAPES for key in (*shape.required, *shape.optional))
ToolList = Sequence[Mapping[str, Any]]
Row = tuple[str, Mapping[str, Any]]


def read_examples(
    path: str | os.PathLike[str], *, tools: str | os.PathLike[str] | ToolList | None = None
) -> Dataset:
    """The examples of a file, and a fault for every line that is none.

    tools: declarations for rows that have none, or a JSON file of them; without it the file's
    neighbour `tools.json` where there is one. That is left aside where no line calls a tool: then
    it belongs to other data. Raises SourceError, FormatError.
    """
    path = as_path(path)
    beside = path.parent / "tools.json"
    implied = tools is None and beside.is_file()
    declarations = Declarations(_given(beside if implied else tools))
    examples: list[Example] = []
    faults: list[Fault] = []
    ignored: Counter[str] = Counter()
    for row in _rows(path):
        made = row if isinstance(row, Fault) else _example(row, declarations, ignored)
        if isinstance(made, Example):
            examples.append(made)
            continue
        faults.append(made)
        if len(faults) == MAX_FAULTS:
            reason = f"{MAX_FAULTS} lines were faulty; the rest was not read"
            faults.append(Fault(place=made.place, reason=reason, code="too_many"))
            break
    if implied and not any(_calls(example) for example in examples):
        examples = [_without(declarations.given, example) for example in examples]
    return Dataset(examples=tuple(examples), faults=tuple(faults), ignored=dict(ignored))


def declare_tools(examples: Sequence[Example], tools: str | os.PathLike[str] | ToolList) -> Dataset:
    """Examples that declare none with these tools, their calls checked as a file's are."""
    declarations = Declarations(_given(tools))
    made: list[Example] = []
    faults: list[Fault] = []
    for each in examples:
        try:
            parts = Parts(messages=list(each.messages))
            bare = each.messages and not each.tools
            made.append(assemble(parts, each.place, declarations) if bare else each)
        except BadRowError as error:
            faults.append(Fault(place=each.place, reason=error.reason, code=error.code))
    return Dataset(examples=tuple(made), faults=tuple(faults))


def read_tools(path: str | os.PathLike[str]) -> ToolList:
    """Tool declarations from a JSON file. Raises SourceError, FormatError."""
    path = as_path(path)
    try:
        tools = parse_json(read_text(path).encode())
        return Declarations(tools).given
    except ValueError as error:
        raise FormatError(f"{path} is not valid JSON: {error}") from error
    except BadRowError as error:
        raise FormatError(f"{path} declares no tools: {error.reason}") from error


def _given(tools: str | os.PathLike[str] | ToolList | None) -> ToolList | None:
    if tools is None:
        return None
    if isinstance(tools, str | os.PathLike):
        return read_tools(tools)
    try:
        return Declarations(list(tools)).given
    except BadRowError as error:
        raise FormatError(f"these are no tools: {error.reason}") from error


def _example(row: Row, declarations: Declarations, ignored: Counter[str]) -> Example | Fault:
    place, record = row
    try:
        shape = shape_of(record)
        ignored.update(shape.ignores(record))
        return assemble(shape.take(record), place, declarations)
    except BadRowError as error:
        return Fault(place=place, reason=error.reason, code=error.code)


def _calls(example: Example) -> bool:
    return any(message.get("tool_calls") for message in example.messages)


def _without(tools: ToolList, example: Example) -> Example:
    if example.task != "calls" or example.tools is not tools:
        return example
    return replace(example, task="chat", tools=())


def _rows(path: Path) -> Iterator[Row | Fault]:
    """The records of a file with their places."""
    try:
        with open_regular(path) as raw, io.BufferedReader(raw) as file:
            if (size := os.fstat(raw.fileno()).st_size) > MAX_FILE:
                reason = f"{path} has {size} bytes; data may have {MAX_FILE}"
                raise FormatError(reason, hint="split it into several files")
            head = file.peek(16)
            if head.startswith((b"PAR1", b"ARROW1", b"\x1f\x8b", b"PK\x03\x04")):
                raise FormatError(
                    f"{path} is a packed file", hint="write it as JSON lines, UTF-8 text"
                )
            if path.suffix.lower() in (".csv", ".tsv"):
                yield from _table(file, path)
            elif head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
                yield from _list(file, path)
            else:
                yield from _json_lines(file, path.name)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error


def _json_lines(file: BinaryIO, name: str) -> Iterator[Row | Fault]:
    for number, line in _lines(file):
        place = f"{name}:{number}"
        if line is None:
            yield Fault(place=place, reason=_longer(), code="line_too_long")
        elif line.strip():
            yield _parsed(line, place)


def _parsed(line: bytes, place: str) -> Row | Fault:
    try:
        record = parse_json(line)
    except UnicodeDecodeError as error:
        return Fault(place=place, reason=f"not UTF-8 text: {error.reason}", code="not_utf8")
    except ValueError as error:
        return Fault(place=place, reason=f"not valid JSON: {error}", code="json_invalid")
    return _record(record, place, b"\\u" in line)


def _record(record: Any, place: str, escapes: bool) -> Row | Fault:
    if not isinstance(record, dict):
        reason = f"expected an object, found {record!r:.60}"
        return Fault(place=place, reason=reason, code="row_invalid")
    if escapes and not _is_text(record):
        return Fault(
            place=place, reason="not UTF-8 text, or half of a surrogate pair", code="not_utf8"
        )
    return place, record


def _is_text(record: Any) -> bool:
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        return False
    return True


def _list(file: BinaryIO, path: Path) -> Iterator[Row | Fault]:
    content = read_up_to(file, MAX_LIST + 1)
    if len(content) > MAX_LIST:
        reason = f"{path} is a JSON list of more than {MAX_LIST} bytes"
        raise FormatError(reason, hint="write it as JSON lines, one object a line")
    try:
        records = parse_json(content, items=MAX_LIST_ITEMS)
    except ValueError as error:
        raise FormatError(f"{path} is not valid JSON: {error}") from error
    for number, record in enumerate(records, 1):
        yield _record(record, f"{path.name}[{number}]", True)


def _table(file: BinaryIO, path: Path) -> Iterator[Row | Fault]:
    """CSV rows. Without a header they are request, tool, arguments as JSON; or request, call."""
    reader = csv.reader(
        (_decoded(line) for _, line in _lines(file)),
        delimiter="\t" if path.suffix.lower() == ".tsv" else ",",
        skipinitialspace=True,
        strict=True,
    )
    header: Sequence[str] | None = None
    first = True
    while True:
        place = f"{path.name}:{reader.line_num + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            reason = f"not valid CSV up to line {reader.line_num}: {error}"
            yield Fault(place=place, reason=reason, code="csv_invalid")
            first = False
            continue
        if first and (header := _header(cells)):
            first = False
            continue
        first = False
        if any(cells):
            yield _cells(cells, header, place)


def _header(cells: Sequence[str]) -> list[str] | None:
    """The keys that a header names, or None where the row is none."""
    names = [HEADERS.get(cell.strip().casefold(), cell.strip()) for cell in cells]
    return names if len(names) > 1 and sum(name in KEYS for name in names) > 1 else None


def _cells(cells: Sequence[str], header: Sequence[str] | None, place: str) -> Row | Fault:
    keys = header or (("request", "call") if len(cells) == 2 else COLUMNS)
    if len(cells) != len(keys):
        reason = f"expected {len(keys)} columns ({', '.join(keys)}), found {len(cells)}"
        return Fault(place=place, reason=reason, code="csv_invalid")
    record = dict(zip(keys, cells, strict=True))
    return _record(record, place, True)


def _decoded(line: bytes | None) -> str:
    if line is None:
        raise FormatError(_longer(), hint="write the data as JSON lines")
    return line.decode("utf-8-sig", "surrogateescape")


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Lines with their numbers from 1; None for one that is too long."""
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            while line and not line.endswith(b"\n"):
                line = file.readline(1 << 20)
            yield number, None
        else:
            yield number, line


def _longer() -> str:
    return f"the line is longer than {MAX_LINE} bytes"
