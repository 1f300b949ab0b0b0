"""A few hundred mutations of good files, the same ones every time; fuzz.py runs for longer."""

import sys
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from fuzz import attempts


def test_mutated_files_are_read_or_refused(tmp_path):
    outcomes = [outcome for _, outcome in islice(attempts(tmp_path, seed=1), 300)]
    assert [outcome for outcome in outcomes if outcome.startswith("BROKEN")] == []
    assert {"read", "format_invalid", "format_unsupported"} <= set(outcomes)
