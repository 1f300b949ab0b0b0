"""DoRA, biases of B and replacements on the default engine: PEFT's records, and torch's answers."""

import dataclasses

import numpy as np
import pytest

from lorakit.adapter import Adapter, Magnitude, Replacement, Site
from lorakit.base.folder import Base
from lorakit.check import require_fit
from lorakit.engines.onnx import graph_cache
from lorakit.engines.onnx.attached import Dora
from lorakit.engines.onnx.together import composed
from lorakit.errors import AdapterError, EngineError
from lorakit.formats.peft import read_peft, write_peft
from lorakit.merge import merge
from onnx_cases import DATA, TRUTH, logits_of, open_engine, random_adapter, row, truth_base
from onnx_cases import truth_adapter as truth

CASES = [
    ("gemma3", "dora"),
    ("llama", "dora"),
    ("gemma3", "norm_save"),
    ("llama", "trainable_tokens"),
]
FORMS = ("none", "int8", "int4")
IDS = np.random.default_rng(2).integers(4, 90, 24)


@pytest.fixture(scope="module")
def engines():
    opened = {}

    def engine(base, quantize="none"):
        if (base, quantize) not in opened:
            opened[base, quantize] = open_engine(truth_base(base), quantize=quantize)
        return opened[base, quantize]

    yield engine
    for each in opened.values():
        each.close()


def attach(engine, *adapters):
    return [engine.attach(engine.prepare(adapter)) for adapter in adapters]


def record(base, name):
    with np.load(TRUTH / "peft" / base / name / "logits.npz") as file:
        return dict(file)


@pytest.mark.parametrize(("base", "name"), CASES)
def test_peft_recorded_the_same(engines, base, name):
    engine, known = engines(base), record(base, name)
    (handle,) = attach(engine, truth(base, name))
    for scale in (1.0, 0.5):
        for index in range(3):
            found = logits_of(engine, known[f"ids{index}"], ((handle, scale),), chunk=9)
            np.testing.assert_allclose(found, known[f"scale{scale:g}_{index}"], rtol=0, atol=1e-4)
    engine.detach(handle)


def test_a_gain_of_the_delta_alone_would_be_seen(engines, monkeypatch):
    """The broken variant: norms of B A without what the base holds."""
    known = record("llama", "dora")
    monkeypatch.setattr(Dora, "gain", lambda self, _: np.float32(1) + 0 * self.own)
    (handle,) = attach(engines("llama"), truth("llama", "dora"))
    found = logits_of(engines("llama"), known["ids1"], ((handle, 1.0),))
    assert np.abs(found - known["scale1_1"]).max() > 0.01
    engines("llama").detach(handle)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("base", "name"), CASES)
def test_the_base_and_plain_adapters_stay_as_they_were(base, name, form):
    """To the bit, in the graph that has more inputs: off, beside it, and after it."""
    engine = open_engine(truth_base(base), quantize=form)
    (plain,) = attach(engine, truth(base, "plain"))
    sets = [(), ((plain, 0.7),)]
    before = [logits_of(engine, IDS, held) for held in sets]
    session = engine._session
    (handle,) = attach(engine, truth(base, name))
    assert (engine._session is session) == (name == "trainable_tokens")  # the host's alone
    for held, expected in zip(sets, before, strict=True):
        np.testing.assert_array_equal(logits_of(engine, IDS, held), expected)
        np.testing.assert_array_equal(logits_of(engine, IDS, ((handle, 0.0), *held)), expected)
        assert np.abs(logits_of(engine, IDS, ((handle, 1.0), *held)) - expected).max() > 1e-2
        np.testing.assert_array_equal(logits_of(engine, IDS, held), expected)
    engine.detach(handle)
    for held, expected in zip(sets, before, strict=True):
        np.testing.assert_array_equal(logits_of(engine, IDS, held), expected)
    engine.close()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("base", ["gemma3", "llama"])
