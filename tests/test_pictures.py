"""The pictures of the pages are what the script draws now, and can be read."""

import importlib.util
import re
from pathlib import Path

import pytest

from laid_out import faults, texts

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs/pictures"


def script():
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "scripts/pictures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PICTURES = script().PICTURES


def words(svg):
    """Its texts without the figures, whose last digits are the processor's."""
    return [re.sub(r"[\d.]+", "0", text) for text in texts(svg)]


def figures(svg):
    return [float(n) for text in texts(svg) for n in re.findall(r"\d+(?:\.\d+)?", text)]


def about(svg):
    """The figures, but for their last digits."""
    return pytest.approx(figures(svg), rel=0.05, abs=0.15)


def test_each_picture_is_made_by_the_script():
    assert {path.stem for path in FOLDER.iterdir()} == set(PICTURES)


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_as_it_is_drawn_now(name):
    drawn, kept = PICTURES[name](), (FOLDER / f"{name}.svg").read_text("utf-8")
    assert words(kept) == words(drawn.svg()), "run: python scripts/pictures.py"
    assert figures(kept) == about(drawn.svg())
    assert figures(re.sub(r">(\d)", r">9\1", kept)) != about(drawn.svg())
    assert list(faults(drawn)) == []
    assert len(kept) < 40_000
