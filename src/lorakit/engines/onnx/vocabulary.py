"""The two ends of the graph, on the host: tokens to hidden states, and the head's adapters.

Embedding rows are read from the mapped checkpoint, so the matrix is never copied. Adapters act
here straight from their own arrays: at the lookup, and on the logits from the final hidden states,
which costs steps whose adapters leave the vocabulary alone nothing. Rows are computed one by one,
so that none depends on its batch mates. In what order adapters act is said in `together`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from lorakit.base.folder import Base
from lorakit.engines.onnx.attached import Attached, Factors, Table
from lorakit.engines.protocol import AdapterSet

Floats = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int64]


class Vocabulary:
    """The embedding matrix of a base, and what attached adapters add at both its uses."""

    def __init__(self, base: Base, attached: Mapping[int, Attached]) -> None:
        decoder = base.decoder
        scaled = decoder.architecture.scaled_embedding
        self._matrix = base.tensor(f"{decoder.embedding}.weight")
        self._scale = np.float32(math.sqrt(decoder.hidden) if scaled else 1.0)
        self._softcap = decoder.logit_softcap
        self._attached = attached

    def embed(self, tokens: Tokens, held: AdapterSet) -> Floats:
        """Hidden states [n, hidden] of tokens [n], scaled as the architecture wants."""
        hidden = self._looked_up(tokens, held)
        terms = self._terms(held, lambda adapter: adapter.embedding)
        for factors, strength in terms:
            low = factors.a[:, tokens].T.astype(np.float32)
            hidden = hidden + low @ factors.b.T * np.float32(strength)
            if factors.dora is not None:
                gain = factors.dora.gain(strength)  # of each feature, or of each token
                by_token = len(gain) == factors.a.shape[1]
                hidden = hidden * (gain[tokens, np.newaxis] if by_token else gain)
        for factors, strength in terms:
            if factors.bias is not None:
                hidden = hidden + factors.bias * np.float32(strength)
        scaled: Floats = hidden * self._scale
        return scaled

    def _terms(
        self, held: AdapterSet, of: Callable[[Attached], tuple[Factors, ...]]
    ) -> list[tuple[Factors, float]]:
        """One end's changes in their order, each with its scale."""
        return [(f, scale * f.scale) for handle, scale in held for f in of(self._attached[handle])]

    def _looked_up(self, tokens: Tokens, held: AdapterSet) -> Floats:
        matrix = self._matrix
        tables = [self._attached[handle].lookup for handle, _ in held]
        for table in tables:
            matrix = matrix if table.whole is None else table.whole
        hidden: Floats = matrix[tokens].astype(np.float32, copy=False)  # tokens' rows are a copy
        for table in tables:
            if table.ids is not None and table.values is not None and len(table.ids):
                at = np.minimum(np.searchsorted(table.ids, tokens), len(table.ids) - 1)
                ours = table.ids[at] == tokens
                hidden[ours] = table.values[at[ours]]
        return hidden

    def project(
        self, final: Floats, logits: Floats, held: AdapterSet, among: Tokens | None = None
    ) -> None:
        """Finish one row's logits [kept, vocabulary] in place from its final states.

        among: tokens, ascending, whose logits [kept, among] alone there are.
        """
        columns: slice | Tokens = slice(None) if among is None else among
        for handle, _ in held:
            _replace(self._attached[handle].projection, final, logits, among)
        terms = self._terms(held, lambda adapter: adapter.head)
        for factors, strength in terms:
            logits += (final @ factors.a.T * np.float32(strength)) @ factors.b[columns].T
            if factors.dora is not None:
                logits *= factors.dora.gain(strength)[columns]
        for factors, strength in terms:
            if factors.bias is not None:
                logits += factors.bias[columns] * np.float32(strength)
            if factors.reads is not None:
                logits += (final @ factors.reads * np.float32(strength))[:, np.newaxis]
        if self._softcap:
            np.tanh(logits / np.float32(self._softcap), out=logits)
            logits *= np.float32(self._softcap)


def _replace(table: Table, final: Floats, logits: Floats, among: Tokens | None) -> None:
    if table.whole is not None:
        np.matmul(final, (table.whole if among is None else table.whole[among]).T, out=logits)
    if table.ids is None or table.values is None:
        return
    if among is None:
        logits[:, table.ids] = final @ table.values.T
        return
    if len(table.ids):
        at = np.minimum(np.searchsorted(table.ids, among), len(table.ids) - 1)
        ours = table.ids[at] == among
        logits[:, ours] = final @ table.values[at[ours]].T
