"""Data to learn from: read, checked, split, multiplied. Nothing here needs torch."""

from __future__ import annotations

from lorakit.training.data.augment import Augmenter, Rates, expand_examples
from lorakit.training.data.everyday import everyday_requests, requests_apart_from
from lorakit.training.data.example import Dataset, Example, Fault, Task
from lorakit.training.data.read import read_examples, read_tools

__all__ = [
    "Augmenter",
    "Dataset",
    "Example",
    "Fault",
    "Rates",
    "Task",
    "everyday_requests",
    "expand_examples",
    "read_examples",
    "read_tools",
    "requests_apart_from",
]
