"""A base folder: opened lazily, checked against its config, refused by name when it is broken."""

import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from folders import DATA
from lorakit.base.folder import Base
from lorakit.errors import BaseModelError, FormatError, LorakitError, SourceError
from lorakit.files.safetensors import open_safetensors, write_safetensors

TRUTH = Path(__file__).parents[1] / "data/truth/bases"


@pytest.fixture
def copy(tmp_path):
    """A copy of the llama base that a test may damage."""
    return Path(shutil.copytree(TRUTH / "llama", tmp_path / "llama"))


def save(path, tensors):
    with path.open("wb") as file:
        write_safetensors(file, tensors, {})


def shard(folder):
    """Turn model.safetensors into two shards with an index."""
    tensors = open_safetensors(folder / "model.safetensors").tensors
    tensors = {name: np.array(array) for name, array in tensors.items()}
    names = sorted(tensors)
    index = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save(folder / file, {name: tensors[name] for name in part})
        index |= dict.fromkeys(part, file)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return index


def edit(folder, **change):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


@pytest.mark.parametrize(("name", "tied"), [("gemma3", True), ("llama", False)])
def test_a_base_is_opened_lazily(name, tied):
    base = Base.open(TRUTH / name)
    assert base.name == name
    assert base.decoder.tied == tied
    assert set(base.tensors) == set(base.decoder.parameters())
    for tensor in base.tensors.values():
        assert not tensor.flags.owndata
        assert not tensor.flags.writeable
    head = base.tensor("lm_head.weight")
    assert (head is base.tensors["model.embed_tokens.weight"]) == tied
    assert base.nbytes == sum(tensor.nbytes for tensor in base.tensors.values())


FAMILIES = Path(__file__).parents[1] / "data/families"


def rewritten(folder, to, change):
    """A copy of a base whose tensors went through `change`."""
    shutil.copytree(folder, to)
    tensors = open_safetensors(folder / "model.safetensors").tensors
    (to / "model.safetensors").unlink()
    save(to / "model.safetensors", change({n: np.array(t) for n, t in tensors.items()}))
    return Base.open(to)


def fused_experts(tensors):
    """As the model class of transformers 5 keeps experts."""
    kept = {name: array for name, array in tensors.items() if ".experts." not in name}
    for layer in (0, 2):
        at = f"model.layers.{layer}.mlp.experts"
        gate, up, down = (
            np.stack([tensors[f"{at}.{expert}.{part}_proj.weight"] for expert in range(4)])
            for part in ("gate", "up", "down")
        )
        kept |= {f"{at}.gate_up_proj": np.concatenate([gate, up], 1), f"{at}.down_proj": down}
    return kept


def bare(tensors):
    """As the first GPT-2 checkpoints are: no prefix, and the attention masks beside the weights."""
    masks = {"h.0.attn.bias": np.ones((1, 1, 8, 8), np.float32)}
    masks["h.0.attn.masked_bias"] = np.array(-1e4, np.float32)
    return masks | {name.removeprefix("transformer."): array for name, array in tensors.items()}


def test_experts_are_read_in_both_spellings(tmp_path):
    single = Base.open(FAMILIES / "qwen3_moe")
    fused = rewritten(FAMILIES / "qwen3_moe", tmp_path / "fused", fused_experts)
    for module, shape in single.decoder.modules().items():
        assert np.array_equal(single.weight(module), fused.weight(module))
        assert np.shares_memory(fused.weight(module), fused.tensors[fused.stored(module)[0].name])
        if shape.experts is None:
            continue
        assert single.weight(module).shape == (4, shape.out_features, shape.in_features)
        assert len(single.stored(module)) == 4
        for index, (one, other) in enumerate(
            zip(single.experts(module), fused.experts(module), strict=True)
        ):
            assert np.array_equal(one, other)
            part = single.stored(module)[index]
            assert part.expert == index
            assert np.shares_memory(one, single.tensors[part.name])
    up = fused.stored("model.layers.2.mlp.experts.up_proj")
    assert [(part.name, part.rows) for part in up] == [
        ("model.layers.2.mlp.experts.gate_up_proj", (24, 48))
    ]
    for name, shape in single.decoder.parameters().items():
        assert name in single
        assert single.tensor(name).shape == shape
        assert np.array_equal(single.tensor(name), fused.tensor(name))
    with pytest.raises(KeyError):
        single.tensor("model.layers.1.mlp.experts.gate_up_proj")  # a dense layer


