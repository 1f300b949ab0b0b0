"""Where a model's folder keeps its chat templates; their text is read here and not compiled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lorakit.errors import FormatError
from lorakit.text.tokenizer import read_optional, read_whole

MAX_SOURCE = 1 << 20  # bytes; the longest templates in use are about 50 KB


def template_sources(folder: Path) -> dict[str, str]:
    """The text of a model folder's templates by name; none, if it has none. Raises FormatError."""
    return (
        _read_files(folder)
        or _read_config(folder / "tokenizer_config.json")
        or _read_config(folder / "chat_template.json")  # of processors, before they had .jinja
    )


def _read_files(folder: Path) -> dict[str, str]:
    files = {"default": folder / "chat_template.jinja"}
    for place in ("chat_templates", "additional_chat_templates"):  # the latter is transformers'
        files |= {file.stem: file for file in sorted((folder / place).glob("*.jinja"))}
    return {name: _read_text(file) for name, file in files.items() if file.is_file()}


def _read_text(path: Path) -> str:
    try:
        return read_whole(path, MAX_SOURCE).decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not UTF-8 text") from error


def _read_config(path: Path) -> dict[str, str]:
    value = read_optional(path).get("chat_template")
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    fault = FormatError(
        f"{path}: chat_template must be a string or a list of objects with name and template"
    )
    if not isinstance(value, list):
        raise fault
    named: dict[str, str] = {}
    for entry in value:
        name, text = _named(entry)
        if name is None or text is None or name in named:
            raise fault
        named[name] = text
    return named


def _named(entry: Any) -> tuple[str | None, str | None]:
    pair = (entry.get("name"), entry.get("template")) if isinstance(entry, dict) else (None, None)
    return pair if all(isinstance(text, str) for text in pair) else (None, None)
