"""The two ends of the graph, on the host: tokens to hidden states, and the head's adapters.

Embedding rows are read from the mapped checkpoint, so the matrix is never copied. Adapters act
here straight from their own arrays: at the lookup, and on the logits from the final hidden states,
which costs steps whose adapters leave the vocabulary alone nothing. Rows are computed one by one,
so that none depends on its batch mates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from lorakit.base.folder import Base
from lorakit.engines.onnx.lora_inputs import Attached
from lorakit.engines.protocol import AdapterSet

Floats = npt.NDArray[np.float32]


class Vocabulary:
    """The embedding matrix of a base, and what attached adapters add at both its uses."""

    def __init__(self, base: Base, attached: Mapping[int, Attached]) -> None:
        decoder = base.decoder
        scaled = decoder.architecture.scaled_embedding
        self._matrix = base.tensor(f"{decoder.embedding}.weight")
        self._scale = np.float32(math.sqrt(decoder.hidden) if scaled else 1.0)
        self._softcap = decoder.logit_softcap
        self._attached = attached

    def embed(self, tokens: npt.NDArray[np.int64], held: AdapterSet) -> Floats:
        """Hidden states [n, hidden] of tokens [n], scaled as the architecture wants."""
        hidden = self._matrix[tokens].astype(np.float32, copy=False)
        for handle, scale in held:
            for factors in self._attached[handle].embedding:
                low = factors.a[:, tokens].T.astype(np.float32)
                hidden = hidden + low @ factors.b.T * np.float32(scale * factors.scale)
        scaled: Floats = hidden * self._scale
        return scaled

    def project(self, final: Floats, logits: Floats, held: AdapterSet) -> None:
        """Finish one row's logits [kept, vocabulary] in place from its final states."""
        for handle, scale in held:
            for factors in self._attached[handle].head:
                low = final @ factors.a.T * np.float32(scale * factors.scale)
                logits += low @ factors.b.T
        if self._softcap:
            np.tanh(logits / np.float32(self._softcap), out=logits)
            logits *= np.float32(self._softcap)