def test_each_row_of_a_batch_has_its_own(engines, base, form):
    """Also rescaled in mid-stream; as alone, to the bit where codes would follow."""
    engine = engines(base, form)
    names = ["dora", "plain", "norm_save" if base == "gemma3" else "trainable_tokens"]
    dora, plain, third = handles = attach(engine, *(truth(base, name) for name in names))
    sets = [((dora, 1.0),), (), ((plain, 0.7),), ((third, 1.0),), ((dora, 0.4),), ((dora, 1.0),)]
    later = [((dora, 0.3),), *sets[1:5], ((dora, 1.0), (plain, 0.5))]
    together, alone = [], []
    for rows, out in ((range(len(sets)), together), *(([n], alone) for n in range(len(sets)))):
        sequences = [engine.open_sequence() for _ in rows]
        for sequence, n in zip(sequences, rows, strict=True):
            engine.forward([row(sequence, IDS[:12], sets[n], "none")])
        answers = []
        for step in range(12, 20):
            held = sets if step < 16 else later
            batch = [
                row(s, IDS[step : step + 1], held[n], "last")
                for s, n in zip(sequences, rows, strict=True)
            ]
            answers.append([logits[0].copy() for logits in engine.forward(batch)])
        out.extend(np.array(answers).transpose(1, 0, 2))
        for sequence in sequences:
            engine.close_sequence(sequence)
    if form == "none":
        np.testing.assert_allclose(together, alone, rtol=0, atol=2e-5)
    else:
        np.testing.assert_array_equal(together, alone)
    assert np.abs(together[0][4:] - together[5][4:]).max() > 1e-3
    for handle in handles:
        engine.detach(handle)


def test_int8_is_as_near_as_of_plain_adapters(engines):
    """Beside what int8 costs the base itself."""
    engine, known = engines("gemma3", "int8"), record("gemma3", "dora")
    (handle,) = attach(engine, truth("gemma3", "dora"))
    with np.load(truth_base("gemma3") / "base_logits.npz") as file:
        base = np.abs(logits_of(engine, file["ids1"]) - file["logits1"]).mean()
    found = np.abs(logits_of(engine, known["ids1"], ((handle, 1.0),)) - known["scale1_1"]).mean()
    assert found < 2 * base
    engine.detach(handle)


@pytest.mark.parametrize("form", FORMS)
def test_a_sequence_goes_on_where_a_wider_graph_takes_over(form):
    """What was computed before is kept, and the answer is as if it had been open from the start."""
    answers = []
    for early in (True, False):
        engine = open_engine(truth_base("gemma3"), quantize=form)
        handles = attach(engine, truth("gemma3", "dora")) if early else []
        sequence = engine.open_sequence()
        engine.forward([row(sequence, IDS[:12], (), "none")])
        handles = handles or attach(engine, truth("gemma3", "dora"))
        (norms,) = attach(engine, truth("gemma3", "norm_save"))  # and once more
        steps = [((handles[0], 1.0),), ((norms, 1.0),), (), ((handles[0], 0.5), (norms, 1.0))]
        found = [
            engine.forward([row(sequence, IDS[12 + n : 13 + n], held, "last")])[0].copy()
            for n, held in enumerate(steps)
        ]
        answers.append(np.array(found))
        engine.close()
    np.testing.assert_array_equal(*answers)


def test_prepared_beside_each_other_and_attached_in_any_order(engines):
    """Each opened what it needs when the other was not there yet."""
    engine = open_engine(truth_base("gemma3"))
    adapters = [truth("gemma3", "dora"), truth("gemma3", "norm_save")]
    prepared = [engine.prepare(adapter) for adapter in adapters]
    handles = [engine.attach(each) for each in prepared]
    for name, handle in zip(("dora", "norm_save"), handles, strict=True):
        known = record("gemma3", name)
        found = logits_of(engine, known["ids1"], ((handle, 1.0),))
        np.testing.assert_allclose(found, known["scale1_1"], rtol=0, atol=1e-4)
    engine.close()


def test_a_wider_graph_that_does_not_open_leaves_the_engine_as_it_was(monkeypatch):
    engine = open_engine(truth_base("llama"))
    (plain,) = attach(engine, truth("llama", "plain"))
    before = logits_of(engine, IDS, ((plain, 1.0),))
    with monkeypatch.context() as broken:
        broken.setattr(graph_cache, "extended", lambda *_: b"no model")
        with pytest.raises(EngineError):
            engine.prepare(truth("llama", "dora"))
    np.testing.assert_array_equal(logits_of(engine, IDS, ((plain, 1.0),)), before)
    attach(engine, truth("llama", "dora"))
    np.testing.assert_array_equal(logits_of(engine, IDS, ((plain, 1.0),)), before)
    engine.close()


