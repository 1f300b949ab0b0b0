"""Which files make an adapter or a base, whoever provides them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lorakit.errors import BaseModelError, SourceError
from lorakit.files.bounded import parse_json, read_bounded
from lorakit.files.gguf_parts import part_names

Kind = Literal["adapter", "base"]
Get = Callable[[str], Path | None]  # a file of the folder by name; None where there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """The files of a kind: all of `required`, the first of `weights`, what there is of the rest."""

    required: tuple[str, ...]
    weights: tuple[str, ...]
    optional: tuple[str, ...] = ()


_SHARD = re.compile(r"[\w-][\w.-]*\.safetensors", re.ASCII)
RECORD = "lorakit.json"
MAX_FORMS = 16
_GRAPH = re.compile(r"onnx/[A-Za-z0-9][\w-]*\.onnx", re.ASCII)
MAX_NAME = 80  # characters of a weight file's name
MAX_INDEX = 64 << 20  # bytes; that of a very large model is about 1 MB
INDEX = "model.safetensors.index.json"
BUNDLES: Mapping[Kind, Bundle] = {
    "adapter": Bundle(
        required=("adapter_config.json",),
        weights=("adapter_model.safetensors", "adapters.safetensors", "adapter_model.bin"),
        optional=("lorakit.json", "chat_template.jinja", "tokenizer.json", "tokenizer_config.json",
                  "special_tokens_map.json", "added_tokens.json"),
    ),
    "base": Bundle(
        required=("config.json", "tokenizer.json"),
        weights=("model.safetensors", INDEX),
        optional=("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
                  "generation_config.json", "chat_template.jinja", "chat_template.json",
                  "preprocessor_config.json", "processor_config.json"),  # of a model that also sees
    ),
}  # fmt: skip


def files_with(kind: Kind, name: str) -> tuple[str, ...]:
    """The files that one file's name stands for: of the first part of a base, all parts.

    Raises SourceError (`source_unsupported`) for a part that is not the first.
    """
    return part_names(name) if kind == "base" else (name,)


def collect(kind: Kind, get: Get, source: str) -> dict[str, Path]:
    """Get every file of a kind; an adapter may be weights alone, for which an alpha is said.

    Raises SourceError (`source_not_found`) where one is missing.
    """
    bundle = BUNDLES[kind]
    found: dict[str, Path] = {}
    for name in bundle.required:
        path = get(name)
        if path is None and kind == "base":
            raise _missing(kind, source, name)
        if path is not None:
            found[name] = path
    weights = next(((n, p) for n in bundle.weights if (p := get(n)) is not None), None)
    names: list[str] = []
    if weights is not None:
        names = _shards(weights[1], source) if weights[0] == INDEX else []
    elif kind == "base" and (record := get(RECORD)) is not None:
        names = _graphs(record, source)
        weights = (RECORD, record) if names else None
    if weights is None:
        names_of_weights = " or ".join(bundle.weights)
        lacking = next((n for n in bundle.required if n not in found), names_of_weights)
        raise _missing(kind, source, lacking)
    found[weights[0]] = weights[1]
    for name in names:
        path = get(name)
        if path is None:
            raise _missing(kind, source, name)
        found[name] = path
    found |= {name: path for name in bundle.optional if (path := get(name)) is not None}
    return found


def _shards(index: Path, source: str) -> list[str]:
    """The weight files that an index names; only plain names of safetensors files."""
    try:
        content = read_bounded(index, MAX_INDEX) or b""
        names = sorted(set(map(str, parse_json(content)["weight_map"].values())))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BaseModelError(f"{source}: {INDEX} has no readable weight_map") from error
    odd = [name for name in names if not _SHARD.fullmatch(name)]
    odd += [name for name in names if len(name) > MAX_NAME]
    count = Counter(name.casefold() for name in names)  # file systems may take them for one
    odd += [name for name in names if count[name.casefold()] > 1]
    if odd:
        raise BaseModelError(f"{source}: {INDEX} names what are no weight files", items=odd[:20])
    return names


def _graphs(record: Path, source: str) -> list[str]:
    """The graphs of an ONNX export with their weights; nothing where it is a record of others."""
    try:
        said = parse_json(read_bounded(record, MAX_INDEX) or b"")
        if (said.get("format"), said.get("to")) != ("lorakit-export", "onnx"):
            return []
        graphs = [form["file"] for form in said["forms"].values()]
        odd = [repr(name)[:80] for name in graphs if not _GRAPH.fullmatch(name)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BaseModelError(f"{source}: {RECORD} cannot be read") from error
    if odd or len(graphs) > MAX_FORMS:
        raise BaseModelError(f"{source}: {RECORD} names what are no graphs", items=odd[:20])
    return [name for graph in graphs for name in (graph, f"{graph}_data")]


def _missing(kind: Kind, source: str, name: str) -> SourceError:
    hints = {
        "adapter": "a folder holds adapter_config.json and its weights; a URL of one file ends "
        "in .gguf or .onnx_adapter",
        "base": "a base is a Hugging Face folder (config.json, safetensors, tokenizer.json), or "
        "the reference of one .gguf file, or of the first of several",
    }
    return SourceError(f"{source} has no {name}", hint=hints[kind])
