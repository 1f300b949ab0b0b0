"""Data to learn from: read, checked, split, multiplied. Nothing here needs torch."""

from __future__ import annotations

from lorakit.training.data.augment import Augmenter, Rates, expand_examples
from lorakit.training.data.everyday import (
    everyday_requests,
    everyday_tools,
    requests_apart_from,
)
from lorakit.training.data.example import Dataset, Example, Fault, Task
from lorakit.training.data.read import read_examples, read_tools
from lorakit.training.data.review import leaks, overlong, repeats
from lorakit.training.data.split import split_examples
from lorakit.training.data.stats import Kind, Stats, stats_of
from lorakit.training.data.templates import Templates, read_templates
from lorakit.training.data.write import write_examples

__all__ = [
    "Augmenter",
    "Dataset",
    "Example",
    "Fault",
    "Kind",
    "Rates",
    "Stats",
    "Task",
    "Templates",
    "everyday_requests",
    "everyday_tools",
    "expand_examples",
    "leaks",
    "overlong",
    "read_examples",
    "read_templates",
    "read_tools",
    "repeats",
    "requests_apart_from",
    "split_examples",
    "stats_of",
    "write_examples",
]
