"""What adapters do to a model's answers: token by token, and over scales.

`diff` puts base and adapter beside each other on one answer; `sweep` and `sweep_examples` run the
same prompts or examples at many scales at once. What is *in* an adapter is lorakit.inspect's.
"""

from __future__ import annotations

from lorakit.effect.diff import Diff, DiffToken, diff
from lorakit.effect.pictures import plot_diff, plot_examples, plot_sweep
from lorakit.effect.sweep import (
    SCALES,
    ExampleSweep,
    ScaleAnswer,
    ScalePoint,
    Sweep,
    sweep,
    sweep_examples,
)

__all__ = [
    "SCALES",
    "Diff",
    "DiffToken",
    "ExampleSweep",
    "ScaleAnswer",
    "ScalePoint",
    "Sweep",
    "diff",
    "plot_diff",
    "plot_examples",
    "plot_sweep",
    "sweep",
    "sweep_examples",
]
