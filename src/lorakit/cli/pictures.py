"""What commands that draw share: the option of a file, and whether it can be written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from lorakit.cli.outputs import require_folder, require_free
from lorakit.cli.signature import option
from lorakit.drawing.png import require_matplotlib
from lorakit.errors import ParameterError

PictureOption = Annotated[
    Path | None,
    option("--output", "-o", metavar="FILE.svg", help="Draw it: .svg, or .png."),
]


def require_picture(path: Path, *, overwrite: bool) -> None:
    """Whether a picture can be written there, before anything slow begins."""
    if path.suffix.lower() not in (".svg", ".png"):
        raise ParameterError(
            f"a picture is written as SVG or PNG, not as {path.suffix or path.name!r}",
            hint="name a .svg or a .png file",
        )
    if path.suffix.lower() == ".png":
        require_matplotlib()
    require_free(path, "file", overwrite=overwrite)
    require_folder(path)
