"""Blocks under other inputs and outputs than our engine's, and over layouts that it does not run.

The front here takes what transformers.js feeds a model: token ids, an attention mask, and a KV
cache that grows.
"""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from lorakit.base.folder import Base
from lorakit.engines.onnx.device import CPU
from lorakit.engines.onnx.ort import open_session
from lorakit.engines.onnx.semantics import window_reading
from lorakit.graph import HEAD, MemoryStore
from lorakit.graph.blocks import Blocks, Cache, Step, unsupported
from lorakit.graph.quantize import float32
from lorakit.graph.writer import Writer
from onnx_cases import DATA

FAMILIES = DATA / "families"
RUN = ("gemma3_softcap", "llama3_rope", "mistral_window", "qwen2", "qwen3")
KINDS = {np.float32: TensorProto.FLOAT, np.float16: TensorProto.FLOAT16}


def form16(writer, module, x, weight):
    """True float16: weights and products."""
    stored = writer.weight(f"{module}.weight", np.ascontiguousarray(weight.T, np.float16))
    return writer.node("MatMul", [x, stored], f"{module}.xW")


class Front:
    """A base under transformers.js's names, and a session on it."""

    def __init__(self, base, *, dtype=np.float32, form=float32):
        self.base, self.decoder, self.dtype = base, base.decoder, dtype
        self.store = MemoryStore()
        self.writer = Writer(self.store)
        self.blocks = Blocks(
            base=base,
            writer=self.writer,
            form=form,
            context=64,
            dtype=dtype,
            exact=True,
            window=window_reading(CPU, ()),
        )
        self.session = open_session(self.build(), threads=1, initializers=self.store.arrays)

    def build(self):
        w, d = self.writer, self.decoder
        ids = w.input("input_ids", ["batch_size", "sequence_length"], TensorProto.INT64)
        mask = w.input("attention_mask", ["batch_size", "total_length"], TensorProto.INT64)
        sums = w.node("ReduceSum", [mask, w.shape(1)], "mask.sums", keepdims=0)
        one = w.weight("one.int64", np.array(1, np.int64))
        lengths = w.node("Sub", [sums, one], "lengths.int64")
        total = w.node("Gather", [w.node("Shape", [mask], "mask.shape"), one], "total.int64")
        step = Step(
            lengths=w.node("Cast", [lengths], "lengths", to=TensorProto.INT32),
            total=w.node("Cast", [total], "total", to=TensorProto.INT32),
            cache=self.cache,
        )
        x = self.embed(ids)
        for index in range(len(d.layers)):
            x = self.blocks.block(index, x, step)
        x = self.blocks.norm(d.architecture.layout.final_norm, x)
        y = self.blocks.plain_linear(HEAD, x, self.blocks.form)
        out = w.output("logits", ["batch_size", "sequence_length", d.vocabulary])
        w.node("Cast", [y], out, to=TensorProto.FLOAT)
        return w.finish()

    def embed(self, ids):
        w, d = self.writer, self.decoder
        scale = np.float32(d.hidden**0.5 if d.architecture.scaled_embedding else 1)
        table = self.base.tensor(f"{d.embedding}.weight").astype(np.float32) * scale
        return w.node("Gather", [w.weight("embedding", table.astype(self.dtype)), ids], "embedded")

    def cache(self, index):
        w, d, parts = self.writer, self.decoder, ("key", "value")
        shape = ["batch_size", d.kv_heads, "past_length", d.head_dim]
        after = ["batch_size", d.kv_heads, "total_length", d.head_dim]
        kind = KINDS[self.dtype]
        return Cache(
            past=tuple(w.input(f"past_key_values.{index}.{p}", shape, kind) for p in parts),
            present=tuple(w.output(f"present.{index}.{p}", after, kind) for p in parts),
        )

    def logits(self, ids, chunks=(25, 14, 1)):
        """[tokens, vocabulary], the prompt in chunks, so that the cache is read as well."""
        d, found, length = self.decoder, [], 0
        names = [output.name for output in self.session.get_outputs()]
        empty = np.zeros((1, d.kv_heads, 0, d.head_dim), self.dtype)
        caches = [name for name in names if name != "logits"]
        held = {name.replace("present", "past_key_values"): empty for name in caches}
        for chunk in chunks:
            feeds = {
                "input_ids": ids[None, length : length + chunk],
                "attention_mask": np.ones((1, length + chunk), np.int64),
            }
            result = dict(zip(names, self.session.run(None, feeds | held), strict=True))
            found.append(result.pop("logits")[0])
            held = {n.replace("present", "past_key_values"): v for n, v in result.items()}
            length += chunk
        logits = np.concatenate(found)
        cap = d.logit_softcap
        return np.tanh(logits / cap) * cap if cap else logits


def truth(family):
    record = np.load(FAMILIES / family / "logits.npz")
    return record["ids"], record["logits"]


@pytest.mark.parametrize("family", RUN)
def test_a_second_front_computes_what_transformers_does(family):
    ids, logits = truth(family)
    found = Front(Base.open(FAMILIES / family)).logits(ids)
    np.testing.assert_allclose(found, logits, rtol=3e-5, atol=3e-5)


