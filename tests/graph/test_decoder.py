"""What a built graph looks like from outside: its inputs and outputs, and where its weights are."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file

from lorakit.base.folder import Base
from lorakit.graph import HEAD, VERSION, FileStore, GraphOptions, MemoryStore, build, targets
from lorakit.graph.even import Seen
from lorakit.graph.quantize import EVEN as EVENED
from lorakit.graph.quantize import FORMS, unseen
from lorakit.graph.weights import ALIGNMENT, WEIGHTS_FILE
from lorakit.graph.writer import Writer

DATA = Path(__file__).parents[1] / "data"
BASES = DATA / "truth" / "bases"
GRAPHS = {  # of VERSION 9
    "gemma3": "be680ac5f4f84203",
    "llama": "ef679c40724a743a",
    "gemma3_softcap": "63c880aa2e70b277",
    "llama3_rope": "37a0b4c3dbba885c",
    "llama_linear_rope": "70f390f6d246be7a",
    "mistral_window": "446a9d412a840d67",
    "qwen2": "b6debf7ca953391a",
    "qwen3": "9749b11361b0f5f4",
}
EXCLUSIVE = {  # where a window does not count the token itself; the other bases have none
    "gemma3": "f2ec19400bd5864c",
    "gemma3_softcap": "c728cacc75c3a005",
    "mistral_window": "f953354bc3756a67",
}
EVEN = {"gemma3": "3cfb34f4b5ea1e0a", "llama": "56c41d0a313eeba3"}  # with rows that are made even


@pytest.fixture(params=["gemma3", "llama"])
def base(request):
    return Base.open(BASES / request.param)


def test_inputs_and_outputs(base):
    graph = onnx.load_from_string(build(base, GraphOptions(), MemoryStore())).graph
    layers = range(len(base.decoder.layers))
    cache = {f"{index}.{part}" for index in layers for part in ("key", "value")}
    lora = {name for target in targets(base.decoder).values() for name in (target.a, target.b)}
    assert {i.name for i in graph.input} == {
        *("hidden", "lengths", "total", "keep", "heads"),
        *(f"past.{name}" for name in cache),
        *lora,
    }
    assert {o.name for o in graph.output} == {
        *("logits", "final"),
        *(f"present.{name}" for name in cache),
    }
    assert len(lora) == 2 * 7 * len(base.decoder.layers)
    assert not any(name.startswith(HEAD) for name in lora)


def test_weights_are_in_one_aligned_file_and_once(base, tmp_path):
    store = FileStore(tmp_path)
    model = onnx.load_from_string(build(base, GraphOptions(context=16), store))
    store.close()
    external = [t for t in model.graph.initializer if t.external_data]
    places = {t.name: {e.key: e.value for e in t.external_data} for t in external}
    assert {place["location"] for place in places.values()} == {WEIGHTS_FILE}
    assert all(int(place["offset"]) % ALIGNMENT == 0 for place in places.values())
    length = sum(int(place["length"]) for place in places.values())
    linears = [s for s in base.decoder.modules().values() if not s.embedding]
    expected = sum(4 * s.in_features * s.out_features for s in linears)  # the head is one of them
    assert expected <= length < 1.1 * expected
    first = places["lm_head.weight"]
    raw = (tmp_path / WEIGHTS_FILE).read_bytes()[int(first["offset"]) :][: int(first["length"])]
    stored = np.frombuffer(raw, np.float32).reshape(base.decoder.hidden, -1)
    np.testing.assert_array_equal(stored.T, base.tensor("lm_head.weight"))


def test_building_twice_gives_the_same_bytes(base, tmp_path):
    models = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        store = FileStore(tmp_path / name)
        models.append(build(base, GraphOptions(linear="rowwise8", head="rowwise8"), store))
        store.close()
    assert models[0] == models[1]
    one, two = ((tmp_path / name / WEIGHTS_FILE).read_bytes() for name in ("one", "two"))
    assert one == two


def digest(folder, window="inclusive", forms=FORMS, sight=unseen):
    """Of a base's graphs in all forms, and of their weights but RoPE's: sines vary with the CPU."""
    found, base = hashlib.sha256(), Base.open(folder)
    for form in forms:
        store, options = MemoryStore(), {"linear": form, "head": form, "window": window}
        found.update(build(base, GraphOptions(context=256, **options), store, sight))
        for name, array in store.arrays.items():
            found.update(b"" if name.startswith("rope.") else array.tobytes())
    return found.hexdigest()[:16]


def folder_of(name):
    return (BASES if (BASES / name).exists() else DATA / "families") / name


@pytest.mark.parametrize("name", GRAPHS)
def test_a_version_stands_for_its_graphs(name):
    """Where this fails the cached graphs of users no longer fit: raise VERSION, record anew."""
    assert (VERSION, digest(folder_of(name))) == (9, GRAPHS[name])


class Powers:
    """Divisors of any input of a base, all powers of two: no CPU rounds those otherwise."""

    def __init__(self, name):
        self.shapes = Base.open(folder_of(name)).decoder.modules()

    def __call__(self, name):
        linear = {"gated": "mlp.down_proj", "attention": "self_attn.o_proj"}.get(
            name.split(".")[-1]
        )
        width = self.shapes[f"model.layers.0.{linear}" if linear else HEAD].in_features
        return Seen(np.exp2(np.arange(width) % 5 - 2).astype(np.float32))


@pytest.mark.parametrize("name", EVEN)
def test_a_version_stands_for_graphs_that_make_rows_even(name):
    forms = tuple(form for form in FORMS if form in EVENED)
    assert (VERSION, digest(folder_of(name), forms=forms, sight=Powers(name))) == (9, EVEN[name])


@pytest.mark.parametrize("name", ["gemma3", "llama"])
def test_a_text_changes_no_form_that_does_not_make_rows_even(name):
    forms = tuple(form for form in FORMS if form not in EVENED)
    before, after = (digest(folder_of(name), forms=forms, sight=s) for s in (unseen, Powers(name)))
    assert before == after


@pytest.mark.parametrize("name", GRAPHS)
def test_an_exclusive_window_has_a_graph_of_its_own(name):
    assert digest(folder_of(name), "exclusive") == EXCLUSIVE.get(name, GRAPHS[name])


def test_an_exclusive_window_is_one_smaller_and_nothing_else():
    nodes = {
        window: onnx.load_from_string(
            build(Base.open(folder_of("gemma3")), GraphOptions(window=window), MemoryStore())
        ).graph.node
        for window in ("inclusive", "exclusive")
    }
    sizes = []
    for one, other in zip(nodes["inclusive"], nodes["exclusive"], strict=True):
        for mine, its in zip(one.attribute, other.attribute, strict=True):
            if mine.name == "local_window_size":
                sizes.append((mine.i, its.i))
                its.i = mine.i
        assert one == other
    assert sizes == [(16, 15)] * 5 + [(-1, -1)]


def test_one_other_node_is_seen(monkeypatch):
    node = Writer.node
    monkeypatch.setattr(
        Writer,
        "node",
        lambda self, op, *given, **more: node(
            self, "Gelu" if op == "FastGelu" else op, *given, **more
        ),
    )
    assert digest(folder_of("gemma3")) != GRAPHS["gemma3"]


def test_a_bare_model_keeps_its_biases(tmp_path):
    """A checkpoint without a head leaves `model.` out of its names."""
    folder = DATA / "families" / "qwen2"
    whole = load_file(folder / "model.safetensors")
    whole.pop(f"{HEAD}.weight", None)
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": True}
    models = []
    for name, cut in (("whole", ""), ("bare", "model.")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        tensors = {key.removeprefix(cut): array for key, array in whole.items()}
        save_file(tensors, tmp_path / name / "model.safetensors")
        models.append(build(Base.open(tmp_path / name), GraphOptions(), MemoryStore()))
    assert b"q_proj.biased" in models[0]
    assert models[0] == models[1]
