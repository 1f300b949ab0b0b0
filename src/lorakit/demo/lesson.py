"""What `lorakit demo --train` shows beside the run itself: the same requests before and after."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorakit.demo import base_path, training_path
from lorakit.demo.story import MAX_TOKENS, ask
from lorakit.model.open import open as open_model
from lorakit.model.types import Request
from lorakit.runtime.params import SamplingParams
from lorakit.training.data import read_examples
from lorakit.training.evaluate.outcome import expected_calls

OLD = ("set a timer for 12 minutes", "hello")  # what the base could do before
# Fewer steps and measurements than by default, so that it takes less than two minutes.
SETTINGS: Mapping[str, Any] = {"steps": 240, "evaluate_every": 60, "sweep": False}


def requests() -> tuple[str, ...]:
    """One for each new tool, worded as no training example is, and two of the base's own."""
    known = {example.phrasing for example in read_examples(training_path("train")).require()}
    found: dict[str, str] = {}
    for example in read_examples(training_path("eval")).require():
        if example.phrasing not in known:
            found.setdefault(expected_calls(example)[0].name, example.messages[0]["content"])
    return (*found.values(), *OLD)


def answers(asked: tuple[str, ...], adapter: Path | None = None) -> dict[str, str]:
    """What the base says to each request, with an adapter or without."""
    with open_model(base_path(), adapter=adapter) as model:
        sampling = SamplingParams(max_tokens=MAX_TOKENS)
        found = model.batch(Request(prompt=ask(model, text), sampling=sampling) for text in asked)
    return {text: completion.text for text, completion in zip(asked, found, strict=True)}