@pytest.mark.parametrize("change", [dict, bare], ids=["prefixed", "bare"])
def test_a_conv1d_is_read_as_a_linear(tmp_path, change):
    base = rewritten(FAMILIES / "gpt2", tmp_path / "gpt2", change)
    names = base.decoder.modules()
    assert base.decoder.embedding == "transformer.wte"
    for module, shape in names.items():
        weight, (part,) = base.weight(module), base.stored(module)
        assert weight.shape == (shape.out_features, shape.in_features)
        assert part.transposed == (module != "lm_head")
        assert np.shares_memory(weight, base.tensors[part.name])
        assert part.name.startswith("transformer.") == (change is dict)
    wte = base.tensor("transformer.wte.weight")
    assert base.tensor("lm_head.weight") is wte
    assert np.array_equal(base.weight("transformer.wte"), wte.T)
    assert base.tensor("transformer.h.1.mlp.c_fc.bias").shape == (128,)
    assert "transformer.h.1.ln_2.bias" in base
    assert "transformer.h.0.attn.masked_bias" not in base


def test_what_experts_lack_is_listed_in_the_spelling_of_the_file(tmp_path):
    def without_some(tensors):
        for name in list(tensors):
            if ".experts.2." in name:
                del tensors[name]
        return tensors

    with pytest.raises(BaseModelError) as caught:
        rewritten(FAMILIES / "qwen3_moe", tmp_path / "a", without_some)
    assert "model.layers.0.mlp.experts.2.up_proj.weight: missing, expected [24, 32]" in (
        caught.value.items
    )
    assert len(caught.value.items) == 6

    def narrow(tensors):
        tensors = fused_experts(tensors)
        tensors["model.layers.2.mlp.experts.down_proj"] = np.ones((3, 32, 24), np.float32)
        return tensors

    with pytest.raises(BaseModelError) as caught:
        rewritten(FAMILIES / "qwen3_moe", tmp_path / "b", narrow)
    assert caught.value.items == (
        "model.layers.2.mlp.experts.down_proj: expected [4, 32, 24], found [3, 32, 24]",
    )


def test_shards_are_one_base(copy):
    whole = Base.open(TRUTH / "llama")
    shard(copy)
    base = Base.open(copy)
    assert len(base.files) == 2
    for name, tensor in whole.tensors.items():
        assert (base.tensors[name] == tensor).all()


def test_bfloat16_weights_are_read(copy):
    tensors = open_safetensors(copy / "model.safetensors").tensors
    half = {name: np.asarray(array).astype(ml_dtypes.bfloat16) for name, array in tensors.items()}
    (copy / "model.safetensors").unlink()
    save(copy / "model.safetensors", half)
    assert Base.open(copy).tensor("model.norm.weight").dtype == ml_dtypes.bfloat16


def test_the_fingerprint_is_of_content(copy, monkeypatch):
    one = Base.open(TRUTH / "llama")
    assert one.fingerprint == Base.open(copy).fingerprint  # elsewhere, the same
    monkeypatch.setattr("hashlib.file_digest", None)
    assert one.fingerprint == Base.open(TRUTH / "llama").fingerprint  # remembered, not read again
    monkeypatch.undo()
    edit(copy, rope_theta=1.0)
    assert one.fingerprint != Base.open(copy).fingerprint
    shutil.copy(TRUTH / "llama/config.json", copy)
    tensors = open_safetensors(copy / "model.safetensors").tensors
    other = {name: np.array(array) for name, array in tensors.items()}
    other["model.norm.weight"][0] += 1
    (copy / "model.safetensors").unlink()
    save(copy / "model.safetensors", other)
    assert one.fingerprint != Base.open(copy).fingerprint


