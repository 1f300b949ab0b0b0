"""What `lorakit demo --train` shows beside the run itself: the same requests before and after."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorakit.demo import base_path
from lorakit.demo.story import MAX_TOKENS, ask
from lorakit.model.open import open as open_model
from lorakit.model.types import Request
from lorakit.runtime.sampling import SamplingParams

# The first five are worded as no example of the training data is; the last two are the base's own.
REQUESTS = (
    "set a route to Tolmi and avoid tolls",
    "stay at 93 kilometres an hour from here on",
    "is there a 164 kw charger in Bergen",
    "put the passenger seat heating at 2",
    "switch to the station Radio Hammer",
    "set a timer for 12 minutes",
    "hello",
)
# Fewer steps and measurements than by default, so that it takes less than two minutes.
SETTINGS: Mapping[str, Any] = {"steps": 300, "evaluate_every": 60, "sweep": False}


def answers(adapter: Path | None = None) -> dict[str, str]:
    """What the base says to each request, with an adapter or without."""
    with open_model(base_path(), adapter=adapter) as model:
        sampling = SamplingParams(max_tokens=MAX_TOKENS)
        found = model.batch(
            Request(prompt=ask(model, text), sampling=sampling) for text in REQUESTS
        )
    return {text: completion.text for text, completion in zip(REQUESTS, found, strict=True)}
