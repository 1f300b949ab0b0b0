"""Base: a base model on disk. Config, tokenizer files and lazily mapped tensors.

It reads a Hugging Face folder (config.json, safetensors, sharded or not) and computes nothing but
its fingerprint. It does not know engines or adapters.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorakit.adapter import Array
from lorakit.architectures import Decoder, describe
from lorakit.cache import Memo
from lorakit.errors import BaseModelError, SourceError
from lorakit.tensors import open_safetensors

MAX_JSON = 64 << 20  # bytes; an index of a very large model is about 1 MB
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
FLOATS = ("float64", "float32", "float16", "bfloat16")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Base:
    """A base model folder. `tensors` maps parameter names to read-only mapped arrays."""

    path: Path
    config: Mapping[str, Any]
    decoder: Decoder
    tensors: Mapping[str, Array]
    files: tuple[Path, ...]  # the weight files
    _fingerprint: list[str] = field(default_factory=list, repr=False)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Base:
        """Open a Hugging Face folder; tensors are mapped, not read.

        Raises SourceError (no such folder, a file missing), FormatError (broken weights) and
        BaseModelError (unknown architecture, tensors missing or of another shape: all listed).
        """
        folder = Path(path).expanduser()
        if folder.is_file():
            raise SourceError(
                f"{folder} is a file, not a base model folder",
                code="source_unsupported",
                hint="this version opens Hugging Face folders; it reads no GGUF or ONNX models",
            )
        if not folder.is_dir():
            raise SourceError(
                f"there is no base model folder at {folder}",
                hint="expected a Hugging Face folder with config.json and model.safetensors",
            )
        config = read_json(folder / "config.json")
        decoder = describe(config)
        files = _weight_files(folder)
        tensors: dict[str, Array] = {}
        for file in files:
            tensors |= open_safetensors(file).tensors
        _check(folder, decoder, tensors)
        return cls(path=folder, config=config, decoder=decoder, tensors=tensors, files=files)

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def nbytes(self) -> int:
        return sum(int(tensor.nbytes) for tensor in self.tensors.values())

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the config and the whole weight files.

        Remembered in the cache by path, size and modification time, so that it is read once.
        """
        if not self._fingerprint:
            self._fingerprint.append(_fingerprint(self))
        return self._fingerprint[0]

    def tensor(self, name: str) -> Array:
        """A tensor by parameter name; the tied lm_head is the embedding."""
        if name == "lm_head.weight" and self.decoder.tied:
            name = "model.embed_tokens.weight"
        return self.tensors[name]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of bounded size; SourceError or BaseModelError otherwise."""
    try:
        if path.stat().st_size > MAX_JSON:
            raise BaseModelError(f"{path} is larger than {MAX_JSON} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SourceError(
            f"{path.parent} has no {path.name}",
            hint="a Hugging Face model folder holds config.json, model.safetensors, tokenizer.json",
        ) from error
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise BaseModelError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise BaseModelError(f"{path} must hold a JSON object")
    return content


def _weight_files(folder: Path) -> tuple[Path, ...]:
    if (folder / WEIGHTS).is_file():
        return (folder / WEIGHTS,)
    if not (folder / INDEX).is_file():
        raise SourceError(
            f"{folder} has neither {WEIGHTS} nor {INDEX}",
            hint="only safetensors weights are read; convert pickled weights first",
        )
    shards = read_json(folder / INDEX).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise BaseModelError(f"{folder / INDEX} has no weight_map")
    names = sorted({str(name) for name in shards.values()})
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise BaseModelError(f"{folder / INDEX} names files outside the folder", items=outside)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise SourceError(f"{folder} lacks weight files that its index names", items=missing)
    return tuple(folder / name for name in names)


def _check(folder: Path, decoder: Decoder, tensors: Mapping[str, Array]) -> None:
    faults = []
    for name, shape in decoder.parameters().items():
        if name not in tensors:
            faults.append(f"{name}: missing, expected {list(shape)}")
        elif tensors[name].shape != shape:
            faults.append(f"{name}: expected {list(shape)}, found {list(tensors[name].shape)}")
        elif tensors[name].dtype.name not in FLOATS:
            faults.append(f"{name}: expected floating point, found {tensors[name].dtype.name}")
    if faults:
        shown = faults[:20] + ([f"and {len(faults) - 20} more"] if len(faults) > 20 else [])
        raise BaseModelError(
            f"the weights in {folder} do not match its config.json",
            items=shown,
            hint="the folder may be incomplete or hold the config of another model",
        )


def _fingerprint(base: Base) -> str:
    config = json.dumps(dict(base.config), sort_keys=True).encode()
    with ThreadPoolExecutor(max_workers=4) as pool:
        parts = list(pool.map(_file_digest, base.files))
    return hashlib.sha256(b"\0".join([config, *(part.encode() for part in parts)])).hexdigest()


def _file_digest(path: Path) -> str:
    status = path.stat()
    key = f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ino}"

    def compute() -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return Memo("fingerprints").get(key, compute)