@pytest.mark.parametrize("form", ["none", "int8"])
def test_without_a_cache_too(tmp_path, monkeypatch, form):
    """The graph, and the wider one, are then held in memory."""
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "file" / "cache"))
    engine, known = open_engine(truth_base("gemma3"), quantize=form), record("gemma3", "dora")
    plain = logits_of(engine, IDS)
    dora, norms = attach(engine, truth("gemma3", "dora"), truth("gemma3", "norm_save"))
    found = logits_of(engine, known["ids1"], ((dora, 1.0),))
    np.testing.assert_allclose(
        found, known["scale1_1"], rtol=0, atol=1e-4 if form == "none" else 0.3
    )
    assert np.abs(logits_of(engine, IDS, ((norms, 1.0),)) - plain).max() > 1e-2
    np.testing.assert_array_equal(logits_of(engine, IDS), plain)
    engine.close()


def test_peft_recorded_the_same_of_phi3(tmp_path):
    """Its base is there as llama.cpp's converter wrote it."""
    folder = TRUTH / "llama_cpp" / "phi3"
    merge(folder / "base.f32.gguf", [], tmp_path / "base")
    engine = open_engine(tmp_path / "base")
    (handle,) = attach(engine, read_peft(folder))
    with np.load(folder / "logits.npz") as known:
        np.testing.assert_allclose(logits_of(engine, known["ids"]), known["base"], atol=2e-5)
        found = logits_of(engine, known["ids"], ((handle, 1.0),), chunk=7)
        np.testing.assert_allclose(found, known["adapted"], rtol=0, atol=1e-4)
    engine.close()


# What the records lack, against the torch engine, which has PEFT's answers.


def wild(base, seed, *, dora=False, bias=False, modules=None):
    """A random adapter of linears, the head and the embedding."""
    adapter, rng = random_adapter(base, seed, modules=modules), np.random.default_rng(seed)
    if bias:
        deltas = tuple(
            dataclasses.replace(d, bias=rng.standard_normal(d.out_features, np.float32) * 0.1)
            for d in adapter.deltas
        )
        return dataclasses.replace(adapter, deltas=deltas)
    if dora:
        values = [
            np.linalg.norm(base.weight(d.module).astype(np.float32), axis=1)
            * rng.uniform(0.8, 1.3, d.out_features)
            for d in adapter.deltas
        ]
        magnitudes = tuple(
            Magnitude(module=d.module, value=v.astype(np.float32))
            for d, v in zip(adapter.deltas, values, strict=True)
        )
        return dataclasses.replace(adapter, magnitudes=magnitudes)
    return adapter


def replaced(base, *names, rows=None, site=None):
    rng = np.random.default_rng(5)
    at = slice(None) if rows is None else rows
    return Adapter(
        replacements=tuple(
            Replacement(
                name=name,
                value=(
                    base.tensor(name)[at].astype(np.float32) * 1.1
                    + rng.standard_normal(base.tensor(name)[at].shape, np.float32) * 0.05
                ),
                rows=None if rows is None else np.array(rows),
                site=site,
            )
            for name in names
        )
    )


def embedding(base, seed, site, axis):
    decoder, rng = base.decoder, np.random.default_rng(seed)
    (plain,) = random_adapter(base, seed, modules=["lm_head"]).deltas
    delta = dataclasses.replace(
        plain, module=decoder.embedding, a=plain.b.T, b=plain.a.T, site=site
    )
    table = base.tensor(f"{decoder.embedding}.weight").astype(np.float32)
    norm = np.linalg.norm(table, axis=axis)
    value = (norm * rng.uniform(0.8, 1.3, norm.shape)).astype(np.float32)
    return Adapter(deltas=(delta,), magnitudes=(Magnitude(module=decoder.embedding, value=value),))


