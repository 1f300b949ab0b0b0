"""The graph for transformers.js in plain onnxruntime: every family, every form, as a page feeds it.

Against what transformers computed, kept with the families, and our engine for adapters.
"""

import numpy as np
import onnx
import pytest

from lorakit.base.folder import Base
from lorakit.engines.onnx.ort import open_session
from lorakit.graph.even import Seen
from lorakit.graph.lora import targets
from lorakit.graph.web import HALF, build_web, hidden_dtype, with_inputs
from lorakit.graph.weights import MemoryStore
from onnx_cases import DATA, divergence, random_adapter

FAMILIES = DATA / "families"
RUN = (*("gemma3_softcap", "llama3_rope", "llama_linear_rope", "mistral_window", "qwen2", "qwen3"),)
MOST = {"none": 1e-9, "fp16": 1e-4, "q8": 2e-3, "q4": 0.1, "q4f16": 0.1}  # KL
FORMS = tuple(MOST)


class Page:
    """A graph in memory, fed as a page feeds it."""

    def __init__(self, base, form="none", *, dynamic=True, sight=None, context=64):
        self.decoder, self.dtype = base.decoder, hidden_dtype(form)
        store = MemoryStore()
        more = {"adapting": with_inputs(base.decoder)} if dynamic else {}
        more |= {"sight": sight} if sight else {}
        self.model = build_web(base, form, store, context=context, metadata={"a": "b"}, **more)
        self.nbytes = sum(array.nbytes for array in store.arrays.values())
        self.session = open_session(self.model, threads=1, initializers=store.arrays)
        self.names = [output.name for output in self.session.get_outputs()]

    def nothing(self, rows):
        d = self.decoder
        empty = np.zeros((rows, d.kv_heads, 0, d.head_dim), self.dtype)
        return {
            f"past_key_values.{index}.{part}": empty
            for index in range(len(d.layers))
            for part in ("key", "value")
        }

    def step(self, ids, lengths, past, keep=0, adapters=None):
        """Logits and the cache of rows of tokens, of which each row holds `lengths`."""
        total = max(lengths)
        mask = np.arange(total)[None] < np.array(lengths)[:, None]
        feeds = {
            "input_ids": np.array(ids, np.int64),
            "attention_mask": mask.astype(np.int64),
            "num_logits_to_keep": np.array(keep, np.int64),
        }
        feeds |= self.lora(adapters) if adapters is not None else {}
        found = dict(zip(self.names, self.session.run(None, feeds | past), strict=True))
        logits = found.pop("logits")
        return logits, {n.replace("present", "past_key_values"): a for n, a in found.items()}

    def lora(self, rows):
        """Inputs for rows, each a list of (adapter, scale); as many ranks as the widest needs."""
        feeds = {}
        for name, target in targets(self.decoder).items():
            parts = [
                [(d, d.scale * scale) for a, scale in row for d in a.deltas if d.module == name]
                for row in rows
            ]
            rank = max(sum(d.rank for d, _ in row) for row in parts)
            a = np.zeros((len(rows), target.in_features, rank), self.dtype)
            b = np.zeros((len(rows), rank, target.out_features), self.dtype)
            for index, row in enumerate(parts):
                at = 0
                for delta, scale in row:
                    a[index, :, at : at + delta.rank] = delta.a.T
                    b[index, at : at + delta.rank] = delta.b.T * scale
                    at += delta.rank
            feeds |= {target.a: a, target.b: b}
        return feeds

    def logits(self, ids, adapters=None):
        return self.step([ids], [len(ids)], self.nothing(1), adapters=adapters)[0][0]


