"""Data to learn from: read, checked, split, multiplied. Nothing here needs torch."""

from __future__ import annotations

from lorakit.training.data.example import Dataset, Example, Fault, Task
from lorakit.training.data.read import read_examples, read_tools

__all__ = ["Dataset", "Example", "Fault", "Task", "read_examples", "read_tools"]