AT = "model.layers.1"
Q, DOWN = f"{AT}.self_attn.q_proj", f"{AT}.mlp.down_proj"
KINDS = {
    "dora of all, then a plain one": (
        "llama",
        lambda b: [(wild(b, 1, dora=True), 0.7), (wild(b, 2), 0.5)],
    ),
    "a plain one, then dora": (
        "llama",
        lambda b: [(wild(b, 2), 0.5), (wild(b, 1, dora=True), 0.7)],
    ),
    "two dora": (
        "gemma3",
        lambda b: [(wild(b, 1, dora=True), 0.7), (wild(b, 3, dora=True), -0.4)],
    ),
    "a bias of B": ("llama", lambda b: [(wild(b, 4, bias=True), 0.8), (wild(b, 2), 0.5)]),
    "norms of heads and of all": (
        "families/qwen3",
        lambda b: [
            (
                replaced(
                    b,
                    f"{AT}.self_attn.q_norm.weight",
                    f"{AT}.self_attn.k_norm.weight",
                    f"{AT}.post_attention_layernorm.weight",
                    "model.norm.weight",
                ),
                0.3,
            ),
            (wild(b, 1, dora=True), 0.7),
        ],
    ),
    "biases": ("families/qwen2", lambda b: [(replaced(b, f"{Q}.bias"), 1.0), (wild(b, 2), 0.5)]),
    "linears": (
        "gemma3",
        lambda b: [(replaced(b, f"{Q}.weight", f"{DOWN}.weight"), 0.2), (wild(b, 2), 0.5)],
    ),
    "a linear's rows": (
        "llama",
        lambda b: [(replaced(b, f"{DOWN}.weight", rows=[0, 5, 9]), 0.2), (wild(b, 2), 0.5)],
    ),
    "head and embedding": (
        "llama",
        lambda b: [
            (replaced(b, "lm_head.weight", "model.embed_tokens.weight"), 0.2),
            (wild(b, 2), 0.5),
        ],
    ),
    "a tied embedding": ("gemma3", lambda b: [(replaced(b, "model.embed_tokens.weight"), 1.0)]),
    "the head of a tied one": (
        "gemma3",
        lambda b: [(replaced(b, "lm_head.weight", site=Site.OUTPUT), 1.0), (wild(b, 1), 0.5)],
    ),
    "rows at both uses": (
        "gemma3",
        lambda b: [
            (replaced(b, "model.embed_tokens.weight", rows=[int(IDS[3]), 91, 300]), 1.0),
            (wild(b, 1), 0.5),
        ],
    ),
    "dora of a lookup by feature": (
        "gemma3",
        lambda b: [(wild(b, 1), 0.5), (embedding(b, 6, Site.INPUT, 0), 0.6)],
    ),
    "dora of a tied embedding by token": (
        "gemma3",
        lambda b: [(embedding(b, 6, Site.BOTH, 1), 0.6), (wild(b, 1), 0.5)],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_torch_computes_the_same(tmp_path, kind):
    pytest.importorskip("torch", reason="the live oracle needs torch and transformers")
    pytest.importorskip("transformers", reason="the live oracle needs transformers")
    from torch_cases import open_torch

    name, made = KINDS[kind]
    folder = DATA / name if "/" in name else truth_base(name)
    base, answers = Base.open(folder), []
    parts = made(base)
    for adapter, _ in parts:
        require_fit(adapter, base)
    for engine in (open_engine(folder), open_torch(folder)):
        plain = logits_of(engine, IDS)
        handles = attach(engine, *(adapter for adapter, _ in parts))
        held = tuple((h, scale) for h, (_, scale) in zip(handles, parts, strict=True))
        answers.append(logits_of(engine, IDS, held, chunk=10))
        assert np.abs(answers[-1] - plain).max() > 0.02
        engine.close()
    np.testing.assert_allclose(*answers, rtol=2e-5, atol=2e-4)


@pytest.mark.parametrize("order", [("plain", "one"), ("one", "two"), ("two", "plain", "one")])
@pytest.mark.filterwarnings("ignore")  # PEFT warns of adapters beside each other
def test_several_are_what_peft_computes(engines, tmp_path, order):
    peft = pytest.importorskip("peft", reason="the live oracle needs peft")
    torch = pytest.importorskip("torch", reason="the live oracle needs torch")
    from transformers import AutoModelForCausalLM

    base = Base.open(truth_base("llama"))
    linears = [name for name in base.decoder.modules() if "layers" in name]
    made = {
        "plain": wild(base, 1, modules=linears),
        "one": wild(base, 2, dora=True, modules=linears),
        "two": wild(base, 3, dora=True, modules=linears),
    }
    for name, adapter in made.items():
        write_peft(adapter, tmp_path / name)
    model = AutoModelForCausalLM.from_pretrained(
        truth_base("llama"), dtype=torch.float32, attn_implementation="eager"
    )
    model = peft.PeftModel.from_pretrained(model, tmp_path / order[0], order[0]).eval()
    for name in order[1:]:
        model.load_adapter(tmp_path / name, name)
    model.base_model.set_adapter(list(order))
    with torch.no_grad():
        expected = model(torch.from_numpy(IDS)[None]).logits[0].numpy()
    handles = attach(engines("llama"), *(made[name] for name in order))
    found = logits_of(engines("llama"), IDS, tuple((handle, 1.0) for handle in handles))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4)
    other = logits_of(engines("llama"), IDS, tuple((handle, 1.0) for handle in handles[::-1]))
    assert np.abs(other - expected).max() > 1e-2
    for handle in handles:
        engines("llama").detach(handle)


@pytest.mark.parametrize("form", FORMS)
def test_fused_projections_of_phi3(tmp_path, form):
    """q, k and v in one linear, gate and up in another: their parts, and what adapters change."""
    pytest.importorskip("torch", reason="the live oracle needs torch and transformers")
    transformers = pytest.importorskip("transformers", reason="the live oracle needs transformers")
    from torch_cases import open_torch, tiny_base

    config = transformers.Phi3Config(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        sliding_window=9,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    base = Base.open(tiny_base(tmp_path / "phi3", config))
    engine, other = open_engine(base.path, quantize=form), open_torch(base.path)
    limit = {"none": 2e-4, "int8": 0.25, "int4": 2.0}[form]
    plain = logits_of(other, IDS)
    np.testing.assert_allclose(logits_of(engine, IDS, chunk=7), plain, rtol=0, atol=limit)
    for adapter in (wild(base, 1), wild(base, 2, dora=True), wild(base, 3, bias=True)):
        (here,), (there,) = attach(engine, adapter), attach(other, adapter)
        expected = logits_of(other, IDS, ((there, 0.6),))
        assert np.abs(expected - plain).max() > 2 * limit
        found = logits_of(engine, IDS, ((here, 0.6),), chunk=10)
        np.testing.assert_allclose(found, expected, rtol=0, atol=limit)
        engine.detach(here)
    engine.close()
    other.close()


# What does not go together.


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (lambda b: replaced(b, f"{Q}.weight", "model.norm.weight"), "same parameters"),
        (lambda b: wild(b, 1, dora=True), "magnitudes of"),
    ],
)
def test_two_that_contradict_each_other_are_refused(engines, one, message):
    engine, base = engines("llama"), Base.open(truth_base("llama"))
    handles = attach(engine, one(base), replaced(base, f"{Q}.weight"))
    before, sequence = logits_of(engine, IDS), engine.open_sequence()
    held = tuple((handle, 1.0) for handle in handles)
    for sets in (held, held[::-1]):
        with pytest.raises(AdapterError, match=message) as caught:
            engine.forward([row(sequence, IDS, sets)])
        assert caught.value.items == (f"{Q}.weight",)
    assert engine.length(sequence) == 0
    engine.close_sequence(sequence)
    logits_of(engine, IDS, (held[0], (held[1][0], 0.0)))  # one of them is off
    np.testing.assert_array_equal(logits_of(engine, IDS), before)
    for handle in handles:
        engine.detach(handle)


def test_another_scale_costs_no_product(engines, monkeypatch):
    """What a scale needs is known when the adapter is attached."""
    engine = engines("llama")
    (handle,) = attach(engine, truth("llama", "dora"))
    first = logits_of(engine, IDS, ((handle, 1.0),))
    monkeypatch.setattr(Dora, "of_rows", lambda *_: pytest.fail("computed again"))
    writes = []
    monkeypatch.setattr(
        "lorakit.engines.onnx.lora_inputs.composed",
        lambda *given: writes.append(given[0]) or composed(*given),
    )
    assert np.abs(logits_of(engine, IDS, ((handle, 0.5),)) - first).max() > 1e-3
    assert len(writes) == len(set(writes))
    engine.detach(handle)