def truth(family):
    record = np.load(FAMILIES / family / "logits.npz")
    return record["ids"], record["logits"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", RUN)
def test_every_family_in_every_form(family, form):
    """With LoRA tensors of rank 0, which are the base."""
    ids, logits = truth(family)
    page = Page(Base.open(FAMILIES / family), form)
    found = page.logits(ids, [[]])
    assert found.dtype == np.float32
    assert divergence(found, logits) < MOST[form]
    moved = np.roll(logits, 1, axis=0)  # of the token before: it would be found
    assert divergence(found, moved) > 2 * MOST[form]


@pytest.mark.parametrize("form", FORMS)
def test_chunks_and_padded_rows_are_rows_alone(form):
    """A prompt in parts over the cache; two rows of other lengths, padded on the right."""
    ids, _ = truth("gemma3_softcap")
    page = Page(Base.open(FAMILIES / "gemma3_softcap"), form)
    near = {"rtol": 0, "atol": 0.03 if form in HALF else 0.02 if form != "none" else 2e-5}
    one = page.logits(ids[:12], [[]])
    first, past = page.step([ids[:7]], [7], page.nothing(1), adapters=[[]])
    second, _ = page.step([ids[7:12]], [12], past, adapters=[[]])
    np.testing.assert_allclose(np.concatenate([first[0], second[0]]), one, **near)
    rows, past = page.step(
        [ids[:12], [*ids[3:8], *[0] * 7]], [12, 5], page.nothing(2), adapters=[[]]
    )
    other = page.logits(ids[3:9], [[]])
    np.testing.assert_allclose(rows[0], one, **near)
    np.testing.assert_allclose(rows[1, :5], other[:5], **near)
    after, _ = page.step([[ids[12]], [ids[8]]], [13, 6], past, keep=1, adapters=[[]])
    assert after.shape[1] == 1
    np.testing.assert_allclose(after[1, 0], other[5], **near)
    wrong, _ = page.step([[ids[12]], [ids[8]]], [13, 13], past, keep=1, adapters=[[]])
    assert np.abs(wrong[1, 0] - other[5]).max() > 5 * near["atol"]  # padding would be read


@pytest.mark.parametrize("form", ["none", "fp16", "q8"])
def test_a_batch_of_rows_with_their_own_adapters(form):
    base = Base.open(FAMILIES / "qwen2")
    page, (ids, _) = Page(base, form), truth("qwen2")
    one, other = random_adapter(base, 1), random_adapter(base, 2, rank=3)
    sets = [[], [(one, 1.0)], [(one, 0.5), (other, 2.0)]]
    alone = [page.logits(ids, [each]) for each in sets]
    together, _ = page.step([ids] * 3, [len(ids)] * 3, page.nothing(3), adapters=sets)
    for found, expected in zip(together, alone, strict=True):
        assert np.abs(found - expected).max() < (0.05 if form != "none" else 2e-5)
    assert np.abs(alone[0] - alone[1]).max() > 0.1
    assert np.abs(alone[1] - alone[2]).max() > 0.1


@pytest.mark.parametrize("keep", [0, 1, 3])
def test_logits_are_of_the_last_positions(keep):
    ids, logits = truth("llama3_rope")
    page = Page(Base.open(FAMILIES / "llama3_rope"), dynamic=False)
    found, _ = page.step([ids], [len(ids)], page.nothing(1), keep=keep)
    np.testing.assert_allclose(found[0], logits[-keep:], rtol=3e-5, atol=3e-5)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_tied_is_stored_once(form):
    """The table is far the largest tensor of this family's base."""
    base = Base.open(FAMILIES / "gemma3_softcap")
    graph = onnx.load_from_string(Page(base, form, dynamic=False).model).graph
    shape = {base.decoder.vocabulary, base.decoder.hidden}
    assert sum(set(tensor.dims) == shape for tensor in graph.initializer) == 1
    untied = onnx.load_from_string(Page(Base.open(FAMILIES / "qwen3"), form).model).graph
    decoder = Base.open(FAMILIES / "qwen3").decoder
    shape = {decoder.vocabulary, decoder.hidden}
    assert sum(set(tensor.dims) == shape for tensor in untied.initializer) == 2


@pytest.mark.parametrize("form", ["q8", "q4", "q4f16"])
def test_even_rows_say_the_same(form):
    """Divisors far from 1 undo themselves: in linears, in the head, and in the lookup."""
    ids, logits = truth("gemma3_softcap")
    base = Base.open(FAMILIES / "gemma3_softcap")

    def sight(name):
        return Seen(
            np.exp2(np.random.default_rng(0).uniform(-1, 1, widths[name])).astype(np.float32)
        )

    widths = Widths(base)
    found = Page(base, form, dynamic=False, sight=sight).logits(ids)
    assert divergence(found, logits) < 3 * MOST[form]


class Widths(dict):
    """Of what linears read, by its name: what is no MLP's inner state is as wide as the hidden
    state, or as all heads."""

    def __init__(self, base):
        self.decoder = base.decoder

    def __missing__(self, name):
        d = self.decoder
        if name.endswith((".gated", ".act")):
            return d.intermediate
        return d.heads * d.head_dim if name.endswith(".attention") else d.hidden


def test_the_names_are_those_that_transformers_js_knows():
    page = Page(Base.open(FAMILIES / "qwen2"))
    model = onnx.load_from_string(page.model)
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in model.graph.input
    }
    assert shapes["input_ids"] == ["batch_size", "sequence_length"]
    assert shapes["attention_mask"] == ["batch_size", "total_sequence_length"]
    assert shapes["num_logits_to_keep"] == []
    assert shapes["past_key_values.0.key"][0::2] == ["batch_size", "past_sequence_length"]
    assert {(prop.key, prop.value) for prop in model.metadata_props} == {("a", "b")}
