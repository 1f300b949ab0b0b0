"""Is an adapter whole, alive and of this base? Every fault at once, each with what to do about it.

It compares names, shapes and values; it knows nothing of formats or engines.
"""

from lorakit.check.alive import LOST, is_dead, lost
from lorakit.check.checking import check, misfits, require_fit, what_to_do
from lorakit.check.mismatch import Mismatch
from lorakit.check.reduced import for_text, left_out_note, without_seeing, without_unchanged

__all__ = [
    "LOST",
    "Mismatch",
    "check",
    "for_text",
    "is_dead",
    "left_out_note",
    "lost",
    "misfits",
    "require_fit",
    "what_to_do",
    "without_seeing",
    "without_unchanged",
]