def test_all_faults_of_the_weights_are_listed(copy):
    tensors = open_safetensors(copy / "model.safetensors").tensors
    kept = {name: np.array(array) for name, array in tensors.items() if "layers.3" not in name}
    kept["model.norm.weight"] = np.ones(3, np.float32)
    (copy / "model.safetensors").unlink()
    save(copy / "model.safetensors", kept)
    with pytest.raises(BaseModelError) as caught:
        Base.open(copy)
    assert "model.norm.weight: expected [64], found [3]" in caught.value.items
    assert "model.layers.3.mlp.up_proj.weight: missing, expected [128, 64]" in caught.value.items
    assert len(caught.value.items) == 10


def empty(folder):
    for file in folder.iterdir():
        file.unlink()


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def truncated(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def shard_missing(folder):
    (folder / shard(folder)["model.norm.weight"]).unlink()


def shard_elsewhere(folder):
    shard(folder)
    index = {"weight_map": {"model.norm.weight": "../other.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def index_broken(folder):
    shard(folder)
    (folder / "model.safetensors.index.json").write_text("[]")


def index_of_other_things(folder):
    shard(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": ["b"]}}')


def config_missing(folder):
    (folder / "config.json").unlink()


def config_not_json(folder):
    (folder / "config.json").write_bytes(b"\xff{")


def config_nested(folder):
    (folder / "config.json").write_text("[" * 100_000)


def config_huge(folder):
    with (folder / "config.json").open("wb") as file:
        file.truncate(1 << 30)


def unknown_architecture(folder):
    edit(folder, model_type="mamba")


def other_config(folder):
    shutil.copy(TRUTH / "gemma3/config.json", folder)


@pytest.mark.parametrize(
    ("damage", "kind", "code", "said"),
    [
        (empty, SourceError, "source_not_found", "config.json"),
        (no_weights, SourceError, "source_not_found", "model.safetensors"),
        (truncated, FormatError, "format_invalid", "model.safetensors"),
        (shard_missing, SourceError, "source_not_found", "of-00002"),
        (shard_elsewhere, BaseModelError, "base_invalid", "../other.safetensors"),
        (index_broken, BaseModelError, "base_invalid", "index.json"),
        (index_of_other_things, LorakitError, None, "['b']"),
        (config_missing, SourceError, "source_not_found", "config.json"),
        (config_not_json, BaseModelError, "base_invalid", "JSON"),
        (config_nested, BaseModelError, "base_invalid", "JSON"),
        (config_huge, BaseModelError, "base_invalid", "larger"),
        (unknown_architecture, BaseModelError, "architecture_unknown", "mamba"),
        (other_config, BaseModelError, "base_invalid", "of another model"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_folder_is_refused_by_name(copy, damage, kind, code, said):
    damage(copy)
    with pytest.raises(kind) as caught:
        Base.open(copy)
    assert said in str(caught.value)
    assert code in (None, caught.value.code)


def test_no_folder_at_all(tmp_path):
    with pytest.raises(SourceError, match="no base model at"):
        Base.open(tmp_path / "absent")


def test_an_adapter_is_no_base_and_is_called_one(tmp_path):
    with pytest.raises(SourceError, match="is an adapter, not a base") as caught:
        Base.open(DATA / "truth/peft/llama/plain")
    assert "open the base" in caught.value.hint
    both = shutil.copytree(DATA / "truth/bases/llama", tmp_path / "both")
    shutil.copy(DATA / "truth/peft/llama/plain/adapter_config.json", both)
    assert Base.open(both).decoder.vocabulary == 512  # a base that an adapter was saved beside


def test_a_folder_of_gguf_files_names_those_that_can_be_opened(tmp_path):
    for name in ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "m-Q8_0.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(SourceError, match="a folder of GGUF files") as caught:
        Base.open(tmp_path)
    assert caught.value.items == ("m-00001-of-00002.gguf", "m-Q8_0.gguf")
    assert str(tmp_path / "m-00001-of-00002.gguf") in caught.value.hint
