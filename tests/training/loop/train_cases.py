"""What the tests of training share: short runs on the demo base, with few requests to replay."""

import pytest

pytest.importorskip("torch", reason="training needs the extra train")

from lorakit import demo
from lorakit.training import inputs
from lorakit.training.core import model
from lorakit.training.core.numerics import Numerics
from lorakit.training.data import read_examples
from lorakit.training.replay import Asked
from lorakit.training.run import train

BASE = demo.base_path()
FORTY = read_examples(demo.folder() / "training" / "forty.jsonl").examples
SHORT = {"steps": 3, "batch": 3, "sweep": False, "replay_share": 0.0, "holdout": 0}
REQUESTS = ("set a timer for 5 minutes", "hello there", "note: buy milk", "thanks a lot")
REQUESTS += ("wake me at 7:15", "who are you", "what is the weather in Rome", "tell Ana hello")


@pytest.fixture(autouse=True)
def few_requests_and_plain_numbers(monkeypatch):
    """A busy machine may otherwise choose other numerics, which round otherwise."""
    asked = [
        Asked(place=f"made:{i}", messages=({"role": "user", "content": text},))
        for i, text in enumerate(REQUESTS)
    ]
    monkeypatch.setattr(inputs, "everyday", lambda examples: asked)
    monkeypatch.setattr(model, "choose", lambda *arguments: Numerics(dtype="float32"))


def run(output, data=FORTY, base=BASE, events=None, **given):
    events = [] if events is None else events
    return train(base, data, output, progress=events.append, **{**SHORT, **given})


def of(kind, events):
    return [event for event in events if isinstance(event, kind)]


def weights(result):
    return (result.path / "adapter_model.safetensors").read_bytes()
