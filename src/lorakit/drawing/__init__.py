"""Pictures as values: shapes on a canvas, written as SVG, or as PNG where matplotlib is installed.

It knows nothing of adapters. Every picture has real text, and the colours of light and of dark
viewers: a shape names a role, such as "text" or "grid", and theme.py says what it looks like.
"""

from __future__ import annotations

from lorakit.drawing.drawing import Drawing

__all__ = ["Drawing"]
