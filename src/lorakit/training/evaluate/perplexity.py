"""How likely a model finds the right answers: their loss, over exactly the tokens that training
learns. One row at a time, as no answer is generated here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from lorakit.training.render import Rendered

LogitsOf = Callable[[Sequence[int]], npt.NDArray[np.float32]]  # ids -> [tokens, vocabulary]


def loss_of(logits_of: LogitsOf, rows: Sequence[Rendered]) -> tuple[float, int]:
    """The summed negative log likelihood of the answers' tokens in nats, and their number."""
    total, count = 0.0, 0
    for row in rows:
        places = [place for place, learnt in enumerate(row.answers) if learnt and place > 0]
        if not places:
            continue
        logits = logits_of(row.ids[:-1])
        targets = np.asarray(row.ids, np.int64)[places]
        found = logits[np.asarray(places) - 1].astype(np.float64)
        best = found.max(axis=1)
        sums = np.log(np.exp(found - best[:, None]).sum(axis=1)) + best
        total += float((sums - found[np.arange(len(places)), targets]).sum())
        count += len(places)
    return total, count
