"""Where the tests' files are. Not in conftest.py, a name that other folders have too."""

from pathlib import Path

DATA = Path(__file__).parent / "data"
