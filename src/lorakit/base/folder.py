"""Base: a base model on disk. Config, tokenizer files and lazily mapped tensors.

It reads a Hugging Face folder (config.json, safetensors, sharded or not) and computes nothing but
its fingerprint. It does not know engines or adapters. The folder of an export has no weights.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from lorakit.adapter import Array, in_order
from lorakit.architectures import (
    HEAD,
    Decoder,
    Spelling,
    Stored,
    describe,
    in_files,
    is_other,
    text_config,
    with_text,
)
from lorakit.base.exported import (
    FORMAT,
    RECORD,
    Exported,
    foreign,
    holds_graphs,
    is_graph,
    read_exported,
    require_more_than_graphs,
)
from lorakit.base.module_tensors import expected_in, places_of, require_whole, spelling_in
from lorakit.base.quantised import require_floats, require_unquantised
from lorakit.base.unmerged import require_plain
from lorakit.errors import BaseModelError, CapabilityError, SourceError
from lorakit.files.bounded import AGAIN, parse_json, read_bounded
from lorakit.files.cache import Memo, digest_of
from lorakit.files.gguf_parts import first_part
from lorakit.files.nearby import or_nearby, or_within
from lorakit.files.pointers import MAX_POINTER, refuse_pointer
from lorakit.files.safetensors import open_safetensors

MAX_JSON = 16 << 20  # bytes; an index of a very large model is about 10 MB
MAX_SHARDS = 4096
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_MAKE_ONE = ", or make one: lorakit merge FILE.gguf -o FOLDER"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Base:
    """A base model folder. `tensors` maps the names in its files to read-only mapped arrays.

    Modules and parameters have the names of the model class, which the files may spell otherwise:
    ask `weight`, `tensor` and `stored`, not `tensors`, for one of them.
    """

    path: Path  # absolute: the process may go to another folder
    config: Mapping[str, Any]
    decoder: Decoder
    tensors: Mapping[str, Array]
    files: tuple[Path, ...]  # the weight files
    templates: Mapping[str, str] = field(default_factory=dict)  # chat templates that a file carries
    sampling: Mapping[str, Any] = field(default_factory=dict)  # what a GGUF file says of sampling
    title: str = ""  # what a GGUF file calls the model
    exported: Exported | None = None  # of an exported model, which has no tensors
    left_out: tuple[str, ...] = ()  # tensors of a part that sees, of which this is the text model
    _stored: Mapping[str, tuple[Stored, ...]] = field(default_factory=dict, repr=False)
    _spelling: Spelling = field(default=(), repr=False)  # how names begin in the files
    _given: Mapping[str, Any] = field(default_factory=dict, repr=False)  # config.json, as it is
    _fingerprint: list[str] = field(default_factory=list, repr=False)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Base:
        """Open a Hugging Face folder; tensors are mapped, not read.

        Of an exported model (`lorakit export --to onnx`) the folder, or one of its graphs.

        Raises SourceError (no such folder, a file missing), FormatError (broken weights) and
        BaseModelError (unknown architecture, tensors missing or of another shape: all listed).
        """
        folder = Path(path).expanduser()
        try:
            return cls._open(folder)
        except OSError as error:  # a folder that may not be entered, a name that is too long
            raise SourceError(f"cannot read {folder}: {error.strerror or error}") from error

    @classmethod
    def _open(cls, folder: Path) -> Base:
        graph = folder.name if is_graph(folder) and folder.is_file() else None
        folder = folder.absolute().parent.parent if graph else folder
        if folder.is_file():
            refuse_pointer(read_bounded(folder, MAX_POINTER) or b"", folder)
            raise SourceError(
                f"{folder} is a file, not a base model folder",
                code="source_unsupported",
                hint="a base is a Hugging Face folder with safetensors, or a GGUF file",
            )
        if not folder.is_dir():
            raise SourceError(
                f"there is no base model at {folder}",
                hint="expected a GGUF file, or a folder with config.json and model.safetensors"
                f"{or_nearby(folder)}",
            )
        _require_no_gguf(folder)
        _require_no_adapter(folder)
        require_more_than_graphs(folder)
        given = read_json(folder / "config.json")
        exported = _exported(folder, given, graph)
        if exported is None:
            require_unquantised(folder, given)
        try:
            config = text_config(given)
            decoder = describe(config)
        except BaseModelError as error:
            message = f"{folder}: {error.message}"
            raise BaseModelError(
                message, code=error.code, items=error.items, hint=error.hint
            ) from error
        if exported is not None:
            return cls(
                path=folder.absolute(),
                config=config,
                decoder=decoder,
                tensors={},
                files=(),
                exported=exported,
            )
        files = _weight_files(folder)
        tensors: dict[str, Array] = {}
        for file in files:
            found = open_safetensors(file).tensors
            twice = in_order(found.keys() & tensors.keys())
            if twice:
                raise BaseModelError(f"{file} holds tensors of another file", items=twice[:20])
            tensors |= found
        require_plain(folder, tensors)
        require_floats(folder, given, tensors)
        spelling = spelling_in(decoder, given, tensors)
        stored = places_of(decoder, tensors, spelling)
        require_whole(folder, expected_in(decoder, stored, spelling), tensors)
        return cls(
            path=folder.absolute(),  # messages above show it as it was given
            config=config,
            decoder=decoder,
            tensors=tensors,
            files=tuple(file.absolute() for file in files),
            left_out=tuple(in_order(name for name in tensors if is_other(given, name))),
            _stored=stored,
            _spelling=spelling,
            _given=given,
        )

    def __repr__(self) -> str:
        """What it is and where; reads nothing."""
        family, layers = self.decoder.architecture.model_type, len(self.decoder.layers)
        return f"<Base {str(self.path)!r} ({family}, {layers} layers)>"

    @property
    def is_gguf(self) -> bool:
        """Whether it is one GGUF file, whose weights only llama.cpp reads."""
        return self.path.is_file()

    def require_weights(self) -> None:
        """Raise CapabilityError for a GGUF file or an export, whose weights are not read here."""
        if self.exported is not None:
            raise CapabilityError(
                f"{self.path.name} is an exported model, whose weights are not read or changed",
                hint=f"use the base that it was made from: {self.exported.base_name}",
            )
        if self.is_gguf:
            raise CapabilityError(
                f"{self.path.name} is a GGUF file, whose weights are not read or changed here",
                hint="use the Hugging Face folder of the same model"
                + ("" if self.decoder.is_foreign else _MAKE_ONE),
            )

    def in_form(self, quantize: str) -> Base:
        """An export in the form that an engine's `quantize` names; any other base as it is.

        Raises CapabilityError where an export has no such form.
        """
        own = self.exported
        return self if own is None else replace(self, exported=own.in_form(quantize))

    @property
    def held(self) -> tuple[str, ...]:
        """Names of the adapters that an export has in it, to choose among."""
        return () if self.exported is None else self.exported.held

    @property
    def name(self) -> str:
        """What the base is called: its folder's or its file's name."""
        return self.path.resolve().name

    @property
    def given_name(self) -> str:
        """What its config or its file calls it, wherever it lies; or "".

        Not by `_name_or_path`, which a fine-tune has from its base; a merged model has none.
        """
        if self.title:
            return self.title
        name = self._given.get("lorakit_name")
        return name if isinstance(name, str) and not (self.path / RECORD).is_file() else ""

    @property
    def nbytes(self) -> int:
        """Bytes of the weights, in the checkpoint's own dtypes."""
        return sum(int(tensor.nbytes) for tensor in self.tensors.values())

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the config and the whole weight files; of an export, the base's it is of.

        Remembered in the cache by path, size and modification time, so that it is read once.
        """
        if not self._fingerprint:
            own = self.exported
            self._fingerprint.append(_fingerprint(self) if own is None else own.fingerprint)
        return self._fingerprint[0]

    def tensor(self, name: str) -> Array:
        """A parameter by its name in the model class, as the class shapes it.

        A view of the file, but for fused experts whose matrices the files keep one by one: those
        are copied into one array. The tied lm_head is the embedding. Raises KeyError.
        """
        if name == f"{HEAD}.weight" and self.decoder.tied:
            name = f"{self.decoder.embedding}.weight"
        found = self.tensors.get(self.file_name(name))
        return found if found is not None else self._joined(name)

    def file_name(self, name: str) -> str:
        """What the files call a parameter that they keep as the model class has it."""
        return in_files(name, self._spelling)

    def config_with(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """The config of its folder with these fields of the model changed."""
        return with_text(self._given or self.config, changes)

    def __contains__(self, name: object) -> bool:
        """Whether the base holds a parameter of this name; a tied lm_head is the embedding."""
        tied = name == f"{HEAD}.weight" and self.decoder.tied
        return tied or name in self.decoder.parameters()

    def stored(self, module: str) -> tuple[Stored, ...]:
        """The tensors in the files that hold a module's weight, and which part of each is its own.

        Names are those of `tensors`. The tied lm_head is the embedding. Raises KeyError.
        """
        return self._stored[module]

    def weight(self, module: str) -> Array:
        """A module's weight as [out, in]; for an embedding that is [hidden, vocabulary].

        Of experts: [experts, out, in]. A view of the file, except for experts whose matrices the
        files keep one by one: those are copied into one array (see `experts`). Raises KeyError.
        """
        held = self._stored[module]
        views = [part.view(self.tensors[part.name]) for part in held]
        return views[0] if held[0].expert is None else np.stack(views)

    def experts(self, module: str) -> tuple[Array, ...]:
        """The matrices [out, in] of a module's experts, always views. Raises KeyError."""
        held = self._stored[module]
        views = [part.view(self.tensors[part.name]) for part in held]
        return tuple(views) if held[0].expert is not None else tuple(views[0])

    def _joined(self, name: str) -> Array:
        """Experts as the model class fuses them, from matrices that the files keep one by one."""
        modules = [m for m in self._stored if name == self.decoder.fused(m)]
        if not modules:
            raise KeyError(name)
        return np.concatenate([self.weight(module) for module in modules], axis=1)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of bounded size. Raises SourceError, BaseModelError, and
    FormatError for a pointer of git-lfs."""
    try:
        raw = read_bounded(path, MAX_JSON)
        if raw is None:
            raise BaseModelError(f"{path} is larger than {MAX_JSON} bytes")
        refuse_pointer(raw[:64], path)
        content = parse_json(raw)
    except FileNotFoundError as error:
        raise SourceError(
            f"{path.parent} has no {path.name}",
            hint="a Hugging Face model folder holds config.json, model.safetensors, tokenizer.json"
            f"{or_within(path)}",
        ) from error
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise BaseModelError(f"{path} is not valid JSON: {error}", hint=AGAIN) from error
    if not isinstance(content, dict):
        raise BaseModelError(f"{path} must hold a JSON object")
    return content


def _require_no_adapter(folder: Path) -> None:
    if (folder / "config.json").exists() or not (folder / "adapter_config.json").is_file():
        return
    raise SourceError(
        f"{folder} is an adapter, not a base model",
        code="source_unsupported",
        hint="open the base that it was trained on, and load the adapter into that",
    )


def _require_no_gguf(folder: Path) -> None:
    """A folder of GGUF files is no base; which one is meant its user must say."""
    if (folder / "config.json").exists():
        return
    found = sorted(
        path.name for path in folder.glob("*.gguf") if first_part(path.name) == path.name
    )
    if found:
        raise SourceError(
            f"{folder} is a folder of GGUF files, not a base model folder",
            code="source_unsupported",
            items=found[:20],
            hint=f"name one: {folder / found[0]}",
        )


def _exported(folder: Path, config: Mapping[str, Any], graph: str | None) -> Exported | None:
    """What is known of an export, or None for a folder with weights.

    graph: the name of the file that is to run. Raises SourceError for somebody else's export.
    """
    if graph is None and any((folder / name).is_file() for name in (WEIGHTS, INDEX)):
        return None
    path = folder / RECORD
    record = read_json(path) if path.is_file() else {}
    if record.get("format") == FORMAT and record.get("to") == "onnx":
        return read_exported(folder, record, config, graph)
    if holds_graphs(folder):
        raise foreign(folder)
    return None


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
    strange = [f"{name!r:.80}" for name in shards.values() if not isinstance(name, str)]
    names = [] if strange else sorted(set(shards.values()))
    if len(names) > MAX_SHARDS:
        raise BaseModelError(
            f"{folder / INDEX} names {len(names)} files; {MAX_SHARDS} is the limit"
        )
    outside = strange or [name for name in names if Path(name).name != name]
    if outside:
        raise BaseModelError(f"{folder / INDEX} names files outside the folder", items=outside[:20])
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise SourceError(f"{folder} lacks weight files that its index names", items=missing[:20])
    return tuple(folder / name for name in names)


def placed(
    decoder: Decoder, tensors: Mapping[str, Array], base: Base
) -> Mapping[str, tuple[Stored, ...]]:
    """For `Base`: where modules are in other tensors than a base's, which are named alike."""
    return places_of(decoder, tensors, base._spelling)


def _fingerprint(base: Base) -> str:
    from concurrent.futures import ThreadPoolExecutor  # slow, and few ask for this

    config = json.dumps(dict(base.config), sort_keys=True).encode()
    with ThreadPoolExecutor(max_workers=4) as pool:
        parts = list(pool.map(_file_digest, base.files))
    return hashlib.sha256(b"\0".join([config, *(part.encode() for part in parts)])).hexdigest()


def _file_digest(path: Path) -> str:
    status = path.stat()
    key = f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ino}"

    return Memo("fingerprints").get(key, lambda: digest_of(path))
