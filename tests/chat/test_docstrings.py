"""Docstrings: the three styles, and what is none of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorakit.chat.docstrings import described

GOOGLE = """Switch the lights.

    In one room alone.

    Args:
        room: Which room: kitchen, or
            another one.
        level (int, optional): How bright.
        **rest (dict[str, Callable[[int], int]]): Other things.

    Returns:
        room: nothing of that.
    """
NUMPY = """Switch the lights.

    In one room alone.

    Parameters
    ----------
    room : str
        Which room: kitchen, or
        another one.
    level, other : int, optional
        How bright.

    Returns
    -------
    room
        Nothing of that.
    """
REST = """Switch the lights.

    In one room alone.

    :param room: Which room: kitchen, or
        another one.
    :param int level: How bright.
    :type room: str
    :returns: room: nothing of that.
    """


@pytest.mark.parametrize("text", [GOOGLE, NUMPY, REST], ids=["google", "numpy", "rest"])
def test_each_style_says_the_same(text):
    found = described(text)
    assert found.text == "Switch the lights.\n\nIn one room alone."
    assert found.parameters["room"] == "Which room: kitchen, or another one."
    assert found.parameters["level"] == "How bright."
    assert set(found.parameters) <= {"room", "level", "other", "rest"}


def test_names_of_one_entry_and_stars():
    assert described(NUMPY).parameters["other"] == "How bright."
    assert described(GOOGLE).parameters["rest"] == "Other things."


@pytest.mark.parametrize("text", [None, "", "   \n ", "One line."])
def test_without_sections(text):
    assert described(text).text == (text or "").strip()
    assert described(text).parameters == {}


def test_prose_with_a_colon_is_no_section():
    found = described("Plays music. Note: loud.\n\nTimes are such as 12:30.\nroom: a word here")
    assert found.parameters == {}
    assert found.text.endswith("room: a word here")


def test_a_section_without_entries_and_an_empty_description():
    assert described("Do.\n\nArgs:\n    none at all\n").parameters == {}
    assert described("Do.\n\nArgs:\n    room:\n").parameters == {}


@given(st.text(alphabet="Args:Parmetn- \n\tr:x*()", max_size=200))
def test_no_text_raises(text):
    found = described(text)
    assert all(name.isidentifier() for name in found.parameters)
    assert all(said == " ".join(said.split()) for said in found.parameters.values())
