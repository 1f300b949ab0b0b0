"""The tree, its drawing and its page say the same."""

import re
from pathlib import Path

import pytest

from lorakit import errors
from lorakit.errors import LorakitError

ROOT = Path(__file__).parent.parent
CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, LorakitError) and value is not LorakitError
]


def codes():
    """Of the classes, and those given where an error is raised; faults of data are none."""
    found = {kind.code for kind in CLASSES}
    for file in (ROOT / "src/lorakit").rglob("*.py"):
        text = re.sub(r"\bFault\([^()]*(\([^()]*\)[^()]*)*\)", "", file.read_text(encoding="utf-8"))
        found |= set(re.findall(r'\bcode="([a-z_]+)"', text))
    return found


def test_the_page_lists_every_code_and_class_and_no_other():
    text = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z_]+)` \| `(\w+)` \|", text, flags=re.MULTILINE)
    assert {code for code, _ in rows} == codes()
    assert {name for _, name in rows} == {kind.__name__ for kind in CLASSES}
    own = {kind.__name__: kind.code for kind in CLASSES}
    assert set(own.items()) <= {(name, code) for code, name in rows}


def test_the_drawing_names_every_code_and_class():
    for word in codes() | {kind.__name__ for kind in CLASSES}:
        assert word in (errors.__doc__ or "")


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_an_error_tells_everything(kind):
    error = kind("what", items=["one", "two"], hint="do this")
    assert str(error) == "what\n  - one\n  - two\n  hint: do this"
    assert error.code == kind.code
    assert kind("what", code="other").code == "other"
    assert str(kind("what")) == "what"


def test_errors_are_also_what_python_would_raise():
    assert issubclass(errors.ParameterError, ValueError)
    assert issubclass(errors.MissingExtraError, ImportError)
    assert issubclass(errors.DeadlineError, TimeoutError)
