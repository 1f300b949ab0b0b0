"""read(write(a)) == a for every format over what it can express, on random adapters.

PEFT keeps everything; a format that folds scales or pads ranks gives an adapter of the same effect
that it then keeps.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from lorakit.adapter import Adapter, Delta, Magnitude, Replacement, Site
from lorakit.architectures import describe
from lorakit.formats import FORMATS
from lorakit.formats.express import lossy

SMALL = {
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "vocab_size": 20,
    "max_position_embeddings": 32,
    "sliding_window": 16,
}
DECODERS = {
    "llama": describe({"model_type": "llama", **SMALL}),
    "gemma3_text": describe({"model_type": "gemma3_text", **SMALL}),
    "qwen3_moe": describe(
        {"model_type": "qwen3_moe", "num_experts": 3, "moe_intermediate_size": 6, **SMALL}
    ),
    "gpt2": describe(
        {"model_type": "gpt2", "n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 32,
         "vocab_size": 20}
    ),
}  # fmt: skip
DTYPES = [np.dtype("f4"), np.dtype("f2"), np.dtype(ml_dtypes.bfloat16)]
SCALES = st.sampled_from([1.0, 0.5, 2.0, 1 / 3, -0.7, 16 / 7**0.5])


@st.composite
def adapters(draw):
    name = draw(st.sampled_from(sorted(DECODERS)))
    decoder = DECODERS[name]
    shapes = decoder.modules()
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    dtype = draw(st.sampled_from(DTYPES))
    expert_scale = draw(SCALES)
    dora, biased = draw(st.booleans()), draw(st.booleans())
    modules = draw(st.lists(st.sampled_from(sorted(shapes)), min_size=1, max_size=6, unique=True))

    def values(*shape):
        return rng.normal(size=shape).astype(dtype)

    deltas, magnitudes = [], []
    for module in modules:
        shape, rank = shapes[module], draw(st.integers(1, 4))
        stack = (shape.experts,) if shape.experts else ()
        site = draw(st.sampled_from([Site.INPUT, Site.BOTH])) if shape.embedding else Site.LINEAR
        bias = values(shape.out_features) if biased and site is Site.LINEAR and not stack else None
        deltas.append(
            Delta(
                module=module,
                a=values(*stack, rank, shape.in_features),
                b=values(*stack, shape.out_features, rank),
                scale=expert_scale if stack else draw(SCALES),
                site=site,
                bias=bias,
            )
        )
        if dora and not stack:
            size = draw(st.sampled_from([shape.out_features, shape.in_features]))
            size = size if shape.embedding else shape.out_features
            magnitudes.append(Magnitude(module=module, value=np.abs(values(size)).astype("f4")))
    norm = next(n for n in sorted(decoder.parameters()) if n.endswith("norm.weight") or "ln_" in n)
    replacements = []
    if draw(st.booleans()):
        replacements.append(Replacement(name=norm, value=values(8)))
    if draw(st.booleans()):
        rows = np.array(sorted(draw(st.sets(st.integers(0, 19), min_size=1, max_size=3))))
        table = next(m for m, shape in shapes.items() if shape.embedding)
        value = values(len(rows), 8)
        replacements.append(Replacement(name=f"{table}.weight", value=value, rows=rows))
    tokens = tuple(draw(st.lists(st.integers(0, 19), max_size=2)))
    return decoder, Adapter(
        deltas=tuple(deltas),
        magnitudes=tuple(magnitudes),
        replacements=tuple(replacements),
        invocation_tokens=tokens,
    )


def written(row, adapter, decoder):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        row.write(adapter, path, decoder=decoder)
        return row.read(path, decoder).in_memory()


def effects(adapter):
    """What each delta adds, and everything else by name."""
    found = {}
    for d in adapter.deltas:
        a, b = d.a.astype("f8"), d.b.astype("f8")
        found[d.key] = d.scale * (b @ a)
        if d.bias is not None:
            found[(*d.key, "bias")] = d.bias
    found |= {("magnitude", m.module): m.value for m in adapter.magnitudes}
    return found | {(r.name, r.kind): r.value for r in adapter.replacements}


def assert_same_effect(one, two):
    before, after = effects(one), effects(two)
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_allclose(
            after[name].astype("f8"), value.astype("f8"), rtol=1e-5, atol=1e-5
        )
    assert one.invocation_tokens == two.invocation_tokens


@pytest.mark.parametrize("name", FORMATS)
@settings(
    derandomize=True,
    max_examples=16,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(drawn=adapters())
def test_what_a_format_can_express_comes_back(name, drawn):
    row, (decoder, adapter) = FORMATS[name], drawn
    adapter, _ = lossy(adapter, row.cannot_express, decoder)
    assume(not row.cannot_express(adapter, decoder))
    found = written(row, adapter, decoder)
    assert_same_effect(adapter, found)
    assert written(row, found, decoder) == found
    if name == "peft":
        assert found == adapter


@pytest.mark.parametrize("name", FORMATS)
@settings(derandomize=True, max_examples=16, deadline=None, database=None,
          suppress_health_check=[HealthCheck.too_slow])  # fmt: skip
@given(drawn=adapters())
def test_what_lossy_lists_is_all_that_is_missing(name, drawn):
    row, (decoder, adapter) = FORMATS[name], drawn
    kept, dropped = lossy(adapter, row.cannot_express, decoder)
    parts = {fault.part for fault in dropped}
    before = {("delta", *d.key) for d in adapter.deltas}
    assert before - {("delta", *d.key) for d in kept.deltas} == parts & before
    lost = {("magnitude", m.module) for m in adapter.magnitudes}
    lost -= {("magnitude", m.module) for m in kept.magnitudes}
    assert lost == {part for part in parts if part[0] == "magnitude"}
    assert len(adapter.replacements) - len(kept.replacements) == len(
        {part for part in parts if part[0] == "replacement"}
    )
    assert lossy(kept, row.cannot_express, decoder) == (replace(kept), ())
