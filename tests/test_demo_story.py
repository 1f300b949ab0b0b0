"""What `lorakit demo` shows: its scales in one batch are those one after another."""

import lorakit
from lorakit import demo
from lorakit.demo import examples, story


def test_scales_in_one_batch_are_as_one_after_another():
    seen = []
    with lorakit.open(demo.base_path(), threads=1) as model:
        model.load_adapter(demo.adapter_path("home"))
        steps = story.sweep(model, "home", 4, lambda *pair: seen.append(pair))
        own, base = examples("home", "phrasings")[:4], examples("base", "values")[:4]
        for step in steps:
            assert step.own == story.accuracy(model, own, {"home": step.scale})
            assert step.base == story.accuracy(model, base, {"home": step.scale})
    assert [step.scale for step in steps] == list(story.SWEEP)
    assert {step.own for step in steps} != {steps[0].own}  # it does change with the scale
    total = len(story.SWEEP) * 8
    assert seen == [(n, total) for n in range(1, total + 1)]
