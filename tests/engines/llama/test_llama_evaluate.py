"""The same evaluation on llama.cpp, ONNX Runtime and torch."""

import json

import pytest
from demo_gguf import write_demo

from llama_library import need_llama
from lorakit import demo
from lorakit.chat.tools import get_format
from lorakit.training.data import Example
from lorakit.training.evaluate.comparing import Opening, compare
from lorakit.training.evaluate.contestants import contestants, first_contestant
from lorakit.training.evaluate.work import Rules

need_llama()


def examples(count):
    for each in demo.examples("home", "phrasings")[:count]:
        calls = [c.to_openai() for c in get_format("functiongemma").parse(each.expected).tool_calls]
        for call in calls:
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
        answer = {"role": "assistant", "content": "", "tool_calls": calls}
        yield Example(task="calls", place=each.id, messages=(*each.messages, answer))


def test_every_engine_makes_the_same_calls(tmp_path):
    pytest.importorskip("torch", reason="the torch engine needs lorakit[torch]")
    first = first_contestant(str(demo.base_path()), [str(demo.adapter_path("home"))])
    file = write_demo(tmp_path / "demo.gguf")
    sides = [first, *contestants(first, [f"on:{file},torch,base+torch"])]
    found = compare(sides, list(examples(12)), Rules(batch=4), Opening(threads=1))
    calls = [[each.calls for each in side.evaluation.outcomes] for side in found.sides]
    assert calls[0] == calls[1] == calls[2]
    assert calls[0] != calls[3]
    assert found.first.evaluation.exact.share > 0.7
    assert [side.name for side in found.sides] == ["home", "on:demo.gguf", "torch", "base+torch"]
