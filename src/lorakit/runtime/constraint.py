"""What restricts an answer: the protocol between the sampler and whoever compiles a grammar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from lorakit.engines.protocol import Logits

Ids = npt.NDArray[np.int64]


class Constraint(Protocol):
    """Restricts one answer, token by token. Used by the engine's thread only, but for `prepare`'s
    own worker."""

    @property
    def ended(self) -> bool:
        """Whether nothing may follow: the answer ends here without an end token."""
        ...

    def forced(self) -> Sequence[int]:
        """The tokens that must come next, as the tokenizer would write them; empty where a choice
        is left, or the answer may end. They are not accepted by this."""
        ...

    def allowed(self, most: int) -> Ids | None:
        """The ids that may come next, ascending; None where there are more than `most`."""
        ...

    def allows(self, token: int) -> bool:
        """Whether this token may come next."""
        ...

    def mask(self, logits: Logits) -> Logits:
        """A copy of float32 logits [vocabulary], minus infinity for what may not come next."""
        ...

    def fitting(self, tokens: Sequence[int]) -> int:
        """How many of these tokens, from the first on, could come next one after another."""
        ...

    def prepare(self, draft: Sequence[int] = ()) -> None:
        """Begin to compute, beside the caller, the mask for what comes next and for what follows
        each token of a draft; `mask`, `allowed` and `allows` then wait for what they need."""
        ...

    def accept(self, token: int) -> None:
        """Advance: this token was chosen. Raises EngineError where it may not come next."""
        ...
