"""What comes along with the weights: config, tokenizer, templates, licences; and nothing else.

An allowlist of names. Code (`*.py`), pickles (`*.bin`, `*.pt`), other weights, and model cards,
which speak of the base, stay behind; the report names them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from lorakit.base.exported import RECORD
from lorakit.base.folder import INDEX, MAX_JSON, Base, read_json
from lorakit.errors import BaseModelError
from lorakit.files.atomic import write_synced
from lorakit.files.bounded import read_bounded
from lorakit.formats.folder import member
from lorakit.merge.plan import Plan
from lorakit.merge.shards import Shard

CONFIG = "config.json"
MAX_COMPANION = 4 * MAX_JSON
ALONG = (
    *("generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt"),
    *("chat_template.jinja", "chat_template.json", "LICENSE*", "NOTICE*"),
    *("preprocessor_config.json", "processor_config.json"),  # of a model that also sees
)


def bring_along(
    base: Base, folder: Path, plan: Plan, shards: tuple[Shard, ...], dtype: str | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Write config, index and companions; returns the names that came along and that stayed.

    Raises BaseModelError (a companion of absurd size), FormatError (a link out of the base's
    folder) and OSError.
    """
    write_synced(folder / CONFIG, _config(base, plan, dtype))
    written = {CONFIG, RECORD, *(file.name for file in base.files)}
    if (base.path / INDEX).is_file() and len(shards) and INDEX not in written:
        write_synced(folder / INDEX, _index(base, plan, shards))
        written.add(INDEX)
    coming = companions(base)
    for name, content in coming:
        write_synced(folder / name, content)
        written.add(name)
    names = {path.name for path in base.path.iterdir()} - written
    left = sorted(name for name in names if name[0] != ".")  # .gitattributes
    return tuple(name for name, _ in coming), tuple(left)


def companions(base: Base) -> list[tuple[str, bytes]]:
    """Names and contents of the files that come along with the weights, in order.

    Raises BaseModelError, FormatError and OSError, as `bring_along` does.
    """
    return companions_in(base.path)


def companions_in(folder: Path) -> list[tuple[str, bytes]]:
    """The same of a folder that need not be a base's."""
    found = []
    for path in sorted(folder.iterdir()):
        if not any(fnmatchcase(path.name, pattern) for pattern in ALONG) or path.is_dir():
            continue
        if (source := member(folder, path.name)) is not None:
            content = read_bounded(source, MAX_COMPANION)
            if content is None:
                raise BaseModelError(f"{path} is larger than any tokenizer: {MAX_COMPANION} bytes")
            found.append((path.name, content))
    return found


def _config(base: Base, plan: Plan, dtype: str | None) -> bytes:
    """config.json: the very bytes where nothing of it changes."""
    changes: dict[str, Any] = {**_rope(base.config), **plan.config}
    if dtype is not None:
        keys = [key for key in ("dtype", "torch_dtype") if key in base.config] or ["dtype"]
        changes |= dict.fromkeys(keys, dtype)
    if all(base.config.get(key) == value for key, value in changes.items()):
        content = read_bounded(base.path / CONFIG, MAX_JSON)
        if content is not None:
            return content
    return _json(base.config_with(changes))


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """RoPE's base where readers of before transformers 5 look for it, mlx-lm among them."""
    said = config.get("rope_parameters")
    if not isinstance(said, Mapping):
        return {}
    whole, local = said.get("full_attention", said), said.get("sliding_attention", {})
    keys = {"rope_theta": whole, "rope_local_base_freq": local}
    return {
        key: of["rope_theta"]
        for key, of in keys.items()
        if isinstance(of, Mapping) and "rope_theta" in of and key not in config
    }


def _index(base: Base, plan: Plan, shards: tuple[Shard, ...]) -> bytes:
    """The index with what was added and the size of what is written now."""
    index = read_json(base.path / INDEX)
    homes = {output.name: shard.name for shard in shards for output in shard.outputs}
    size = sum(output.nbytes for shard in shards for output in shard.outputs)
    metadata = dict(index.get("metadata") or {})
    if "total_parameters" in metadata and plan.added:
        extra = sum(int(np.prod(added.shape)) for added in plan.added.values())
        metadata["total_parameters"] += extra
    index["metadata"] = metadata | {"total_size": size}
    index["weight_map"] = {**index["weight_map"], **{n: homes[n] for n in plan.added}}
    return _json(index)


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"
