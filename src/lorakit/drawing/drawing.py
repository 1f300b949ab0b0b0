"""Drawing: a finished picture, in the formats in which it is shown and kept."""

from __future__ import annotations

import os
from dataclasses import dataclass

from lorakit.drawing.png import to_png
from lorakit.drawing.shapes import Shape
from lorakit.drawing.svg import to_svg
from lorakit.errors import ParameterError, WriteError
from lorakit.files.atomic import write_atomic
from lorakit.files.bounded import as_path


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """Shapes on a canvas of a size in pixels; a notebook shows it as it is.

    title: what it is called by whoever reads it aloud; said: what it shows, in a sentence.
    """

    width: float
    height: float
    title: str
    shapes: tuple[Shape, ...]
    said: str = ""

    def svg(self) -> str:
        """An SVG file: text is text, and a dark viewer gets dark colours."""
        return to_svg(self)

    def png(self) -> bytes:
        """A PNG file of twice the size. Raises MissingExtraError without matplotlib."""
        return to_png(self)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write it as its suffix says, .svg or .png, whole or not at all.

        Raises ParameterError (another suffix, or a file that is there unless `overwrite`),
        MissingExtraError and WriteError.
        """
        place = as_path(path)
        make = FORMATS.get(place.suffix.lower())
        if make is None:
            raise ParameterError(
                f"a picture is written as SVG or PNG, not as {place.suffix or 'nothing'!r}",
                hint="name a .svg or a .png file",
            )
        if place.exists() and not overwrite:
            raise ParameterError(f"{place} exists", hint="another name, or overwrite=True")
        content = make(self)
        try:
            write_atomic(place, content)
        except OSError as error:
            raise WriteError(f"cannot write {place}: {error.strerror or error}") from error

    def _repr_svg_(self) -> str:
        return self.svg()

    def __repr__(self) -> str:
        return f"<Drawing {self.title!r}, {self.width:g} x {self.height:g}>"


FORMATS = {".svg": lambda drawing: to_svg(drawing).encode(), ".png": to_png}
