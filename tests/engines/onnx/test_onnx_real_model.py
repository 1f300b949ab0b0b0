"""int8 on SmolLM2-135M: as near to float32 as it was measured, and the same answer every time.

Run by `make real`, or with LORAKIT_REAL_MODEL=FOLDER (bench/real_model.py makes it).
"""

import inspect
import json.decoder
import os
import textwrap
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest

import lorakit
from lorakit import Request, SamplingParams
from lorakit.base.folder import Base
from lorakit.engines.onnx import engine as engine_module
from lorakit.formats.peft import write_peft
from lorakit.graph.lora import LoraTarget
from lorakit.graph.quantize import unseen
from lorakit.text.tokenizer import Tokenizer
from onnx_cases import divergence, logits_of, open_engine, random_adapter

MODEL = os.environ.get("LORAKIT_REAL_MODEL")
pytestmark = [
    pytest.mark.skipif(not MODEL, reason="minutes, and LORAKIT_REAL_MODEL names no model"),
    pytest.mark.timeout(900),
]
TEXTS = (
    topics["assignment"],
    topics["exceptions"] + topics["naming"],
    inspect.getsource(json.decoder),
    inspect.getsource(textwrap),
)
TOKENS = 384  # of each
QUESTIONS = ("What is the moon?", "Why is the sky blue?", "How do I cook rice?", "Who was Hamlet?")
SIZES = (1, 2, 4, 1, 4, 3, 1, 4)  # of batches


def logits(**options):
    """Of each text by itself, as all together take gigabytes."""
    tokenizer = Tokenizer.open(MODEL)
    engine = open_engine(Path(MODEL), **options)
    found = [
        logits_of(engine, np.array(tokenizer.encode(text, special=False)[:TOKENS]))
        for text in TEXTS
    ]
    engine.close()
    return found


def mean_divergence(found, exact):
    return np.mean([divergence(ours, theirs) for ours, theirs in zip(found, exact, strict=True)])


@pytest.fixture(scope="module")
def exact():
    return logits()


def test_int8_is_near(exact):
    found = logits(quantize="int8")
    pairs = zip(found, exact, strict=True)
    same = [ours.argmax(-1) == theirs.argmax(-1) for ours, theirs in pairs]
    assert mean_divergence(found, exact) < 0.006  # 0.0025, measured
    assert np.mean(same) > 0.955  # 0.977


def test_rows_as_they_are_would_not_be(exact, cache, monkeypatch):
    monkeypatch.setattr(engine_module, "Watcher", lambda *_, **__: unseen)
    assert mean_divergence(logits(quantize="int8"), exact) > 0.02


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters") / "random"
    write_peft(random_adapter(Base.open(MODEL), 0, 8, scale=0.05), folder)
    return folder


def differing(adapter):
    """Answers that are others the next time: cold, with the prompt in the cache, in a batch."""
    sampling, seen, found = SamplingParams(max_tokens=24, temperature=0), {}, 0
    with lorakit.open(MODEL, adapter=adapter, quantize="int8", context=512) as model:
        prompts = [model.chat_prompt([{"role": "user", "content": asked}]) for asked in QUESTIONS]
        for size in SIZES * 3:
            requests = [Request(prompt=prompt, sampling=sampling) for prompt in prompts[:size]]
            for at, answer in enumerate(model.batch(requests)):
                text = [choice.token for choice in answer.tokens]
                found += seen.setdefault(at, text) != text
            prompts = [*prompts[1:], prompts[0]]
            seen = {(at - 1) % len(prompts): text for at, text in seen.items()}
    return found


def test_the_same_request_gives_the_same_answer(adapter):
    assert not differing(adapter)


def test_rows_that_share_an_adapter_in_one_product_would_not(adapter, cache, monkeypatch):
    bound = LoraTarget.bound
    monkeypatch.setattr(
        LoraTarget, "bound", lambda self, a, b, *, shared: bound(self, a, b, shared=False)
    )
    assert differing(adapter)
