"""A GGUF file as the Hugging Face folder that it becomes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lorakit.architectures import describe
from lorakit.base.folder import Base
from lorakit.errors import BaseModelError, UnsupportedError
from lorakit.files.atomic import write_synced
from lorakit.files.gguf import GgufFile
from lorakit.files.gguf_parts import open_gguf_model
from lorakit.merge.gguf.config import config_of, generation_config_of
from lorakit.merge.gguf.proof import require_same_ids
from lorakit.merge.gguf.tokenizer import (
    Vocabulary,
    read_vocabulary,
    tokenizer_config,
    tokenizer_json,
)
from lorakit.merge.gguf.weights import Dequantised, Held, held, stored
from lorakit.merge.origin import Brought
from lorakit.merge.plan import Plan
from lorakit.merge.shards import Shard, dequantised
from lorakit.text.tokenizer import TextTokenizer, Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufOrigin:
    """base: with the whole config, and the parameters under the names of the folder."""

    base: Base
    file: GgufFile
    table: Mapping[str, Held]
    vocabulary: Vocabulary | None
    theirs: TextTokenizer | None

    @classmethod
    def of(cls, base: Base, theirs: TextTokenizer | None) -> GgufOrigin:
        """theirs: the file's own tokenizer, to compare with.

        Raises BaseModelError and UnsupportedError for a file that no folder can be made of.
        """
        if base.decoder.is_foreign:
            raise UnsupportedError(
                f"{base.path} is of the architecture {base.decoder.architecture.gguf}, of which "
                "lorakit cannot make a Hugging Face folder",
                hint="merge into the folder that it was converted from, and convert that again",
            )
        file = open_gguf_model(base.path, vocabulary=True)
        config = config_of(file, base.config)
        try:
            decoder = describe(config)
        except BaseModelError as error:
            raise BaseModelError(f"{file.path}: {error.message}", items=error.items) from error
        table = held(file, decoder)
        whole = replace(
            base,
            config=config,
            decoder=decoder,
            tensors=Dequantised(table),
            _stored=stored(decoder),
            _fingerprint=[],
        )
        vocabulary = read_vocabulary(file)
        return cls(base=whole, file=file, table=table, vocabulary=vocabulary, theirs=theirs)

    def shards(self, plan: Plan, dtype: np.dtype[np.generic] | None) -> tuple[Shard, ...]:
        return dequantised(self.table, plan, dtype)

    def bring_along(
        self, folder: Path, plan: Plan, shards: tuple[Shard, ...], dtype: str | None
    ) -> Brought:
        """What was written is opened once, before it is published."""
        config = {**self.base.config, **plan.config}
        if dtype is not None:
            config["dtype"] = dtype
        files = dict(self._files(config))
        for name, content in files.items():
            write_synced(folder / name, content)
        Base.open(folder)
        return Brought(along=tuple(files), notes=(self._types(), self._compared(folder)))

    def _files(self, config: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
        yield "config.json", _json(config)
        ends = self.vocabulary.end_ids if self.vocabulary is not None else []
        yield "generation_config.json", _json(generation_config_of(self.file, ends))
        if self.vocabulary is not None:
            context, templates = self.base.decoder.context, self.base.templates
            yield "tokenizer.json", tokenizer_json(self.vocabulary)
            yield (
                "tokenizer_config.json",
                _json(tokenizer_config(self.vocabulary, templates, context)),
            )

    def _types(self) -> str:
        kinds = Counter(tensor.kind for tensor in self.file.tensors.values())
        return f"the file's tensors were {', '.join(f'{n} x {k}' for k, n in kinds.most_common())}"

    def _compared(self, folder: Path) -> str:
        if self.vocabulary is None:
            return "the file has no tokenizer, so the folder has none"
        if self.theirs is None:
            Tokenizer.open(folder)
            return "token ids: not compared, for lack of llama.cpp (pip install 'lorakit[llama]')"
        count = require_same_ids(folder, self.vocabulary, self.theirs)
        return f"token ids: compared with llama.cpp's on {count} texts, all equal"


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"
