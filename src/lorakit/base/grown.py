"""A base whose vocabulary becomes an adapter's: it grows by tokens that were added in training.

The adapter holds the whole embedding, and the head where that is another tensor, with a row for
each token, as PEFT saves them after `resize_token_embeddings`; that also cuts off rows that a base
has beyond its tokenizer. Nothing is guessed: a vocabulary is resized only where every use of it is
replaced by as many rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lorakit.adapter import Adapter, Array, Replacement, Site
from lorakit.architectures import HEAD, Decoder, describe
from lorakit.base.folder import Base, placed

VOCABULARY = "vocab_size"  # the config's key


def rows_of(adapters: Sequence[tuple[Adapter, float]], decoder: Decoder) -> int:
    """Rows of the vocabulary with these adapters; the base's own where none brings others."""
    table, head = f"{decoder.embedding}.weight", f"{HEAD}.weight"
    uses: dict[Site, set[int]] = {Site.INPUT: set(), Site.OUTPUT: set()}
    for adapter, scale in adapters:
        for part in adapter.replacements if scale else ():
            if part.rows is not None or part.name not in (table, head) or part.value.ndim != 2:
                continue
            for use in _uses(part.name == head, part.site, decoder.tied):
                uses[use].add(len(part.value))
    found = uses[Site.INPUT] | uses[Site.OUTPUT]
    return found.pop() if len(found) == 1 and all(uses.values()) else decoder.vocabulary


def _uses(is_head: bool, site: Site | None, tied: bool) -> tuple[Site, ...]:
    """Which uses of the vocabulary a whole replacement is for."""
    if not tied:
        return (Site.OUTPUT,) if is_head else (Site.INPUT,)
    return (site,) if site in (Site.INPUT, Site.OUTPUT) else (Site.INPUT, Site.OUTPUT)


def resized(base: Base, adapters: Sequence[tuple[Adapter, float]]) -> int:
    """`rows_of` the adapters where this base can have as many, and its tokens keep their rows."""
    own, rows = base.decoder.vocabulary, rows_of(adapters, base.decoder)
    fixed = base.exported is not None or base.decoder.is_foreign
    return own if fixed or rows <= max(_special(base.config), default=-1) else rows


def resized_decoder(base: Base, adapters: Sequence[tuple[Adapter, float]]) -> Decoder:
    """What the base is with these adapters merged into it, as far as names and shapes go."""
    rows = resized(base, adapters)
    same = rows == base.decoder.vocabulary
    return base.decoder if same else describe({**base.config, VOCABULARY: rows})


def _special(config: Mapping[str, Any]) -> Iterator[int]:
    """Ids that the base's config names: those that begin and end a text, and what fills it up."""
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        said = config.get(key)
        yield from (token for token in (said if isinstance(said, list) else [said]) if token)


def grown(base: Base, adapters: Sequence[tuple[Adapter, float]]) -> Base:
    """The base with rows of zeros for the tokens that the adapters bring, which replace them.

    As it is where its weights are not read, as those of a GGUF file.
    """
    rows = resized(base, adapters)
    if rows == base.decoder.vocabulary or next(vocabulary_tensors(base), None) is None:
        return base
    config = {**base.config, VOCABULARY: rows}
    decoder = describe(config)
    tensors = _Grown(base.tensors, frozenset(vocabulary_tensors(base)), rows)
    return replace(
        base,
        config=config,
        decoder=decoder,
        tensors=tensors,
        _stored=placed(decoder, tensors, base),
        _fingerprint=[hashlib.sha256(json.dumps([base.fingerprint, rows]).encode()).hexdigest()],
    )


def more_rows(base: Base, rows: int) -> Adapter:
    """An adapter that is nothing but the base's own vocabulary with more rows, or fewer.

    New rows are the mean of all, so that no new token is likelier than the others.
    """
    names = [f"{base.decoder.embedding}.weight"]
    names += [] if base.decoder.tied else [f"{HEAD}.weight"]
    found = []
    for name in names:
        table = base.tensor(name)
        longer = np.empty((rows, table.shape[1]), table.dtype)
        longer[: len(table)] = table[:rows]
        longer[len(table) :] = table.mean(axis=0, dtype=np.float64)
        found.append(Replacement(name=name, value=longer))
    return Adapter(replacements=tuple(found))


def vocabulary_tensors(base: Base) -> Iterator[str]:
    """The stored tensors that have a row for each token; none of weights that are not read."""
    with suppress(KeyError):
        yield base.stored(base.decoder.embedding)[0].name
    head = base.file_name(f"{HEAD}.weight")
    if head in base.tensors:
        yield head


@dataclass(frozen=True, slots=True)
class _Grown(Mapping[str, Array]):
    """Tensors by their stored names, some with more rows, or fewer."""

    before: Mapping[str, Array]
    longer: frozenset[str]
    rows: int

    def __getitem__(self, name: str) -> Array:
        array = self.before[name]
        if name not in self.longer:
            return array
        found = np.zeros((self.rows, *array.shape[1:]), array.dtype)
        found[: len(array)] = array[: self.rows]
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.before)

    def __len__(self) -> int:
        return len(self.before)
