"""Draw the pictures of the documentation, from the demo: `python scripts/pictures.py`."""

from __future__ import annotations

from pathlib import Path

import lorakit
from lorakit import demo
from lorakit.drawing import Drawing
from lorakit.effect import diff, plot_diff
from lorakit.inspect.plot import plot
from lorakit.inspect.report import inspect

FOLDER = Path(__file__).parents[1] / "docs/pictures"
ASKED = "turn the lights off in the kitchen"


def home() -> Drawing:
    """An adapter by layer, and its singular values."""
    adapter = lorakit.read_adapter(demo.adapter_path("home"))
    report = inspect(adapter, spectrum=True, base=lorakit.Base.open(demo.base_path()))
    return plot(report, title="home")


def lights() -> Drawing:
    """One answer under base and adapter, token by token."""
    with lorakit.open(demo.base_path(), adapter=demo.adapter_path("home")) as model:
        prompt = model.chat_prompt([{"role": "user", "content": ASKED}])
        return plot_diff(diff(model, prompt), title=f"“{ASKED}”")


PICTURES = {"home": home, "lights": lights}


if __name__ == "__main__":
    for name, draw in PICTURES.items():
        draw().save(FOLDER / f"{name}.svg", overwrite=True)
        print(FOLDER / f"{name}.svg")
