"""Data to learn from: read, checked, split, multiplied. Nothing here needs torch."""

from __future__ import annotations

from lorakit.training.data.example import Dataset, Example, Fault, Task

__all__ = ["Dataset", "Example", "Fault", "Task"]
