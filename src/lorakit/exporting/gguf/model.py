"""What a GGUF file of a base will hold: its keys and its tensors. Reads no weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from lorakit.base.folder import Base
from lorakit.base.gguf import TEMPLATE
from lorakit.computed import computed_once
from lorakit.engines.llama.quantize_types import in_order
from lorakit.exporting.gguf.architecture import factors, keys, notes, require_expressible
from lorakit.exporting.gguf.sampling import sampling_keys
from lorakit.exporting.gguf.vocabulary import GgufVocabulary, gguf_vocabulary
from lorakit.files.gguf import Value
from lorakit.files.gguf_write import packed
from lorakit.merge.gguf.tensors import Source, sources

_PHI3 = re.compile(r"phi-?3", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class GgufModel:
    """tensors: in the order of the file. notes: in what llama.cpp differs from the model."""

    keys: Mapping[str, Value]
    tensors: Mapping[str, Source]
    notes: tuple[str, ...]

    @computed_once
    def stored(self) -> dict[str, bytes]:
        """The keys as the file stores them: a vocabulary of 262,144 tokens takes a while."""
        return {key: packed(value) for key, value in self.keys.items()}


def read_vocabulary(base: Base) -> GgufVocabulary:
    """What takes memory in passing, of a base that can be said. Raises as `gguf_model`."""
    require_expressible(base.decoder, base.config)
    return gguf_vocabulary(base, base.decoder.vocabulary)


def gguf_model(
    base: Base,
    *,
    name: str,
    templates: Mapping[str, str],
    extra: Mapping[str, Value] | None = None,
    vocabulary: GgufVocabulary | None = None,
) -> GgufModel:
    """A base, or a merged view of one, as llama.cpp reads it.

    templates: chat templates by name, of which "default" is the plain one. extra: more keys.
    vocabulary: the base's, where it was read before and has as many tokens.
    Raises UnsupportedError for what a GGUF file or llama.cpp cannot say, and BaseModelError.
    """
    decoder = base.decoder
    require_expressible(decoder, base.config)
    if vocabulary is None or vocabulary.size != decoder.vocabulary:
        vocabulary = gguf_vocabulary(base, decoder.vocabulary)
    made = sources(base) | {
        tensor: Source.of(values) for tensor, values in factors(decoder, base.config).items()
    }
    sampling, unsaid = sampling_keys(base)
    said = {
        "general.architecture": decoder.architecture.gguf,
        "general.type": "model",
        "general.name": _named(name, vocabulary.stripping),
    }
    return GgufModel(
        keys={
            **{key: Value("str", text) for key, text in said.items()},
            **sampling,
            **keys(decoder, base.config),
            **vocabulary.keys,
            **_templates(templates),
            **(extra or {}),
        },
        tensors={tensor: made[tensor] for tensor in in_order(made)},
        notes=(*notes(decoder), *vocabulary.notes, *unsaid),
    )


def _named(name: str, stripping: bool) -> str:
    """By a name with Phi 3 in it llama.cpp takes the spaces behind special tokens away."""
    if not stripping:
        return _PHI3.sub("Phi 3", name)
    return name if _PHI3.search(name) else f"{name} (phi-3)"


def _templates(templates: Mapping[str, str]) -> dict[str, Value]:
    """As llama.cpp's converter names them; the plain one last."""
    others = {re.sub(r"[^A-Za-z0-9]", "_", n): t for n, t in templates.items() if n != "default"}
    found = {f"{TEMPLATE}.{name}": Value("str", text) for name, text in others.items()}
    if others:
        found[f"{TEMPLATE}s"] = Value("str", tuple(others), array=True)
    if "default" in templates:
        found[TEMPLATE] = Value("str", templates["default"])
    return found
