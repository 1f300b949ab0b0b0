"""PEFT folders: read what PEFT wrote, write what reads the same, refuse the rest."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from folders import link
from lorakit.adapter import Adapter, Delta, Magnitude, Precondition, Replacement, Site
from lorakit.errors import (
    FormatError,
    ParameterError,
    SourceError,
    UnsupportedError,
    WriteError,
)
from lorakit.formats import read_adapter, sniff
from lorakit.formats.peft import read_peft, write_peft
from lorakit.formats.peft.config import Resolver, parse

TRUTH = Path(__file__).parent.parent / "data/truth/peft"
FOLDERS = sorted(path.parent for path in TRUTH.glob("*/*/adapter_model.safetensors"))
RNG = np.random.default_rng(7)


def delta(module="model.layers.0.self_attn.q_proj", rank=4, n_in=8, n_out=6, scale=2.0, **more):
    a = RNG.standard_normal((rank, n_in), np.float32)
    b = RNG.standard_normal((n_out, rank), np.float32)
    return Delta(module=module, a=a, b=b, scale=scale, **more)


def folder(path, tensors, **config):
    """A PEFT folder written by the safetensors library."""
    from safetensors.numpy import save_file

    path.mkdir(parents=True, exist_ok=True)
    base = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (path / "adapter_config.json").write_text(json.dumps(base | config))
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    save_file(arrays, path / "adapter_model.safetensors")
    return path


def pair(module="base_model.model.model.layers.0.self_attn.q_proj", a="lora_A.weight", rank=4):
    d = delta(rank=rank)
    return {f"{module}.{a}": d.a, f"{module}.{a.replace('A', 'B', 1)}": d.b}


# Reading


@pytest.mark.parametrize(
    ("name", "deltas", "ranks", "scales", "features"),
    [
        ("gemma3/plain", 42, {8}, {2.0}, set()),
        ("gemma3/rslora", 42, {8}, {16 / 8**0.5}, set()),
        ("gemma3/patterns", 42, {4, 8, 16}, {0.5, 1.0, 2.0, 4.0}, set()),
        ("gemma3/layers", 4, {8}, {2.0}, set()),
        ("gemma3/dora", 42, {8}, {2.0}, {"dora"}),
        ("gemma3/norm_save", 12, {8}, {2.0}, {"replacement"}),
        ("gemma3/embed_only", 7, {8}, {2.0}, {"embedding"}),
        ("gemma3/embed_tied", 7, {8}, {2.0}, {"embedding"}),
        ("llama/embed_lmhead", 6, {8}, {2.0}, {"embedding"}),
        ("llama/trainable_tokens", 4, {4}, {2.0}, {"rows"}),
        ("llama/alora", 8, {4}, {2.0}, {"invocation"}),
        ("llama/bf16", 28, {8}, {2.0}, set()),
        ("llama/pissa_converted", 8, {8}, {2.0}, set()),
    ],
)
def test_what_peft_wrote_is_read(name, deltas, ranks, scales, features):
    adapter = read_adapter(TRUTH / name)
    assert len(adapter.deltas) == deltas
    assert {d.rank for d in adapter.deltas} == ranks
    assert {d.scale for d in adapter.deltas} == scales
    assert adapter.features == features
    assert adapter.non_finite() == []
    assert adapter.precondition.name == f"fixtures/{name.split('/')[0]}"
    assert adapter.metadata["format"] == "peft"


def test_the_first_pattern_that_fits_counts():
    by_module = {d.module: d for d in read_peft(TRUTH / "gemma3/patterns").deltas}
    assert by_module["model.layers.0.self_attn.o_proj"].scale == 4 / 8
    assert by_module["model.layers.1.self_attn.o_proj"].scale == 16 / 8
    assert by_module["model.layers.1.mlp.down_proj"].scale == 16 / 16
    assert by_module["model.layers.2.self_attn.q_proj"].scale == 16 / 4
    assert by_module["model.layers.2.self_attn.v_proj"].scale == 32 / 8


def test_arrays_are_mapped_and_read_only():
    for _, array in read_peft(TRUTH / "gemma3/plain").arrays():
        assert not array.flags.owndata
        assert not array.flags.writeable
    assert read_peft(TRUTH / "llama/bf16").deltas[0].a.dtype == ml_dtypes.bfloat16


def test_a_tied_embedding_is_one_delta_on_both_sides():
    tied = [d for d in read_peft(TRUTH / "gemma3/embed_tied").deltas if d.site is not Site.LINEAR]
    alone = [d for d in read_peft(TRUTH / "gemma3/embed_only").deltas if d.site is not Site.LINEAR]
    assert [(d.module, d.site) for d in tied] == [("model.embed_tokens", Site.BOTH)]
    assert [(d.module, d.site) for d in alone] == [("model.embed_tokens", Site.INPUT)]


def test_replaced_rows_keep_their_token_ids(tmp_path):
    rows = read_peft(TRUTH / "llama/trainable_tokens").replacements
    assert [(r.name, r.rows.tolist()) for r in rows] == [("model.embed_tokens.weight", [5, 6, 7])]
    value = np.arange(24, dtype=np.float32).reshape(3, 8)
    name = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
    path = folder(
        tmp_path / "a",
        pair() | {name: value},
        trainable_token_indices={"embed_tokens": [9, 2, 5], "lm_head": [1]},
    )
    (found,) = read_peft(path).replacements
    assert found.rows.tolist() == [2, 5, 9]
    assert (found.value == value[[1, 2, 0]]).all()


@pytest.mark.parametrize(
    ("table", "whole"), [("transformer.wte", True), ("transformer.wpe", False)]
)
def test_a_list_of_tokens_is_of_the_lookup_whatever_it_is_called(tmp_path, table, whole):
    name = f"base_model.model.{table}.token_adapter.trainable_tokens_delta"
    rows = {name: np.ones((2, 8), np.float32)}
    path = folder(tmp_path / "a", pair() | rows, trainable_token_indices=[5, 9])
    if whole:
        adapter = read_peft(path)
        assert [r.rows.tolist() for r in adapter.replacements] == [[5, 9]]
        assert adapter.reading.missing == ()
    else:
        with pytest.raises(FormatError, match="does not agree"):
            read_peft(path)


@pytest.mark.parametrize("prefix", ["base_model.model.", ""])
@pytest.mark.parametrize("a", ["lora_A.weight", "lora_A.default.weight"])
def test_keys_with_and_without_prefix_and_adapter_name(tmp_path, prefix, a):
    path = folder(tmp_path / "a", pair(f"{prefix}model.layers.0.self_attn.q_proj", a))
    assert read_peft(path).modules == ("model.layers.0.self_attn.q_proj",)


def test_saved_modules_are_copies_and_base_layers_are_parameters(tmp_path):
    weight = np.ones((5, 8), np.float32)
    tensors = pair() | {
        "base_model.model.model.embed_tokens.weight": weight,
        "base_model.model.lm_head.base_layer.weight": weight,
        "base_model.model.model.norm.weight": weight[0],
        "base_model.model.model.layers.0.self_attn.q_proj.base_layer.bias": weight[:, 0],
    }
    path = folder(tmp_path / "a", tensors, modules_to_save=["embed_tokens", "norm"], bias="all")
    assert {(r.name, r.site) for r in read_peft(path).replacements} == {
        ("model.embed_tokens.weight", Site.INPUT),  # a tied head keeps its own weight
        ("lm_head.weight", None),
        ("model.norm.weight", None),
        ("model.layers.0.self_attn.q_proj.bias", None),
    }


def test_a_bias_of_b_is_kept_and_one_of_zeros_is_none(tmp_path):
    q, k = (f"base_model.model.model.layers.0.self_attn.{x}_proj" for x in "qk")
    biases = {f"{q}.lora_B.bias": np.ones(6, np.float32), f"{k}.lora_B.bias": np.zeros(6, "f4")}
    path = folder(tmp_path / "a", pair(q) | pair(k) | biases, target_modules=["q_proj", "k_proj"])
    by_module = {d.module.rpartition(".")[2]: d for d in read_peft(path).deltas}
    assert by_module["q_proj"].bias.tolist() == [1] * 6
    assert by_module["k_proj"].bias is None


def test_every_fault_is_listed(tmp_path):
    tensors = pair() | {
        "base_model.model.a.q_proj.lora_A.weight": np.ones((4, 8), np.float32),
        "base_model.model.b.q_proj.lora_A.weight": np.ones((2, 8), np.float32),
        "base_model.model.b.q_proj.lora_B.weight": np.ones((6, 2), np.float32),
        "base_model.model.c.k_proj.lora_A.weight": np.ones((4, 8), np.float32),
        "base_model.model.c.k_proj.lora_B.weight": np.ones((6, 4), np.float32),
        "mystery": np.ones(3, np.float32),
    }
    with pytest.raises(FormatError) as caught:
        read_peft(folder(tmp_path / "a", tensors))
    text = str(caught.value)
    assert len(caught.value.items) == 4
    for named in ("a.q_proj: has lora_A but no lora_B", "b.q_proj", "c.k_proj", "mystery"):
        assert named in text


def test_unknown_fields_are_kept_and_active_ones_refused(tmp_path):
    path = folder(tmp_path / "a", pair(), remark="mine", new_number=3, eva_config=None)
    assert read_peft(path).metadata["peft"]["remark"] == "mine"
    path = folder(
        tmp_path / "b", pair(), use_new_thing=True, use_qalora=True, init_lora_weights="olora"
    )
    with pytest.raises(UnsupportedError) as caught:
        read_peft(path)
    for named in ("use_new_thing", "use_qalora", "olora"):
        assert named in str(caught.value)


@pytest.mark.parametrize("init", [True, False, "gaussian", "eva", "orthogonal", "mica"])
def test_initialisations_that_leave_the_base_alone_are_read(tmp_path, init):
    assert read_peft(folder(tmp_path / "a", pair(), init_lora_weights=init)).max_rank == 4


def test_a_pickle_is_refused_with_the_way_out():
    with pytest.raises(UnsupportedError, match=r"adapter_model\.bin") as caught:
        read_adapter(TRUTH / "llama/pickle_bin")
    assert "safetensors" in caught.value.hint


def test_a_hub_cache_of_links_is_read(tmp_path):
    """Its snapshots are links into the blobs of the same repository."""
    source = TRUTH / "llama/plain"
    blobs, snapshot = tmp_path / "repo/blobs", tmp_path / "repo/snapshots/abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(source / name, blobs / f"hash-{name}")
        link(snapshot / name, Path("../../blobs") / f"hash-{name}")
    assert read_adapter(snapshot) == read_adapter(source)


# Finding the format


def test_the_format_is_found_by_content():
    assert sniff(TRUTH / "llama/plain") == "peft"
    by_file = read_adapter(TRUTH / "llama/plain/adapter_model.safetensors")
    assert by_file == read_adapter(TRUTH / "llama/plain")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.gguf", b"GGUF\x03\0\0\0" + bytes(40), "GGUF"),  # a model, for it says nothing
        ("a.bin", b"PK\x03\x04" + bytes(40), "pickle"),
        ("a.txt", b"hello", "unknown kind"),
        ("adapters.safetensors", b"\x08\0\0\0\0\0\0\0{}      ", "adapter_config.json beside"),
    ],
)
def test_another_kind_of_file_is_named(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnsupportedError, match=said):
        read_adapter(tmp_path / name)


def test_another_kind_of_folder_is_named(tmp_path):
    with pytest.raises(UnsupportedError, match="full model"):
        read_adapter(TRUTH.parent / "bases/llama")
    (tmp_path / "adapters.safetensors").write_bytes(b"")
    with pytest.raises(UnsupportedError, match="MLX"):
        read_adapter(tmp_path)
    with pytest.raises(SourceError, match="no adapter"):
        read_adapter(tmp_path / "absent")


# Names, by PEFT's own rules


MODULES = [
    "lm_head",
    "model.embed_tokens",
    "model.norm",
    "model.layers.0.self_attn.q_proj",
    "model.layers.1.self_attn.k_proj",
    "model.layers.11.self_attn.q_proj",
    "model.layers.1.experts.2.up_proj",
    "layers.1.q_proj",
    "x.h.3.attn.q_proj",
]
SHORT = ["q_proj", "self_attn.q_proj", "up_proj", "lm_head", "embed_tokens", "layers.1.q_proj"]


@settings(max_examples=300, deadline=None)
@given(
    config=st.fixed_dictionaries(
        {
            "target_modules": st.lists(st.sampled_from(SHORT), min_size=1, unique=True)
            | st.sampled_from([r".*\.(q|k)_proj", ".*", "lm_head"])
        },
        optional={
            "exclude_modules": st.lists(st.sampled_from(SHORT), max_size=2)
            | st.sampled_from([".*1.*"]),
            "modules_to_save": st.lists(
                st.sampled_from(["norm", "lm_head", "experts"]), max_size=2
            ),
            "layers_to_transform": st.lists(st.integers(0, 12), max_size=4) | st.integers(0, 3),
            "layers_pattern": st.sampled_from([None, [], "layers", ["h", "layers"], "experts"]),
            "rank_pattern": st.dictionaries(st.sampled_from([*SHORT, ".*1.*"]), st.integers(1, 9)),
        },
    ),
    module=st.sampled_from(MODULES),
)
def test_names_are_taken_as_peft_takes_them(config, module):
    peft = pytest.importorskip("peft", reason="the oracle of this test")
    tuners = pytest.importorskip("peft.tuners.tuners_utils", reason="the oracle of this test")
    other = pytest.importorskip("peft.utils.other", reason="the oracle of this test")
    if isinstance(config["target_modules"], str) or not config.get("layers_to_transform"):
        config = {k: v for k, v in config.items() if not k.startswith("layers_")}
    theirs = peft.LoraConfig(r=5, **config)
    ours = Resolver(parse({"r": 5, **config}, where="here"))
    found = tuners.check_target_module_exists(theirs, module)
    assert ours.targeted(module) == (bool(found) and not isinstance(found, tuners._ExcludedModule))
    key = other.get_pattern_key(theirs.rank_pattern.keys(), module)
    assert ours.rank(module) == theirs.rank_pattern.get(key, 5)


# Writing


@pytest.mark.parametrize("path", FOLDERS, ids=lambda path: "/".join(path.parts[-2:]))
def test_what_was_read_is_written_the_same(path, tmp_path):
    adapter = read_peft(path)
    write_peft(adapter, tmp_path / "once")
    again = read_peft(tmp_path / "once")
    assert again == adapter
    assert again.precondition == adapter.precondition
    write_peft(again, tmp_path / "twice")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "twice" / name).read_bytes()


names = st.sampled_from(
    [
        "model.layers.0.self_attn.q_proj",
        "layers.0.self_attn.q_proj",
        "self_attn.q_proj",
        "model.layers.1.mlp.up_proj",
        "model.layers.11.mlp.up_proj",
        "model.layers.1.mlp_up_proj",
        "a-b.c_d",
        "a+b.c(d)",
        "x",
    ]
)
dtypes = st.sampled_from([np.dtype("f2"), np.dtype("f4"), np.dtype(ml_dtypes.bfloat16)])
scales = st.floats(-1e4, 1e4, allow_subnormal=False) | st.sampled_from([0.0, 1.0, 16 / 3**0.5])


def values(draw, shape):
    seed = draw(st.integers(0, 2**16))
    return np.random.default_rng(seed).standard_normal(shape).astype(draw(dtypes))


@st.composite
def adapters(draw):
    """Adapters that PEFT can express."""
    dora = draw(st.booleans())
    invocation = () if dora else tuple(draw(st.lists(st.integers(0, 500), max_size=3)))
    modules = draw(st.lists(names, min_size=1, max_size=5, unique=True))
    deltas = [
        Delta(
            module=module,
            a=values(draw, (rank := draw(st.integers(1, 7)), 8)),
            b=values(draw, (6, rank)),
            scale=draw(scales),
            bias=values(draw, (6,))
            if not dora and not invocation and draw(st.booleans())
            else None,
            alpha=draw(st.none() | st.integers(1, 64).map(float)),
        )
        for module in modules
    ]
    site = draw(st.sampled_from([None, Site.INPUT, *([] if dora else [Site.BOTH])]))
    if site and not invocation:
        table = Delta(
            module="model.embed_tokens",
            a=values(draw, (3, 20)),
            b=values(draw, (8, 3)),
            scale=draw(scales),
            site=site,
        )
        deltas.append(table)
    replacements = []
    if draw(st.booleans()):
        replacements.append(Replacement(name="model.norm.weight", value=values(draw, (8,))))
    if draw(st.booleans()):
        name = f"{modules[0]}.{draw(st.sampled_from(['weight', 'bias']))}"
        replacements.append(Replacement(name=name, value=values(draw, (6,))))
    if draw(st.booleans()) and len(deltas) == len(modules):
        rows = np.array(sorted(draw(st.sets(st.integers(0, 19), min_size=1))))
        value = values(draw, (len(rows), 8))
        replacements.append(Replacement(name="model.embed_tokens.weight", value=value, rows=rows))
    elif draw(st.booleans()) and len(deltas) == len(modules):
        site = draw(st.sampled_from([None, Site.INPUT]))
        value = values(draw, (20, 8))
        replacements.append(Replacement(name="model.embed_tokens.weight", value=value, site=site))
    return Adapter(
        deltas=tuple(deltas),
        replacements=tuple(replacements),
        magnitudes=tuple(
            Magnitude(module=d.module, value=values(draw, (len(d.b),))) for d in deltas if dora
        ),
        invocation_tokens=invocation,
        precondition=Precondition(name=draw(st.none() | st.just("org/base"))),
    )


@settings(max_examples=250, deadline=None)
@given(adapters())
def test_reading_what_was_written_gives_it_back(adapter):
    with tempfile.TemporaryDirectory() as temporary:
        write_peft(adapter, Path(temporary) / "a")
        again = read_peft(Path(temporary) / "a")
        assert again == adapter
        assert again.precondition == adapter.precondition
        assert {d.a.dtype for d in again.deltas} == {d.a.dtype for d in adapter.deltas}


def test_what_peft_cannot_say_is_listed_all_at_once(tmp_path):
    experts = Delta(
        module="mlp.experts", a=np.ones((2, 4, 8), "f4"), b=np.ones((2, 6, 4), "f4"), scale=1
    )
    adapter = Adapter(
        deltas=(
            experts,
            delta("model.embed_tokens", site=Site.INPUT),
            delta("a.q_proj", bias=np.ones(6, np.float32)),
            delta("out", site=Site.OUTPUT),
        ),
        replacements=(
            Replacement(
                name="model.embed_tokens.weight",
                value=np.ones((1, 8), "f4"),
                rows=np.array([3]),
            ),
            Replacement(name="model.rotary.inv_freq", value=np.ones(4, "f4")),
        ),
        magnitudes=(Magnitude(module="b.q_proj", value=np.ones(6, "f4")),),
        invocation_tokens=(1, 2),
    )
    with pytest.raises(UnsupportedError) as caught:
        write_peft(adapter, tmp_path / "a")
    text = str(caught.value)
    for named in ("experts", "rows", "inv_freq", "b.q_proj", "bias of B", "invoc"):
        assert named in text
    assert "merge" in caught.value.hint
    assert not (tmp_path / "a").exists()


def test_replacements_alone_cannot_be_written(tmp_path):
    adapter = Adapter(replacements=(Replacement(name="model.norm.weight", value=np.ones(4, "f4")),))
    with pytest.raises(UnsupportedError, match="at least one LoRA layer"):
        write_peft(adapter, tmp_path / "a")


def test_a_name_that_collides_with_pefts_own_is_refused(tmp_path):
    odd = Replacement(name="x.lora_B.bias", value=np.ones(6, "f4"))
    with pytest.raises((UnsupportedError, FormatError), match=r"x"):
        write_peft(Adapter(deltas=(delta(),), replacements=(odd,)), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_another_dtype_is_the_callers_word(tmp_path):
    adapter = Adapter(deltas=(delta(),))
    write_peft(adapter, tmp_path / "a", dtype=ml_dtypes.bfloat16)
    (found,) = read_peft(tmp_path / "a").deltas
    assert found.a.dtype == ml_dtypes.bfloat16
    assert (found.a == adapter.deltas[0].a.astype(ml_dtypes.bfloat16)).all()
    large = Delta(module="q_proj", a=np.full((1, 2), 1e6, "f4"), b=np.ones((2, 1), "f4"), scale=1)
    with pytest.raises(FormatError, match=r"q_proj\.A"):
        write_peft(Adapter(deltas=(large,)), tmp_path / "b", dtype=np.float16)
    assert not (tmp_path / "b").exists()


def test_a_folder_in_use_is_replaced_only_when_asked(tmp_path):
    one, two = Adapter(deltas=(delta(scale=1),)), Adapter(deltas=(delta(scale=2),))
    target = tmp_path / "a"
    write_peft(one, target)
    with pytest.raises(ParameterError, match="not empty"):
        write_peft(two, target)
    assert read_peft(target) == one
    kept = read_peft(target)  # mapped from the files that are about to be replaced
    write_peft(two, target, replace=True)
    assert read_peft(target) == two
    assert (kept.deltas[0].a == one.deltas[0].a).all()
    (target / "notes.txt").write_text("mine")
    with pytest.raises(ParameterError, match=r"(?s)notes\.txt"):
        write_peft(one, target, replace=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match="No space left"):
        write_peft(Adapter(deltas=(delta(),)), tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_the_fingerprint_of_the_base_is_kept(tmp_path):
    asked = Precondition(name="org/base", fingerprint="ab" * 32)
    write_peft(Adapter(deltas=(delta(),), precondition=asked), tmp_path / "a")
    assert read_peft(tmp_path / "a").precondition == asked