def test_in_float16_throughout():
    ids, logits = truth("llama3_rope")
    front = Front(Base.open(FAMILIES / "llama3_rope"), dtype=np.float16, form=form16)
    assert {array.dtype for array in front.store.arrays.values()} == {np.dtype(np.float16)}
    found = front.logits(ids)
    assert np.abs(found - logits).max() < 0.02 * np.abs(logits).max()


class Fused:
    """A base with the weights of one whose projections are separate, fused as in Phi 3.

    Not the recorded Phi 3: onnxruntime's attention takes no heads of 8.
    """

    def __init__(self, base, layout):
        self._base, separate = base, base.decoder.architecture
        self.decoder = replace(base.decoder, architecture=replace(separate, layout=layout))
        self.tensor = base.tensor

    def weight(self, module):
        at, _, name = module.rpartition(".")
        parts = {
            "qkv_proj": ("q_proj", "k_proj", "v_proj"),
            "gate_up_proj": ("gate_proj", "up_proj"),
        }
        names = parts.get(name, (name,))
        return np.concatenate([self._base.weight(f"{at}.{n}".lstrip(".")) for n in names])


def phi_layout():
    return Base.open(FAMILIES / "phi3").decoder.architecture.layout


def in_order(layout, *parts):
    """The layout, but saying that the parts of the queries' linear stand in this order."""
    linears = tuple(replace(x, parts=parts) if "query" in x.parts else x for x in layout.linears)
    return replace(layout, linears=linears)


def test_fused_projections():
    """A layout that names their parts in another order gives other logits."""
    ids, logits = truth("mistral_window")
    base, layout = Base.open(FAMILIES / "mistral_window"), phi_layout()
    found = Front(Fused(base, layout)).logits(ids)
    np.testing.assert_allclose(found, logits, rtol=3e-5, atol=3e-5)
    wrong = Front(Fused(base, in_order(layout, "query", "value", "key"))).logits(ids)
    assert np.abs(wrong - logits).max() > 0.1


def computed(base, outputs, x):
    """What `outputs(blocks)` names, for hidden states x [1, tokens, hidden]."""
    store = MemoryStore()
    writer = Writer(store)
    writer.input("x", [1, "tokens", base.decoder.hidden])
    for at, name in enumerate(outputs(Blocks(base=base, writer=writer, form=float32, context=8))):
        writer.node("Identity", [name], writer.output(f"y{at}", [1, "tokens", "width"]))
    session = open_session(writer.finish(), threads=1, initializers=store.arrays)
    return session.run(None, {"x": x})


@pytest.fixture(scope="module")
def gpt2():
    base = Base.open(FAMILIES / "gpt2")
    x = np.random.default_rng(0).standard_normal((1, 5, base.decoder.hidden), np.float32)
    return base, x


def test_conv1d_weights_that_are_fused(gpt2):
    """Stored [in, out], with a bias, q, k and v in one."""
    base, x = gpt2
    at = "transformer.h.1.attn.c_attn"
    found = computed(base, lambda b: [b.project(1, p, "x") for p in ("value", "query", "key")], x)
    whole = x @ base.tensor(f"{at}.weight") + base.tensor(f"{at}.bias")
    query, key, value = np.split(whole, 3, axis=-1)
    for one, other in zip(found, (value, query, key), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_an_mlp_without_a_gate(gpt2):
    base, x = gpt2
    at = "transformer.h.0.mlp"
    (found,) = computed(base, lambda b: [b.mlp(0, "x")], x)
    inner = x @ base.tensor(f"{at}.c_fc.weight") + base.tensor(f"{at}.c_fc.bias")
    inner = inner * (1 + np.tanh(np.sqrt(2 / np.pi) * (inner + 0.044715 * inner**3))) / 2
    expected = inner @ base.tensor(f"{at}.c_proj.weight") + base.tensor(f"{at}.c_proj.bias")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_what_is_added_to_a_linear_is_the_callers():
    base = Base.open(FAMILIES / "qwen3")
    seen = []

    def adapt(module, x, y):
        seen.append(module)
        return y

    writer = Writer(MemoryStore())
    blocks = Blocks(base=base, writer=writer, form=float32, context=8, adapt=adapt)
    step = Step(
        lengths="lengths",
        total="total",
        cache=lambda i: Cache(past=(f"k{i}", f"v{i}"), present=(f"K{i}", f"V{i}")),
    )
    blocks.block(1, "x", step)
    assert seen == list(base.decoder.linears(1))
    graph = onnx.load_from_string(writer.finish()).graph
    assert not graph.input
    assert not graph.output


def test_every_linear_names_what_it_computes():
    """One name for each width, and every block has what blocks ask for."""
    for path in sorted(FAMILIES.glob("*/config.json")):
        base = Base.open(path.parent)
        layout = base.decoder.architecture.layout
        for linear in (*layout.linears, *layout.sparse):
            assert len(linear.parts) == len(linear.outputs), linear.name
        held = {part for linear in layout.linears for part in linear.parts}
        assert held >= {"query", "key", "value", "output", "up", "down"}


def test_what_blocks_do_not_compute():
    found = {
        family: unsupported(Base.open(FAMILIES / family).decoder)
        for family in (*RUN, "gpt2", "phi3", "qwen3_moe")
    }
    assert {family: why for family, why in found.items() if why} == {
        "gpt2": ["learned positions", "LayerNorm with a bias"],
    }
