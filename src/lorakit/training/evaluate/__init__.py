"""Does it work? Answers compared with what was wanted, in figures that say how sure they are.

`evaluate` runs an open model over examples. evaluation.py holds the figures, matching.py says when
a call is right, comparing.py opens what `lorakit eval --compare` names, page.py writes the report.
"""

from __future__ import annotations

from lorakit.training.evaluate.evaluating import evaluate
from lorakit.training.evaluate.evaluation import Evaluation
from lorakit.training.evaluate.matching import Pair
from lorakit.training.evaluate.outcome import Outcome
from lorakit.training.evaluate.scorers import Scorer, load_scorer, matches
from lorakit.training.evaluate.statistics import Paired, Share

__all__ = [
    "Evaluation",
    "Outcome",
    "Pair",
    "Paired",
    "Scorer",
    "Share",
    "evaluate",
    "load_scorer",
    "matches",
]
